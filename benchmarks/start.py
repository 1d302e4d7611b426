"""Time until the command line answers: ``python -m benchmarks.start [--rounds 11]``.

Each command is started again and again, in turn with the others, so that a busy moment of the machine meets all of them alike. Beside them
stand a Python that does nothing and MLflow's own command line.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from bccp.core.paths import ROOT

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "bccp --help": ["-m", "bccp", "--help"],
    "bccp run --help": ["-m", "bccp", "run", "--help"],
    "bccp gc --help": ["-m", "bccp", "gc", "--help"],
    "bccp config train": ["-m", "bccp", "config", "train"],
    "python main.py --help": ["main.py", "--help"],
    "mlflow --version": ["-m", "mlflow", "--version"],
}


def seconds(command: Sequence[str], home: str) -> float:
    """Wall-clock seconds of one start."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "BCCP_HOME": home}
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main(words: Sequence[str] | None = None) -> None:
    """Print a table: the median, the fastest and the slowest start of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="starts of each command; one more, which warms the disk, does not count")
    rounds = parser.parse_args(words).rounds
    measured: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as home:
        for number in range(rounds + 1):
            for name, command in COMMANDS.items():
                spent = seconds(command, home)
                measured[name] += [spent] if number else []
    width = max(map(len, COMMANDS))
    print(f"{'':<{width}}  median s  fastest  slowest")
    for name, found in measured.items():
        print(f"{name:<{width}}  {statistics.median(found):8.3f}  {min(found):7.3f}  {max(found):7.3f}")


if __name__ == "__main__":
    main()
