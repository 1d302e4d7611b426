"""Gives the alias ``champion`` back to the version that had it before (``bccp rollback``).

What is rolled back is not promoted again by itself. W&B is
told where the run that registered the version was, or would have been.
"""

from __future__ import annotations

from typing import Any

from bccp.core import naming
from bccp.tracking.backends import ledger_uri
from bccp.tracking.registry import CHAMPION, roll_back
from bccp.tracking.store import Ledger
from bccp.tracking.tags import MODEL_TAG, REGISTERED_TAG
from bccp.tracking.wandb_client import resolve_mode
from bccp.tracking.wandb_reused import settings, tracking_of
from bccp.tracking.wandb_run import WandbMirror


def roll_back_named(name: str) -> str:
    """Roll back a registered model; one line about it.

    Parameters
    ----------
    name : str
        ``bccp``, or ``models:/bccp@champion``.

    Raises
    ------
    BCCPError
        If there is no such model, or nothing to roll back to.
    """
    uri, note = ledger_uri(None)
    if note:
        print(note, flush=True)
    ledger = Ledger(uri)
    left, now = roll_back(ledger, name.removeprefix("models:/").partition("@")[0])
    version = f" (model:{now.tags[MODEL_TAG][:12]})" if MODEL_TAG in now.tags else ""
    said = f"models:/{now.name}@{CHAMPION} is version {now.version} again{version}; version {left.version} is rolled back"
    if MODEL_TAG in now.tags:
        _tell_wandb(ledger, now)
    return said


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
    digest = now.tags[MODEL_TAG]
    mirror = WandbMirror(
        mode=mode,
        to=tracking,
        group=now.name,
        name=naming.part_name("rollback", now.name),
        step="rollback",
        config={REGISTERED_TAG: f"models:/{now.name}/{now.version}"},
        home=ledger.home,
    )
    exit_code = 1
    try:
        mirror.publish("model", digest, ledger.fetch(f"model:{digest}"), pixels=False, aliases=[CHAMPION])
        exit_code = 0
    finally:
        mirror.finish(exit_code)
