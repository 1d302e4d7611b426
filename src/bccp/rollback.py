"""Gives the alias ``champion`` back to the version that had it before.

``python -m bccp.rollback [--model NAME]``, or ``make rollback [MODEL=bccp]``. What is rolled back is not promoted again by itself. W&B is
told where the run that registered the version was, or would have been.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from bccp.backends import ledger_uri
from bccp.endings import exit_status
from bccp.registry import CHAMPION, VERSION_TAG, roll_back
from bccp.tracking import Ledger
from bccp.wandb_client import resolve_mode
from bccp.wandb_mirror import WandbMirror
from bccp.wandb_reused import settings, tracking_of

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
    ledger = Ledger(uri)
    left, now = roll_back(ledger, name.removeprefix("models:/").partition("@")[0])
    version = f" (model:{now.tags[VERSION_TAG][:12]})" if VERSION_TAG in now.tags else ""
    print(f"models:/{now.name}@{CHAMPION} is version {now.version} again{version}; version {left.version} is rolled back", flush=True)
    if VERSION_TAG in now.tags:
        _tell_wandb(ledger, now)


def _tell_wandb(ledger: Ledger, now: Any) -> None:
    """Let W&B's alias follow."""
    parent = ledger.client.get_run(now.run_id).data.tags.get("mlflow.parentRunId")
    values = settings(ledger.client.get_run(parent).data.params) if parent else {}
    if "tracking" not in values:
        return
    tracking = tracking_of(values["tracking"])
    mode = resolve_mode(tracking.wandb)
    if mode == "disabled":
        return
    digest = now.tags[VERSION_TAG]
    mirror = WandbMirror(
        mode=mode,
        to=tracking,
        group=now.name,
        name=f"rollback-{now.name}",
        step="rollback",
        config={"bccp.registered": f"models:/{now.name}/{now.version}"},
        home=ledger.home,
    )
    exit_code = 1
    try:
        mirror.publish("model", digest, ledger.fetch(f"model:{digest}"), pixels=False, aliases=[CHAMPION])
        exit_code = 0
    finally:
        mirror.finish(exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
