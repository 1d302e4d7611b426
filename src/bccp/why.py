"""Explains why a step would run, or be reused, under a configuration; nothing is run.

``python -m bccp.why STEP [OPTIONS]``, or ``make why STEP=train [OPTIONS="…"]``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bccp import config, step_graph
from bccp.backends import ledger_uri
from bccp.endings import exit_status
from bccp.errors import BCCPError, nearest
from bccp.overrides import split_options
from bccp.pipeline import compose
from bccp.plan import Plan, nearest_run
from bccp.tracking import Ledger


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


def main(arguments: Sequence[str]) -> int:
    """Explain what the arguments name; the exit status is 0, or 1 after an error, which is told in the last line on stderr."""
    return exit_status(lambda: _explain(*(arguments or [""])))


def _explain(step: str, *texts: str) -> None:
    names = ", ".join(step_graph.STEPS)
    if not step:
        raise BCCPError(f"which step? make why STEP=train, or another of {names}")
    if step not in step_graph.STEPS:
        raise BCCPError(f"unknown step {step!r}{nearest(step, step_graph.STEPS)}: the steps are {names}")
    words = [word for text in texts for word in split_options(text)]
    flag = next((word for word in words if word.startswith("-")), None)
    if flag:
        raise BCCPError(f"one run is explained, so {flag} is not accepted: give OPTIONS without it, and one value for each key")
    checked = config.load(compose(words), base=Path.cwd())
    uri, note = ledger_uri(checked.tracking.mlflow_uri)
    if note:
        print(note, flush=True)
    print("\n".join(explain(step, Plan(checked), Ledger(uri))), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
