"""Gives the alias ``champion`` back to the version that had it before.

``python -m bccp.rollback [--model NAME]``, or ``make rollback [MODEL=bccp]``. What is rolled back is not promoted again by itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bccp.endings import exit_status
from bccp.registry import CHAMPION, VERSION_TAG, roll_back
from bccp.tracking import Ledger, ledger_uri

DEFAULT = "bccp"
"""The name under which the README registers models."""


def main(arguments: Sequence[str]) -> int:
    """Roll back as the arguments say; the exit status is 0, or 1 after an error, which is told in the last line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m bccp.rollback", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default="", help=f"the registered model's name; default: {DEFAULT}")
    name = parser.parse_args(arguments).model or DEFAULT
    return exit_status(lambda: _roll_back(name))


def _roll_back(name: str) -> None:
    uri, note = ledger_uri(None)
    if note:
        print(note, flush=True)
    left, now = roll_back(Ledger(uri), name.removeprefix("models:/").partition("@")[0])
    version = f" (model:{now.tags[VERSION_TAG][:12]})" if VERSION_TAG in now.tags else ""
    print(f"models:/{now.name}@{CHAMPION} is version {now.version} again{version}; version {left.version} is rolled back", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
