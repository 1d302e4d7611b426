"""Sweeps: jobs that share out the cores, say how far they are while they run, end with what started them, and are told in one table.

A job leaves nothing behind for the sweep but its ``summary.json``. The process that started the sweep watches for these files, wherever a
launcher runs the jobs. It is Hydra that starts and waits for the jobs; :class:`Preparation` is its hook.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess  # nosec B404
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict

from bccp import sweep_plan
from bccp.backends import ledger_uri, local_path
from bccp.device import device_type
from bccp.errors import BCCPError
from bccp.home import clear_scratch, home, keep_within_home, scratch_owner, sweep_scratch
from bccp.masking import first_line, shown, shown_text
from bccp.paths import ROOT
from bccp.processes import Interrupted, descendants, end_descendants, end_with, process_start, terminable
from bccp.run_summary import Summary
from bccp.threads import default_threads, limit_threads
from bccp.tracking import Ledger

PARENT = "BCCP_SWEEP"
"""Environment variable of the processes that run a sweep's jobs on this machine: id and start of the one that they end with."""

FIGURES = ("test/accuracy", "train/val_accuracy", "bayes_cutoff/f1")
"""What the table shows of each job, as far as it was measured; the first that was measured is also told when the job ends."""

LOG = "job.log"
"""In a job's folder: what the job has said, which a terminal would show of a single run."""

_LAUNCHERS = frozenset({"joblib", "submitit", "ray"})  # packages
_TRACKERS = ("joblib.externals.loky.backend.resource_tracker", "multiprocessing.resource_tracker")
LONGEST_LIST = 10
_POLL_SECONDS = 0.5

_RAY_BYTES = 100_000_000
"""Of memory that Ray keeps objects in; jobs hand each other none."""

_links: list[Path] = []
"""To where Ray writes."""

_begun: list[Sweep] = []
"""The sweep that Hydra runs just now; Hydra gives nothing back."""

_refused: list[Exception] = []
"""What kept it from starting; Hydra would only warn."""


@dataclass
class Sweep:
    """A sweep as planned.

    Attributes
    ----------
    folder : Path
        Holds a folder for each job.
    uri : str
        Of the ledger.
    swept : list of str
        The keys that differ between jobs.
    n_jobs : int or None
        None where the sweeper does not say beforehand.
    launcher : str
        Its name.
    search : bool
        Whether it looks for the best setting, where a failed job is an answer.
    added : list of str
        The overrides that it gives its jobs beside those that it was given.
    """

    folder: Path
    uri: str
    swept: list[str]
    n_jobs: int | None
    launcher: str
    search: bool
    added: list[str] = field(default_factory=list)
    _others: Collection[tuple[int, str]] = field(default_factory=lambda: descendants(os.getpid()))
    _started: float = field(default_factory=time.monotonic)
    _over: threading.Event = field(default_factory=threading.Event)
    _watch: threading.Thread | None = None

    def watch(self, stream: TextIO) -> None:
        """Say of each job on ``stream`` when it has ended, from a thread, until :meth:`close`."""

        def look() -> None:
            ended: dict[Path, JobEnd] = {}
            failed: dict[str, str] = {}
            going_on = True
            while going_on:
                going_on = not self._over.wait(_POLL_SECONDS)
                for path in [path for path in summary_files(self.folder) if path not in ended]:
                    one = ended[path] = read_job(path, self.folder)
                    first = failed.setdefault(one.reason, one.name) if one.error else one.name
                    told_before = None if first == one.name else first
                    print(f"{one.line(self.swept, told_before)} ({self._how_far(ended.values())})", file=stream, flush=True)

        self._watch = threading.Thread(target=look, name="sweep", daemon=True)
        self._watch.start()

    def _how_far(self, ended: Collection[JobEnd]) -> str:
        failed = sum(job.status == "failed" for job in ended)
        said = f"{len(ended) - failed} done, {failed} failed"
        if self.n_jobs is None:
            return said
        left = max(0, self.n_jobs - len(ended))
        return f"{said}, {left} left" + (f", about {spell_seconds((time.monotonic() - self._started) / len(ended) * left)}" if left else "")

    def end_workers(self) -> None:
        """End the processes that run the jobs; those of Slurm are none of this one's."""
        queued = [path.name for path in (self.folder / ".submitit").glob("[0-9]*")] if self.launcher == "submitit_slurm" else []
        if queued:
            with suppress(FileNotFoundError):
                subprocess.run(["scancel", *queued], check=False)  # nosec B603 B607
        trackers = [getattr(sys.modules.get(name), "_resource_tracker", None) for name in _TRACKERS]
        spared = [(t._pid, process_start(t._pid)) for t in trackers if t and t._pid]  # they heed nothing but this one's end
        end_descendants([*self._others, *spared])

    def close(self) -> None:
        """Stop watching, and end the workers, which wait for another batch of jobs."""
        self._over.set()
        if self._watch:
            self._watch.join()
        executor = getattr(sys.modules.get("joblib.externals.loky.reusable_executor"), "_executor", None)
        if executor:
            executor.terminate(kill_workers=True)  # they have recorded everything; leaving by themselves takes seconds
            sweep_scratch()
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        for link in _links:
            link.unlink(missing_ok=True)
        _links.clear()

    def mend(self) -> None:
        """Close the runs that ended workers have left open."""
        Ledger(self.uri).mend()

    def failure(self, lost: str | None) -> str | None:
        """One sentence on the jobs that failed or never ran, or None; ``lost`` says why they did not."""
        ended = jobs(self.folder)
        failed = [job for job in ended if job.status == "failed"]
        total = self.n_jobs or len(ended)
        said = []
        if failed and not self.search:
            numbers = ", ".join(job.name for job in failed[:LONGEST_LIST]) + (", …" if len(failed) > LONGEST_LIST else "")
            first = f"the first: {failed[0].error}" if len(failed) > 1 else failed[0].error
            said.append(f"{len(failed)} of {total} jobs failed ({numbers} in {self.folder}; {first})")
        if lost or len(ended) < total:
            said.append(f"{total - len(ended)} of {total} jobs did not end" + (f", as {lost}" if lost else ""))
        return "; ".join(said) + ": the same command runs only what is missing" if said else None


@dataclass(frozen=True)
class JobEnd:
    """What a job came to.

    Attributes
    ----------
    name : str
        Its number, the name of its folder.
    status : str
        ``finished`` or ``failed``.
    error : str or None
    seconds : float
    metrics : dict of str to float
    overrides : tuple of str
    """

    name: str
    status: str
    error: str | None
    seconds: float
    metrics: dict[str, float]
    overrides: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The error without the name of the job's log."""
        return (self.error or "").partition(" (its log: ")[0]

    def line(self, swept: Collection[str], like: str | None = None) -> str:
        """One line, to be printed when it ends; ``like`` names an earlier job that has failed with the same error."""
        failed = f"failed as [{like}]" if like else f"failed: {self.error}"
        came_to = failed if self.error else f"finished in {spell_seconds(self.seconds)}"
        came_to += next((f", {name} {self.metrics[name]:.4f}" for name in FIGURES if name in self.metrics and not self.error), "")
        return f"[{self.name}] {self.setting(swept)}{came_to}"

    def setting(self, swept: Collection[str]) -> str:
        """Its values of the swept keys."""
        chosen = [text for text in self.overrides if text.partition("=")[0].lstrip("+") in swept]
        return " ".join(chosen).replace("\\", "") + ": " if chosen else ""


def jobs(folder: Path) -> list[JobEnd]:
    """The jobs of a sweep that have ended so far, in the order of their numbers."""
    return [read_job(path, folder) for path in summary_files(folder)]


def summary_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("summary.json"), key=lambda path: (len(path.parent.name), path))


def read_job(path: Path, folder: Path) -> JobEnd:
    summary = json.loads(path.read_text(encoding="utf-8"))
    overrides = path.parent / ".hydra" / "overrides.yaml"
    words = OmegaConf.to_object(OmegaConf.load(overrides)) if overrides.is_file() else []
    return JobEnd(
        name=path.parent.relative_to(folder).as_posix(),
        status=summary["status"],
        error=summary["error"],
        seconds=sum(step["seconds"] for step in summary["steps"]),
        metrics=summary["metrics"],
        overrides=tuple(str(shown(word)) for word in words) if isinstance(words, list) else (),
    )


def table(sweep: Sweep) -> str:
    """The text that a sweep ends with: a line a job with its main figures, and where to look next."""
    ended = jobs(sweep.folder)
    figures = [name for name in FIGURES if any(name in job.metrics for job in ended)]
    rows = [("job", "status", "seconds", *figures, "")]
    for job in ended:
        measured = [f"{job.metrics[name]:.4f}" if name in job.metrics else "" for name in figures]
        rows.append((job.name, job.status, f"{job.seconds:.1f}", *measured, job.setting(sweep.swept).removesuffix(": ")))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*(f"{cell:>{width}}" for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]).rstrip() for row in rows]
    runs = shown(sweep.uri) if sweep.uri.startswith("http") else f"mlflow ui --backend-store-uri {shown(sweep.uri)}"
    return "\n".join(
        [
            "",
            *lines,
            "",
            "look next:",
            f"  summaries   {sweep.folder}/<job>/summary.json, and what each job said in {LOG}",
            f"  every run   {runs}",
        ]
    )


@contextmanager
def concluded() -> Iterator[None]:
    """Around Hydra: a sweep that it begins is watched, ends as a whole, and is told.

    Raises
    ------
    BCCPError
        If the sweep is refused, or jobs have failed.
    """
    _begun.clear()
    _refused.clear()
    lost = None
    try:
        with terminable(_end_workers):
            yield
    except SystemExit:
        if _refused:
            raise _refused[0] from None
        raise
    except (KeyboardInterrupt, Interrupted):
        for sweep in _begun:
            with suppress(BCCPError):  # a store that does not answer any more
                sweep.mend()
        raise
    except Exception as error:
        if not _begun or not _of_launcher(error):
            raise
        lost = f"{_begun[0].launcher} gave up ({type(error).__name__}: {first_line(error)})"
        _end_workers()
        for sweep in _begun:
            sweep.mend()
    finally:
        for sweep in _begun:
            sweep.close()
    for sweep in _begun:
        print(table(sweep), flush=True)
        from bccp import sweep_report  # only a sweep that has ended pays for what draws it

        sweep_report.conclude(sweep.folder)
        failure = sweep.failure(lost)
        if failure:
            raise BCCPError(failure)


def _of_launcher(error: Exception) -> bool:
    """Whether a launcher's own package raised it: it could not start, or a worker is gone."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return bool({name.partition(".")[0] for name in (type(error).__module__, innermost.f_globals["__name__"])} & _LAUNCHERS)


def _end_workers() -> None:
    for sweep in _begun:
        sweep.end_workers()


class Preparation(Callback):
    """Hydra's hook before the first job of a sweep; ``config.yaml`` names it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Share out the cores, or refuse."""
        try:
            _begun.append(begin(config))
        except Exception as error:
            _refused.append(error)
            with suppress(OSError):
                overrides = shown(list(config.hydra.overrides.task))
                Summary(error=str(error), config={"overrides": overrides}).write(Path(str(config.hydra.sweep.dir)))
            raise SystemExit(1) from error  # Hydra only warns of an Exception


def begin(config: DictConfig) -> Sweep:
    """Prepare a sweep: what it may not start with is refused, and the cores are shared out.

    Parameters
    ----------
    config : DictConfig
        Of the sweep, as composed by Hydra; the launcher's section is filled in, and ``main.threads`` is added to the jobs' overrides.

    Returns
    -------
    Sweep

    Raises
    ------
    BCCPError
        If jobs on many machines would share an SQLite file or look for artifacts in a folder of one of them, or jobs and their threads
        need more cores than there are.
    """
    about = config.hydra
    launcher = str(about.runtime.choices["hydra/launcher"])
    uri, note = ledger_uri(config.tracking.mlflow_uri)
    if note:
        print(note, flush=True)
        os.environ.pop("MLFLOW_TRACKING_URI")  # once is enough
    many = many_machines(launcher, about)
    keep_within_home()
    if many:
        check_reach(launcher, uri, shared_folder=config.tracking.shared_folder)
    os.environ.pop("MLFLOW_RUN_ID", None)  # each job is a run of its own
    _add("PYTHONPATH", str(ROOT / "src"), os.pathsep)
    _add("PYTHONWARNINGS", "ignore:resource_tracker", ",")  # which clears up after a stopped sweep, and would say so after its last line
    os.environ.pop(PARENT, None)
    if not many:
        os.environ[PARENT] = f"{os.getpid()} {process_start(os.getpid())}"
    planned = _planned(about)
    sweep_plan.check(config, planned)
    swept = [override.key_or_group for override in planned if override.is_sweep_override()]
    sweep = Sweep(Path(str(about.sweep.dir)), uri, swept, _count(planned, about), launcher, "optuna" in about.sweeper._target_)
    how = share_out(config, planned, sweep, many)
    print(f"sweep: {sweep.n_jobs or 'an unknown number of'} jobs, {how}; {sweep.folder}", flush=True)
    sweep.watch(sys.stdout)
    return sweep


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
            f"hydra/launcher={launcher} runs jobs on many machines, which cannot share the file {shown(uri)}: start a tracking server that "
            "hands out the artifacts (compose.yaml does) and name it in MLFLOW_TRACKING_URI or tracking.mlflow_uri"
        )
    ledger = Ledger(uri)
    folder = local_path(ledger.client.get_experiment(ledger.experiment_id).artifact_location)
    if folder is not None and not shared_folder:
        raise BCCPError(
            f"hydra/launcher={launcher} runs jobs on many machines, but {shown(uri)} keeps its artifacts in {folder}, a folder of one: let "
            "a tracking server hand them out (mlflow server --artifacts-destination), or set tracking.shared_folder=true if all share it"
        )


def _add(name: str, value: str, separator: str) -> None:
    """Put a value in front of an environment variable's others."""
    others = os.environ.get(name, "").split(separator)
    os.environ[name] = separator.join([value, *(other for other in others if other not in ("", value))])


def many_machines(launcher: str, about: DictConfig) -> bool:
    if launcher == "ray":
        return (about.launcher.ray.init.get("address") or os.environ.get("RAY_ADDRESS") or "local") != "local"
    return launcher in ("submitit_slurm", "ray_aws")


def _planned(about: DictConfig) -> list[Override]:
    """The overrides that the sweeper makes jobs of: the last one of each key, so that the command line goes before an experiment's file."""
    params = [f"{key}={value}" for key, value in (about.sweeper.get("params") or {}).items()]
    words = OverridesParser.create().parse_overrides([*params, *about.overrides.task])
    return list({one.get_key_element(): one for one in words}.values())


def _count(planned: Sequence[Override], about: DictConfig) -> int | None:
    """How many jobs there will be, where that can be told."""
    for name in ("n_trials", "n_jobs"):
        if name in about.sweeper and (about.sweeper[name] or 0) < 1:
            raise BCCPError(f"hydra.sweeper.{name}={about.sweeper[name]} is too few: give 1 or more")
    if "n_trials" in about.sweeper:
        return int(about.sweeper.n_trials)
    choices = {one.get_key_element(): list(one.sweep_string_iterator()) for one in planned if one.is_discrete_sweep()}
    n_jobs = 1
    for values in choices.values():
        n_jobs *= len(values)
    return n_jobs if about.runtime.choices["hydra/sweeper"] == "basic" else None


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


def added() -> list[str]:
    """The overrides that the sweep which Hydra runs just now gives its jobs by itself."""
    return [word for sweep in _begun for word in sweep.added]


def share_out(config: DictConfig, planned: Sequence[Override], sweep: Sweep, many: bool) -> str:
    """Tell launcher and jobs how many cores each has; returns that in words."""
    about, launcher, n_jobs = config.hydra, sweep.launcher, sweep.n_jobs
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
            sweep.added.append(f"main.threads={threads}")
            about.overrides.task.extend(sweep.added)
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


@contextmanager
def job(folder: Path) -> Iterator[None]:
    """Around a job of a sweep, in whatever process: what it says goes to :data:`LOG` in its folder, and it ends with the sweep."""
    parent = os.environ.get(PARENT, "").split()
    elsewhere = parent[:1] != [str(os.getpid())]
    if parent and elsewhere and _WATCHER not in {thread.name for thread in threading.enumerate()}:
        end_with([(int(parent[0]), parent[1])])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("w", encoding="utf-8", errors="backslashreplace") as file:
            log = _Log(file)
            with redirect_stdout(log), redirect_stderr(log):
                yield
            log.write("\n" if log.begun else "")
    except (KeyboardInterrupt, Interrupted) as stopped:
        if elsewhere:  # a launcher's process would take the next job
            clear_scratch()
            os._exit(128 + (stopped.number if isinstance(stopped, Interrupted) else 2))
        raise


_WATCHER = "end-with"


class _Log(io.TextIOBase):
    """A stream that hands whole lines on to a file, without passwords in URLs.

    A library may keep it longer than the file is open: what it says then is dropped.

    Attributes
    ----------
    begun : str
        A line that has no end yet.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.begun = ""

    def write(self, text: str) -> int:
        """Write what is a whole line now."""
        *lines, self.begun = (self.begun + text).split("\n")
        if lines and not self._file.closed:
            with suppress(OSError):  # a full disk fails what the job is for, with a better sentence
                self._file.write("".join(f"{shown_text(line)}\n" for line in lines))
                self._file.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing waits but a line that has no end yet."""

    def fileno(self) -> int:
        """That of the file, for processes which are to inherit it."""
        return self._file.fileno()


def spell_seconds(seconds: float) -> str:
    """A duration in its largest sensible unit."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
