"""A dashboard in W&B for a project of the user's (``bccp wandb dashboard entity/project``).

What it shows stands in ``dashboards/overview.yaml``. Saving it again replaces it.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bccp.core.errors import BCCPError, MissingExtraError
from bccp.core.home import keep_within_home
from bccp.core.paths import ROOT
from bccp.core.redaction import first_line
from bccp.core.runtime.extras import install_command
from bccp.core.runtime.wandb_import import import_wandb
from bccp.tracking.wandb_client import has_login, open_api

DEFINITION = ROOT / "dashboards" / "overview.yaml"
"""What the dashboard shows."""

VIEW = "bccpoverview"
"""What W&B calls the dashboard in its address, once for each project."""


def workspace(entity: str, project: str, definition: Path = DEFINITION) -> Any:
    """Build a dashboard from its definition.

    Parameters
    ----------
    entity, project : str
        Where it is for.
    definition : Path
        A YAML file like ``dashboards/overview.yaml``.

    Returns
    -------
    wandb_workspaces.workspaces.Workspace
        Not saved.

    Raises
    ------
    BCCPError
        If the package wandb-workspaces is missing.
    """
    workspaces = _package()
    about: Any = OmegaConf.to_container(OmegaConf.load(definition))
    sections = [
        workspaces.Section(
            name=section["name"],
            panels=[_panel(kind, given) for panel in section["panels"] for kind, given in panel.items()],
            is_open=True,
        )
        for section in about["sections"]
    ]
    return workspaces.Workspace(entity=entity, project=project, name=about["name"], sections=sections)


def save_dashboard(entity: str, project: str) -> str:
    """Create the dashboard in W&B, or replace it; its address.

    Raises
    ------
    BCCPError
        If the package is missing, there is no account, or W&B does not answer or does not take it.
    """
    made = workspace(entity, project)
    if not has_login():
        raise BCCPError("a dashboard in W&B needs an account: set WANDB_API_KEY or run `wandb login`")
    open_api()
    from wandb_workspaces.workspaces import internal

    made._internal_name = internal._url_query_str_to_internal_name(VIEW)
    try:
        try:
            made._internal_id = internal.get_view_dict(entity, project, VIEW)["id"]
        except ValueError as error:
            if "Workspace" not in str(error):  # rather the project is missing
                raise
        made.save()
        return str(made.url)
    except (import_wandb().errors.Error, ValueError, OSError) as error:
        raise BCCPError(
            f"the dashboard cannot be saved in {entity}/{project} ({first_line(error)}): check the name, and run the pipeline online first"
        ) from error


def _package() -> Any:
    keep_within_home()
    import_wandb()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries about themselves
            from wandb_workspaces import workspaces
    except ImportError as error:
        raise MissingExtraError(f"the dashboard needs the package wandb-workspaces: {install_command('dashboard')}") from error
    return workspaces


def _reports() -> Any:
    return importlib.import_module("wandb_workspaces.reports.v2")


def _panel(kind: str, given: dict[str, Any]) -> Any:
    reports = _reports()
    arguments = {name: [_named(one) for one in value] if isinstance(value, list) else _named(value) for name, value in given.items()}
    if kind == "ParallelCoordinatesPlot":
        arguments["columns"] = [reports.ParallelCoordinatesPlotColumn(metric=column) for column in arguments["columns"]]
    return getattr(reports, kind)(**arguments)


def _named(text: str) -> Any:
    """A key of the configuration, or a figure, where the text says that it is one."""
    kind, _, name = text.partition(":")
    kinds = {"config": _reports().Config, "summary": _reports().SummaryMetric}
    return kinds[kind](name) if kind in kinds else text
