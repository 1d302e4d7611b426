"""The registry of models: names under which trained models are kept, one version a model."""

from __future__ import annotations

import re
from typing import Any

from mlflow.exceptions import MlflowException

from bccp.errors import BCCPError
from bccp.tracking import Ledger

VERSION_TAG = "bccp.model"
"""Tag of a registered version: which artifact version it is."""


def register(ledger: Ledger, name: str, digest: str) -> str:
    """Enter a model artifact into MLflow's registry; a model that is entered already stays the version that it is.

    Parameters
    ----------
    ledger : Ledger
    name : str
        Name of the registered model; made where it is new.
    digest : str
        Version of the ``model`` artifact, 64 hex digits.

    Returns
    -------
    str
        The number of its version in the registry.

    Raises
    ------
    BCCPError
        If the name cannot be one, the store refuses it, or no finished run made the model.
    """
    if not re.fullmatch(r"[^/:'\"]+", name):
        raise BCCPError(f"test.registered_model_name={name!r} is not accepted: use a name without slashes, colons and quotes")
    client = ledger.client
    try:
        maker = _maker(ledger, digest)
        if not client.search_registered_models(f"name = '{name}'", max_results=1):
            client.create_registered_model(name)
        for known in client.search_model_versions(f"name = '{name}'"):
            if known.tags.get(VERSION_TAG) == digest:
                return str(known.version)
        source = f"{maker.info.artifact_uri}/model"
        version = client.create_model_version(name, source=source, run_id=maker.info.run_id, tags={VERSION_TAG: digest})
    except MlflowException as error:
        raise BCCPError(f"test.registered_model_name={name!r} is refused by {ledger.uri}: {str(error).splitlines()[0]}") from error
    return str(version.version)


def find(ledger: Ledger, uri: str) -> Any:
    """The registered version that a URI means now.

    Parameters
    ----------
    ledger : Ledger
        In whose store the registry is.
    uri : str
        ``models:/name@alias`` or ``models:/name/version``.

    Returns
    -------
    mlflow.entities.model_registry.ModelVersion

    Raises
    ------
    BCCPError
        If there is none.
    """
    name, sign, which = uri.removeprefix("models:/").partition("@" if "@" in uri else "/")
    get = ledger.client.get_model_version_by_alias if sign == "@" else ledger.client.get_model_version
    try:
        return get(name, which)
    except MlflowException as error:
        raise BCCPError(
            f"train.init={uri} is not in the registry of {ledger.uri} ({str(error).splitlines()[0]}): name a model and an alias or "
            "version that are"
        ) from error


def meaning(ledger: Ledger, uri: str) -> str:
    """What a registered model's URI means now, for a key: the version of its ``model`` artifact, or else the registered version."""
    version = find(ledger, uri)
    return str(version.tags.get(VERSION_TAG) or f"{version.name}/{version.version}")


def _maker(ledger: Ledger, digest: str) -> Any:
    """The first finished run that made the model."""
    experiments = [experiment.experiment_id for experiment in ledger.client.search_experiments()]
    wanted = f"tags.`bccp.output.model` = '{digest}' and attributes.status = 'FINISHED'"
    runs = ledger.client.search_runs(experiments, wanted, order_by=["attributes.start_time ASC"], max_results=1)
    if not runs:
        raise BCCPError(f"no finished run in {ledger.uri} made model:{digest[:12]}: run the step train first")
    return runs[0]
