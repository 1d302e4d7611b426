"""`bccp serve` as a process of its own."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bccp.core.home import PLACES
from bccp.core.paths import ROOT
from support.serving import Caller

REVIEW = "review-token-of-the-test"
"""The token of reviewers; anybody predicts and votes."""


@dataclass
class Served(Caller):
    """A process that answers at an address.

    Attributes
    ----------
    process : Popen
    log : Path
        All that it printed.
    """

    process: subprocess.Popen[bytes]
    log: Path

    @contextmanager
    def limited(self, what: int, most: int) -> Iterator[None]:
        """A limit of ``resource`` for the process, for the block."""
        before = resource.prlimit(self.process.pid, what)
        resource.prlimit(self.process.pid, what, (most, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.process.pid, what, before)

    def forget_peak(self) -> None:
        """Have :meth:`peak_bytes` begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_bytes(self) -> int:
        """The most memory that the process has had."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@contextmanager
def serving(home: Path, model: Path, *overrides: str, port: int = 0) -> Iterator[Served]:
    """A service with a home of its own, from the moment at which it answers; it is killed in the end.

    Parameters
    ----------
    home : Path
        Of the store, and of what the process prints (``serve.log``).
    model : Path
        A folder.
    *overrides : str
        Of the sections serve and store.
    port : int
        0: any.
    """
    environment = {**os.environ, **{name: str(home / place) for name, place in PLACES.items()}}
    environment |= {"BCCP_HOME": str(home), "BCCP_REVIEW_TOKEN": REVIEW, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bccp", "serve", f"serve.model={model}", f"serve.port={port}", *overrides]
    log = home / "serve.log"
    with (
        log.open("ab") as errors,
        subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            assert " answers by " in line, log.read_text()
            yield Served(line.split()[0], process, log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
