"""Servers as process trees: started, waited for, measured and ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
START_SECONDS = 180.0


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(address: str, data: bytes | None = None, headers: Mapping[str, str] | None = None, timeout: float = 30) -> tuple[int, bytes]:
    """Status and body of one request; status 0 where nothing answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, dict(headers or {})), timeout=timeout) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except OSError:
        return 0, b""


@dataclass
class Server:
    """A server that runs, with all processes below it.

    Attributes
    ----------
    name : str
    process : Popen
        The leader of a process group.
    port : int
    log : Path
        All that it printed.
    started : float
        By ``time.monotonic``.
    """

    name: str
    process: subprocess.Popen[bytes]
    port: int
    log: Path
    started: float

    @property
    def address(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"

    def wait(self, path: str, data: bytes | None = None, headers: Mapping[str, str] | None = None, *, every: float = 0.01) -> float:
        """Seconds from the start until a path answers 200."""
        while time.monotonic() < self.started + START_SECONDS:
            if answers(self.address + path, data, headers)[0] == 200:
                return time.monotonic() - self.started
            if self.process.poll() is not None:
                break
            time.sleep(every)
        raise RuntimeError(f"{self.name} does not answer {path}: {self.log.read_text(encoding='utf-8', errors='replace')[-2000:]}")

    def pids(self) -> list[int]:
        """The process and all below it."""
        children: defaultdict[int, list[int]] = defaultdict(list)
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with suppress(OSError, IndexError):
                    children[int(_stat(int(folder.name))[1])].append(int(folder.name))
        found = [self.process.pid]
        for pid in found:
            found += children[pid]
        return found

    def cpu_seconds(self) -> float:
        """CPU seconds of the whole tree so far, those of its ended processes too."""
        total = 0
        for pid in self.pids():
            with suppress(OSError, IndexError):
                total += sum(int(value) for value in _stat(pid)[11:15])
        return total / TICKS

    def resident(self) -> int:
        """Resident bytes of the whole tree; what processes share counts once (proportional set size)."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                    total += 1024 * int(line.split()[1]) if line.startswith("Pss:") else 0
        return total

    def kill(self) -> None:
        """End all its processes at once, without a chance to clean up."""
        pids = self.pids() if self.process.poll() is None else []
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in pids[1:]:  # some have groups of their own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ask it to end, and end what is left after 20 seconds: its exit status."""
        pids = self.pids() if self.process.poll() is None else []
        with suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(20)
        for pid in pids if self.process.poll() is None else pids[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self.process.wait()


@contextmanager
def started(
    name: str, command: Sequence[str], *, port: int, environment: Mapping[str, str], folder: Path, cwd: Path | None = None
) -> Iterator[Server]:
    """A server in a process group of its own, which ends with the block; its output goes to a file in ``folder``."""
    log = folder / f"{name.replace(' ', '-')}-{port}.log"
    with log.open("wb") as output:
        server = Server(
            name,
            subprocess.Popen(command, stdout=output, stderr=output, env=dict(environment), cwd=cwd or folder, start_new_session=True),
            port,
            log,
            time.monotonic(),
        )
    try:
        yield server
    finally:
        server.stop()


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/<pid>/stat`` from the state on."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
