"""Sweeps: jobs that share out the cores, say how far they are while they run, end with what started them, and are told in one table.

A job leaves nothing behind for the sweep but its ``summary.json``. The process that started the sweep watches for these files, wherever a
launcher runs the jobs. It is Hydra that starts and waits for the jobs; :class:`Preparation` is its hook.
"""

from __future__ import annotations

import os
import subprocess  # nosec B404
import sys
import threading
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from bccp.core.errors import BCCPError
from bccp.core.home import keep_within_home, sweep_scratch
from bccp.core.paths import ROOT
from bccp.core.processes import Interrupted, descendants, end_descendants, process_start, terminable
from bccp.core.redaction import first_line, redact
from bccp.core.run_summary import Summary
from bccp.core.shell_commands import page_of_runs
from bccp.pipeline.sweeps import plan
from bccp.pipeline.sweeps.jobs import LOG, LONGEST_LIST, PARENT, TABLE_METRICS, JobEnd, jobs, read_job, spell_seconds, summary_files
from bccp.pipeline.sweeps.resources import check_reach, many_machines, remove_links, share_out
from bccp.tracking import wandb_client
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

_LAUNCHERS = frozenset({"joblib", "submitit", "ray"})  # packages
_TRACKERS = ("joblib.externals.loky.backend.resource_tracker", "multiprocessing.resource_tracker")
_POLL_SECONDS = 0.5


begun_sweeps: list[Sweep] = []
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
        remove_links()

    def close_orphaned_runs(self) -> None:
        """Close the runs that ended workers have left open."""
        Ledger(self.uri).close_orphaned_runs()

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


@contextmanager
def concluded() -> Iterator[None]:
    """Around Hydra: a sweep that it begins is watched, ends as a whole, and is told.

    Raises
    ------
    BCCPError
        If the sweep is refused, or jobs have failed.
    """
    begun_sweeps.clear()
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
        for sweep in begun_sweeps:
            with suppress(BCCPError):  # a store that does not answer any more
                sweep.close_orphaned_runs()
        raise
    except Exception as error:
        if not begun_sweeps or not _of_launcher(error):
            raise
        lost = f"{begun_sweeps[0].launcher} gave up ({type(error).__name__}: {first_line(error)})"
        _end_workers()
        for sweep in begun_sweeps:
            sweep.close_orphaned_runs()
    finally:
        for sweep in begun_sweeps:
            sweep.close()
    for sweep in begun_sweeps:
        print(_table(sweep), flush=True)
        from bccp.reporting import sweep_report  # only a sweep that has ended pays for what draws it

        sweep_report.conclude_sweep(sweep.folder)
        failure = sweep.failure(lost)
        if failure:
            raise BCCPError(failure)


def _of_launcher(error: Exception) -> bool:
    """Whether a launcher's own package raised it: it could not start, or a worker is gone."""
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return bool({name.partition(".")[0] for name in (type(error).__module__, innermost.f_globals["__name__"])} & _LAUNCHERS)


def _end_workers() -> None:
    for sweep in begun_sweeps:
        sweep.end_workers()


class Preparation(Callback):
    """Hydra's hook before the first job of a sweep; ``config.yaml`` names it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Share out the cores, or refuse."""
        try:
            begun_sweeps.append(begin(config))
        except Exception as error:
            _refused.append(error)
            with suppress(OSError):
                overrides = redact(list(config.hydra.overrides.task))
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
    if config.tracking.get("wandb") != "disabled":
        wandb_client.check_variables()
    if many:
        check_reach(launcher, uri, shared_folder=config.tracking.shared_folder)
    os.environ.pop("MLFLOW_RUN_ID", None)  # each job is a run of its own
    _add("PYTHONPATH", str(ROOT / "src"), os.pathsep)
    _add("PYTHONWARNINGS", "ignore:resource_tracker", ",")  # which clears up after a stopped sweep, and would say so after its last line
    os.environ.pop(PARENT, None)
    if not many:
        os.environ[PARENT] = f"{os.getpid()} {process_start(os.getpid())}"
    planned = _planned(about)
    plan.check_plan(config, planned)
    swept = [override.key_or_group for override in planned if override.is_sweep_override()]
    sweep = Sweep(Path(str(about.sweep.dir)), uri, swept, _count(planned, about), launcher, "optuna" in about.sweeper._target_)
    how = share_out(config, planned, sweep.added, launcher=sweep.launcher, n_jobs=sweep.n_jobs, many=many)
    print(f"sweep: {sweep.n_jobs or 'an unknown number of'} jobs, {how}; {sweep.folder}", flush=True)
    sweep.watch(sys.stdout)
    return sweep


def _add(name: str, value: str, separator: str) -> None:
    """Put a value in front of an environment variable's others."""
    others = os.environ.get(name, "").split(separator)
    os.environ[name] = separator.join([value, *(other for other in others if other not in ("", value))])


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


def added() -> list[str]:
    """The overrides that the sweep which Hydra runs just now gives its jobs by itself."""
    return [word for sweep in begun_sweeps for word in sweep.added]


def _table(sweep: Sweep) -> str:
    """The text that a sweep ends with: a line a job with its main figures, and where to look next."""
    ended = jobs(sweep.folder)
    figures = [name for name in TABLE_METRICS if any(name in job.metrics for job in ended)]
    rows = [("job", "status", "seconds", *figures, "")]
    for job in ended:
        measured = [f"{job.metrics[name]:.4f}" if name in job.metrics else "" for name in figures]
        rows.append((job.name, job.status, f"{job.seconds:.1f}", *measured, job.setting(sweep.swept).removesuffix(": ")))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*(f"{cell:>{width}}" for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]).rstrip() for row in rows]
    runs = page_of_runs(sweep.uri)
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
