"""The registry of models: names under which trained models are kept, one version a model, one of them the champion.

The alias ``champion`` says which version is in use. Two tags of the registered model remember what MLflow does not: which versions were
champion before, and which were rolled back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from bccp.core.errors import BCCPError
from bccp.core.home import scratch
from bccp.tracking.backends import local_path
from bccp.tracking.store import Ledger
from bccp.tracking.tags import CHAMPIONS_TAG, MODEL_TAG, ROLLED_BACK_TAG

CHAMPION = "champion"
"""Alias of the version that is in use."""

NO_CHAMPION = "no champion"
"""In place of a version, where there was none."""

_REMEMBERED = 200  # versions in a tag


def lock_name(name: str) -> str:
    """Name of the lock under which a registered model is changed (:meth:`bccp.tracking.store.Ledger.lock`)."""
    return f"registry-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def register(
    ledger: Ledger, name: str, digest: str, *, run_id: str, write: Callable[[Path], None], tags: Mapping[str, str] | None = None
) -> Any:
    """Enter a model into MLflow's registry; a model that is entered already stays the version that it is.

    Parameters
    ----------
    ledger : Ledger
    name : str
        Name of the registered model; made where it is new.
    digest : str
        Version of the ``model`` artifact, 64 hex digits.
    run_id : str
        The run that gets the files.
    write : callable
        Makes the folder that it is given, in MLflow's format; called for a new model only.
    tags : mapping of str to str, optional
        Further tags of a new version.

    Returns
    -------
    mlflow.entities.model_registry.ModelVersion

    Raises
    ------
    BCCPError
        If the store refuses it.
    """
    client = ledger.client
    try:
        if not client.search_registered_models(f"name = '{name}'", max_results=1):
            client.create_registered_model(name)
        for known in client.search_model_versions(f"name = '{name}'"):
            if known.tags.get(MODEL_TAG) == digest:
                return known
        with scratch("registered") as folder:
            write(folder / "registered_model")
            client.log_artifacts(run_id, str(folder / "registered_model"), artifact_path="registered_model")
        source = f"{client.get_run(run_id).info.artifact_uri}/registered_model"
        return client.create_model_version(name, source=source, run_id=run_id, tags={MODEL_TAG: digest, **(tags or {})})
    except MlflowException as error:
        raise BCCPError(f"test.registered_model_name={name!r} is refused by {ledger.uri}: {str(error).splitlines()[0]}") from error


def find_version(ledger: Ledger, uri: str, *, option: str = "train.init") -> Any:
    """The registered version that a URI means now.

    Parameters
    ----------
    ledger : Ledger
        In whose store the registry is.
    uri : str
        ``models:/name@alias`` or ``models:/name/version``.
    option : str
        What gave the URI, for the message.

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
            f"{option}={uri} is not in the registry of {ledger.uri} ({str(error).splitlines()[0]}): name a model and an alias or "
            "version that are"
        ) from error


def meaning(ledger: Ledger, uri: str) -> str:
    """What a registered model's URI means now, for a key: the version of its ``model`` artifact, or else the registered version."""
    return _meaning(find_version(ledger, uri))


def champion(ledger: Ledger, name: str) -> Any | None:
    """The version of a registered model that is in use, or None."""
    try:
        return ledger.client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such model; no such alias
            return None
        raise


def champion_now(ledger: Ledger, name: str) -> str:
    """Who is champion, for a key; a rollback changes it too, so that a model that is to be promoted again is looked at again."""
    version = champion(ledger, name)
    if version is None:
        return "none"
    rolled_back = rolled_back_versions(ledger, name)
    return _meaning(version) + (f" after rollback of {','.join(rolled_back)}" if rolled_back else "")


def promote(ledger: Ledger, name: str, version: str) -> None:
    """Make a version the champion. Stopped at any moment, it is champion or it is not, and can be promoted again."""
    now = champion(ledger, name)
    before = [] if now is None else [*_past(ledger, name, str(now.version)), str(now.version)]
    ledger.client.set_registered_model_tag(name, CHAMPIONS_TAG, ",".join([*before, version][-_REMEMBERED:]))
    ledger.client.set_registered_model_alias(name, CHAMPION, version)


def roll_back(ledger: Ledger, name: str) -> tuple[Any, Any]:
    """Make the champion before this one the champion again.

    Returns
    -------
    left, now : mlflow.entities.model_registry.ModelVersion
        The one that was, and the one that is champion.

    Raises
    ------
    BCCPError
        If there is no champion, or there was none before it that is still registered.
    """
    current = champion(ledger, name)
    if current is None:
        raise BCCPError(f"no model {name!r} with a champion is in {ledger.uri}: name one with MODEL=")
    registered = {str(version.version): version for version in ledger.client.search_model_versions(f"name = '{name}'")}
    past = [number for number in _past(ledger, name, str(current.version)) if number in registered and number != str(current.version)]
    if not past:
        raise BCCPError(f"version {current.version} of {name!r} is the first champion: there is none before it to go back to")
    # first this: were it the last, a run in between would promote again what is being rolled back
    rolled_back = [*rolled_back_versions(ledger, name), str(current.version)][-_REMEMBERED:]
    ledger.client.set_registered_model_tag(name, ROLLED_BACK_TAG, ",".join(rolled_back))
    ledger.client.set_registered_model_alias(name, CHAMPION, past[-1])
    return current, registered[past[-1]]


def rolled_back_versions(ledger: Ledger, name: str) -> list[str]:
    """The versions that were rolled back, in that order."""
    return _listed(ledger, name, ROLLED_BACK_TAG)


def fetch_model(ledger: Ledger, version: Any, folder: Path) -> Path:
    """The files of a registered version, also of one that others have registered.

    Parameters
    ----------
    ledger : Ledger
    version : mlflow.entities.model_registry.ModelVersion
    folder : Path
        Where to put what has to be copied.

    Returns
    -------
    Path
        The folder that holds ``model.json``.

    Raises
    ------
    BCCPError
        If they are gone, or are of none of our models.
    """
    from mlflow.artifacts import download_artifacts

    shown = f"models:/{version.name}/{version.version}"
    place = local_path(version.source)
    try:
        if place is None or not place.is_dir():
            place = Path(download_artifacts(artifact_uri=version.source, dst_path=str(folder), tracking_uri=ledger.uri))
    except (MlflowException, OSError) as error:
        raise BCCPError(f"{shown} cannot be fetched from {ledger.uri} ({str(error).splitlines()[0]}): register it again") from error
    places = sorted(path.parent for path in place.rglob("model.json"))
    if not places:
        raise BCCPError(f"{shown} holds no model of the step train (no model.json): register one by test.registered_model_name")
    return places[0]


def _meaning(version: Any) -> str:
    return str(version.tags.get(MODEL_TAG) or f"{version.name}/{version.version}")


def _past(ledger: Ledger, name: str, current: str) -> list[str]:
    """Who was champion before the current one; what follows it in the list was not finished, or was rolled back."""
    return before(_listed(ledger, name, CHAMPIONS_TAG), current)


def before(champions: Sequence[str], current: str) -> list[str]:
    """What stands before the last mention of the current one, or all where it is not mentioned, as another has set the alias.

    Examples
    --------
    >>> before(["1", "2", "3"], "2"), before(["1", "2"], "7")
    (['1'], ['1', '2'])
    """
    places = [place for place, number in enumerate(champions) if number == current]
    return list(champions[: places[-1]] if places else champions)


def _listed(ledger: Ledger, name: str, tag: str) -> list[str]:
    text = ledger.client.get_registered_model(name).tags.get(tag, "")
    return text.split(",") if text else []
