"""Explains why a step would run, or be reused, under a configuration (``bccp why``); nothing is run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bccp.core import config
from bccp.core.errors import BCCPError
from bccp.pipeline.compose import compose
from bccp.pipeline.plan import Plan, nearest_run
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger


def explain(step: str, plan: Plan, ledger: Ledger) -> list[str]:
    """Say whether a step would run, and why.

    Parameters
    ----------
    step : str
        One of ``config.STEPS``.
    plan : Plan
        Of the configuration. The versions that earlier steps have made are entered.
    ledger : Ledger

    Returns
    -------
    list of str
        Lines for the user. Where an earlier step would have to run first, what this one reads is not known, and that one is explained.
    """
    if step not in plan.needed(plan.asked):
        return [f"{step} would not run: main.execute_steps leaves it out, and no step in it needs it"]
    if step in plan.asked and not plan.config.main.cache:
        return [f"{step} would run: main.cache=false"]
    lines: list[str] = []
    for name in plan.needed([step]):
        key, parts = plan.key(name, ledger)
        found = ledger.find(name, key)
        if found is None:
            lines = _why_not_found(name, plan, ledger, parts)
            if name != step:
                lines.insert(0, f"{step}: {name} would have to run first, and until then it is not known what {step} reads")
            break
        if name in plan.asked:
            lines = [f"{name} would be reused: run {found.run_id[:8]} has the same key, and its outputs are intact"]
        else:
            lines = [f"{name} is left out: the outputs of run {found.run_id[:8]}, which has the same key, would be used"]
        plan.versions |= found.outputs
    return lines


def _why_not_found(name: str, plan: Plan, ledger: Ledger, parts: dict[str, Any]) -> list[str]:
    would = f"{name} would run" if name in plan.asked else f"{name} would have to be added to main.execute_steps"
    near = nearest_run(ledger, name, parts)
    if near is None:
        return [f"{would}: it has never finished here"]
    run, changes = near
    if not changes:
        return [f"{would}: run {run.run_id[:8]} has the same key, but its output {ledger.damaged(run)} was changed or is gone"]
    return [f"{would}: what differs from the nearest finished run, {run.run_id[:8]}, is", *(f"  {change}" for change in changes)]


def explain_options(step: str, words: Sequence[str]) -> list[str]:
    """Explain a step under options, with the store that they name.

    Parameters
    ----------
    step : str
        One of ``config.STEPS``.
    words : sequence of str
        Hydra overrides.

    Returns
    -------
    list of str
        As of :func:`explain`.

    Raises
    ------
    BCCPError
        If an option cannot be used, or is one of Hydra's flags.
    """
    flag = next((word for word in words if word.startswith("-")), None)
    if flag:
        raise BCCPError(f"one run is explained, so {flag} is not accepted: give OPTIONS without it, and one value for each key")
    checked = config.load(compose(words), base=Path.cwd())
    uri, note = ledger_uri(checked.tracking.mlflow_uri)
    if note:
        print(note, flush=True)
    return explain(step, Plan(checked), Ledger(uri))
