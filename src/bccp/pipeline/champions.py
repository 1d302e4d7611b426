"""Gives the alias ``champion`` to a registered version by hand: to any (``bccp promote``), or to the one before (``bccp rollback``).

What is rolled back is not promoted again by itself. W&B is told where the run that registered the version was, or would have been.
"""

from __future__ import annotations

from typing import Any

from bccp.core import naming
from bccp.core.errors import BCCPError
from bccp.tracking import registry
from bccp.tracking.backends import ledger_uri
from bccp.tracking.registry import CHAMPION, roll_back
from bccp.tracking.store import Ledger
from bccp.tracking.tags import JUDGED_TAG, MODEL_TAG, REGISTERED_TAG, VERDICT_REASON_TAG, VERDICT_TAG
from bccp.tracking.wandb_client import resolve_mode
from bccp.tracking.wandb_reused import settings, tracking_of
from bccp.tracking.wandb_run import WandbMirror


def promote_named(model: str, *, force: bool) -> str:
    """Make a registered version the champion; one line about it.

    Parameters
    ----------
    model : str
        ``models:/bccp/3``, ``bccp/3`` or ``bccp@alias``; ``bccp`` alone means its newest version.
    force : bool
        Promote it although it was rejected, held or rolled back, or has not been compared with the champion. It is tagged as forced.

    Raises
    ------
    BCCPError
        If there is no such version, or it may not be promoted without force.
    """
    uri, note = ledger_uri(None)
    if note:
        print(note, flush=True)
    ledger = Ledger(uri)
    name = model.removeprefix("models:/")
    if "/" not in name and "@" not in name:
        versions = ledger.client.search_model_versions(f"name = '{name}'") if "'" not in name else []
        if not versions:
            raise BCCPError(f"no model {name!r} is registered in {ledger.uri}: name one that is, such as bccp/3")
        name = f"{name}/{max(int(version.version) for version in versions)}"
    of_name = registry.find_version(ledger, f"models:/{name}", option="MODEL").name
    with ledger.lock(registry.lock_name(of_name), lambda: print(f"waits for another process that registers {of_name}", flush=True)):
        version = registry.find_version(ledger, f"models:/{name}", option="MODEL")  # the alias may have moved meanwhile
        shown = f"version {version.version} of {version.name}"
        champion = registry.champion(ledger, version.name)
        if champion is not None and str(champion.version) == str(version.version):
            return f"{shown} is the champion already"
        if against := _against(ledger, version, champion):
            if not force:
                raise BCCPError(
                    f"{shown} is not promoted, as {against}: bccp promote {version.name}/{version.version} --force does it all the same"
                )
            tags = {VERDICT_TAG: "forced", VERDICT_REASON_TAG: f"bccp promote --force; {against}"}
        else:
            tags = {VERDICT_TAG: "promoted"}
        for tag, value in tags.items():
            ledger.client.set_model_version_tag(version.name, version.version, tag, value)
        registry.promote(ledger, version.name, str(version.version))
    if MODEL_TAG in version.tags:
        _tell_wandb(ledger, version, by="promote", aliases=[tags[VERDICT_TAG], CHAMPION])
    before = "" if champion is None else f" in place of version {champion.version}"
    return f"models:/{version.name}@{CHAMPION} is version {version.version}{before} ({tags[VERDICT_TAG]})"


def _against(ledger: Ledger, version: Any, champion: Any | None) -> str:
    """What speaks against making a version the champion; an empty string where its comparison with the present one was for it."""
    if str(version.version) in registry.rolled_back_versions(ledger, version.name):
        return "it was rolled back"
    judged, _, rival = version.tags.get(JUDGED_TAG, "").partition(" against ")
    if not judged:
        return "it was never compared with anything"
    if judged != "promoted":
        return f"it was {judged}: {version.tags.get(VERDICT_REASON_TAG, '')}"
    now = registry.NO_CHAMPION if champion is None else str(champion.version)
    return "" if rival == now else f"it was compared with {rival}, while the champion is {now}"


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
        _tell_wandb(ledger, now, by="rollback", aliases=[CHAMPION])
    return said


def _tell_wandb(ledger: Ledger, now: Any, *, by: str, aliases: list[str]) -> None:
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
        name=naming.part_name(by, now.name),
        step=by,
        config={REGISTERED_TAG: f"models:/{now.name}/{now.version}"},
        home=ledger.home,
    )
    exit_code = 1
    try:
        mirror.publish("model", digest, ledger.fetch(f"model:{digest}"), pixels=False, aliases=aliases)
        exit_code = 0
    finally:
        mirror.finish(exit_code)
