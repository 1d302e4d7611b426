"""The names in the definition of the dashboard in W&B."""

from __future__ import annotations

import re

from bccp.tracking import wandb_dashboard


def dashboard_names(kind: str) -> set[str]:
    """What the definition names: keys of the ``config``, ``summary`` figures, or ``logged`` ones (curves, tables, pictures)."""
    text = wandb_dashboard.DEFINITION.read_text(encoding="utf-8")
    quoted = set(re.findall(r'"([\w:./]+)"', text))
    if kind != "logged":
        return {name.removeprefix(f"{kind}:") for name in quoted if name.startswith(f"{kind}:")}
    return {name for name in quoted if ":" not in name and "/" in name}
