"""What the jobs of a sweep share: cores, threads, and the reach of a launcher that starts them on other machines."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict

from bccp.core.errors import BCCPError
from bccp.core.home import home, scratch_owner
from bccp.core.redaction import redact
from bccp.core.runtime.device import device_type
from bccp.core.runtime.threads import default_threads, limit_threads
from bccp.tracking.backends import local_path
from bccp.tracking.store import Ledger

_RAY_BYTES = 100_000_000
"""Of memory that Ray keeps objects in; jobs hand each other none."""


_links: list[Path] = []
"""To where Ray writes."""


def check_reach(launcher: str, uri: str, *, shared_folder: bool) -> None:
    """Refuse a ledger that a launcher's many machines do not reach.

    Parameters
    ----------
    launcher : str
        Its name.
    uri : str
        Of the ledger.
    shared_folder : bool
        ``tracking.shared_folder``.

    Raises
    ------
    BCCPError
        If it is an SQLite file, does not answer, or keeps its artifacts in a folder that the machines do not share.
    """
    if uri.startswith("sqlite"):
        raise BCCPError(
            f"hydra/launcher={launcher} runs jobs on many machines, which cannot share the file {redact(uri)}: start a tracking server "
            "that hands out the artifacts (compose.yaml does) and name it in MLFLOW_TRACKING_URI or tracking.mlflow_uri"
        )
    ledger = Ledger(uri)
    folder = local_path(ledger.client.get_experiment(ledger.experiment_id).artifact_location)
    if folder is not None and not shared_folder:
        raise BCCPError(
            f"hydra/launcher={launcher} runs jobs on many machines, but {redact(uri)} keeps its artifacts in {folder}, a folder of one: "
            "let a tracking server hand them out (its option --artifacts-destination), "
            "or set tracking.shared_folder=true if all share it"
        )


def many_machines(launcher: str, about: DictConfig) -> bool:
    if launcher == "ray":
        return (about.launcher.ray.init.get("address") or os.environ.get("RAY_ADDRESS") or "local") != "local"
    return launcher in ("submitit_slurm", "ray_aws")


def share(n_cores: int, n_jobs: int | None, wanted: int | None, threads: int | None) -> tuple[int, int]:
    """Share out a machine's cores among jobs.

    Parameters
    ----------
    n_cores : int
    n_jobs : int or None
        How many there are, if known.
    wanted : int or None
        How many are to run at once; None: as many as have a core for each of their threads.
    threads : int or None
        Of each job; None: as many as there are cores for.

    Returns
    -------
    at_once, threads : int
        ``at_once * threads <= n_cores``, unless a single job asks for more threads.

    Raises
    ------
    BCCPError
        If jobs that are to run at once need more cores than there are.

    Examples
    --------
    >>> share(16, 60, None, None), share(16, 60, None, 3), share(16, 2, None, None)
    ((16, 1), (5, 3), (2, 8))
    """
    needed = (wanted or 1) * (threads or 1)
    if wanted and wanted > 1 and needed > n_cores:
        raise BCCPError(
            f"{wanted} jobs at once with main.threads={threads or 1} need {needed} cores, and there are {n_cores}: ask for fewer jobs "
            "(hydra.launcher.n_jobs) or threads, or leave one of them out"
        )
    at_once = wanted or max(1, n_cores // (threads or 1))
    at_once = min(at_once, n_jobs or at_once)
    return at_once, threads or max(1, n_cores // at_once)


def share_out(config: DictConfig, planned: Sequence[Override], added: list[str], *, launcher: str, n_jobs: int | None, many: bool) -> str:
    """Tell launcher and jobs how many cores each has; returns that in words.

    Parameters
    ----------
    config : DictConfig
        With Hydra's own section; is changed.
    planned : sequence of Override
        Of the command line.
    added : list of str
        Overrides that each job gets besides; what is decided here is appended.
    launcher : str
    n_jobs : int or None
        Of the sweep, as far as it is known.
    many : bool
        The jobs run on several machines.
    """
    about = config.hydra
    given = _threads(config, planned)
    if many or launcher not in ("joblib", "submitit_local", "ray"):
        if launcher == "submitit_slurm" and given and about.launcher.cpus_per_task is None:
            about.launcher.cpus_per_task = given
        return f"hydra/launcher={launcher}"
    n_cores = default_threads()
    batch = about.sweeper.get("n_jobs") or about.sweeper.get("max_batch_size") or n_jobs
    most = min(filter(None, (n_jobs, batch)), default=None)
    wanted = _wanted(about.launcher.n_jobs, n_cores) if launcher == "joblib" else None
    if launcher == "joblib" and wanted is None and device_type() != "cpu":
        wanted = 1  # jobs on one GPU could need more memory than it has
    at_once, threads = share(n_cores, most, wanted, given)
    with open_dict(about):
        if launcher == "joblib":
            about.launcher.n_jobs = at_once
            about.launcher.batch_size = "1"
        elif launcher == "ray":
            about.launcher.ray.init.update({"num_cpus": n_cores, **ray_at_home()})
            about.launcher.ray.remote.update({"num_cpus": threads})
        elif "max_batch_size" in about.sweeper and about.sweeper.max_batch_size is None:
            about.sweeper.max_batch_size = at_once  # its launcher starts a whole batch at once
    if at_once > 1:
        limit_threads(threads)  # before its workers load what reads the environment once
        if given is None:
            added.append(f"main.threads={threads}")
            about.overrides.task.extend(added)
    return f"{at_once} at once on {n_cores} cores (hydra/launcher={launcher}, main.threads={threads})"


def ray_at_home() -> dict[str, Any]:
    """Options of a Ray that only this machine and user can ask, and that writes within the home; its processes inherit the environment."""
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **quiet})
    place = home() / "tmp" / f"{scratch_owner()}-ray"
    place.mkdir(parents=True, exist_ok=True)
    link = Path(tempfile.gettempdir()) / f"ray-{secrets.token_hex(8)}"
    link.symlink_to(place)  # the system takes no socket with a long path
    _links.append(link)
    return {"include_dashboard": False, "_node_ip_address": "127.0.0.1", "_temp_dir": str(link), "object_store_memory": _RAY_BYTES}


def remove_links() -> None:
    """Remove the links that :func:`ray_at_home` has made."""
    for link in _links:
        link.unlink(missing_ok=True)
    _links.clear()


def _wanted(n_jobs: int, n_cores: int) -> int | None:
    """What ``n_jobs`` means to joblib: -1, the default, is no wish; -2 leaves one core free."""
    if n_jobs == 0:
        raise BCCPError("hydra.launcher.n_jobs=0 is no number of jobs: give 1 or more, or leave it out")
    return None if n_jobs == -1 else n_jobs if n_jobs > 0 else max(1, n_cores + 1 + n_jobs)


def _threads(config: DictConfig, planned: Sequence[Override]) -> int | None:
    """The most threads that any job is given by ``main.threads``."""
    values = [config.main.threads]
    for override in planned:
        if override.key_or_group == "main.threads":
            values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    numbers = [int(value) for value in values if isinstance(value, int)]
    return max(numbers, default=None)
