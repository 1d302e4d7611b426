"""A stand-in for the command `uv`: what it calls an environment has this one's packages, and costs nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOL = """#!/bin/sh
echo "$1" >> {log}
case "$1" in
venv)  # DIR --python=3.11.7: this process's packages, and a sys.prefix of its own
    mkdir -p "$2/bin" "$2/lib/python3.11/site-packages"
    ln -s {python} "$2/bin/python"
    printf 'home = %s\\nuv = 0\\n' {home} > "$2/pyvenv.cfg"
    echo {packages} > "$2/lib/python3.11/site-packages/these.pth"
    echo "export PATH=$2/bin:\\$PATH" > "$2/bin/activate" ;;
pip)  # install -r FILE
    for turn in $(seq 1200); do [ -e {hold} ] && sleep 0.05; done
    grep -q impossible "$4" && exit 1
    cp "$4" "$(dirname "$(command -v python)")/installed"
    echo end >> {log} ;;
esac
"""


class Tool:
    """What the stand-in was asked for, and a file that holds it up while it exists, for a minute at most."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.hold = folder / "tools", folder / "asked.txt", folder / "hold"
        self.folder.mkdir()
        self.log.touch()
        python = Path(sys._base_executable)  # type: ignore[attr-defined]
        packages = Path(pytest.__file__).parents[1]
        text = TOOL.format(log=self.log, python=python, home=python.parent, packages=packages, hold=self.hold)
        (self.folder / "uv").write_text(text)
        (self.folder / "uv").chmod(0o755)

    def asked(self) -> list[str]:
        return self.log.read_text().split()
