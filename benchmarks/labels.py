"""Finding wrong labels, and what it brings, against peers: ``python -m benchmarks.labels``, or ``make benchmark-labels``.

On digits the grid is ``experiments/labels.yaml``; with ``--data`` (a folder or an archive) it is ``experiments/labels_data.yaml``, with one
more cell for each ``--feedback`` file (``image,label[,user]``). Each run is the real pipeline. Beside the methods of the grid stand

* ``label_posterior, audited``: max(100, 2%) of the judged images are drawn at random and their true labels given as ``audit_file``.
  Whatever it is compared with is measured without these images too.
* the best of cleanlab's seven filters, chosen in hindsight for each seed: on the same model's probabilities, and on the last ones of
  ``label_posterior``.
* ``labels as given`` and ``true labels``, trained with the same replay, epochs and augmentation.
* with ``--losses``, the labels as given under losses that are robust to wrong ones.

What has been measured is kept under ``BCCP_HOME/benchmarks/labels`` by everything that it depends on (options, code, packages, files), and
finished steps of the pipeline are reused: started again, it goes on where it was stopped, and two processes may share the seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import bccp
from bccp.core import config, registries, step_graph
from bccp.core.digests import file_digest, folder_digest
from bccp.core.errors import BCCPError
from bccp.core.home import home
from bccp.core.overrides import split_options
from bccp.core.paths import ROOT
from bccp.core.runtime import device
from bccp.data import tables
from bccp.data.dataset import open_days
from bccp.pipeline import cache_keys
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from benchmarks import label_tables, pairs
from benchmarks.label_tables import AUDITED, GIVEN, OURS, TRUE, Judged, Result
from benchmarks.measures import read_seeds

SEED, METHOD = "main.random_seed", "bayes_cutoff"
NOISE, ACCURACY, CORRUPTION = "noisy_labels.noise", "noisy_labels.user_accuracy", "segregation.corruption"

FILTERS = (
    "prune_by_noise_rate",
    "prune_by_class",
    "both",
    "confident_learning",
    "predicted_neq_given",
    "low_normalized_margin",
    "low_self_confidence",
)
LOSSES = tuple(name for name in registries.LOSSES if name != "cross_entropy")
PACKAGES = ("numpy", "scipy", "scikit-learn", "pandas", "pillow", "torch", "torchvision", "lightning", "cleanlab")
JUDGING = ("fetch_data", "preprocessing", "segregation", "noisy_labels", "bayes_cutoff")
EPOCHS_A_TRAINING = 10
"""Plain epochs on all training images that count as one training, in the cost of judging."""


class Variant(NamedTuple):
    """One way to treat the labels.

    Attributes
    ----------
    name : str
    method : str
        ``bayes_cutoff.method``; empty where labels pass through.
    overrides : tuple of str
    """

    name: str
    method: str
    overrides: tuple[str, ...]

    @property
    def trains(self) -> bool:
        """True for methods on whose kept labels a model is trained; the others are measured at finding wrong labels only."""
        return self.method in ("", "label_posterior", "cleanlab")


class Cell(NamedTuple):
    """Images with wrong labels of one kind.

    Attributes
    ----------
    name : str
    overrides : tuple of str
    """

    name: str
    overrides: tuple[str, ...]


class Grid(NamedTuple):
    """Cells, variants and seeds of a benchmark, each combination of which is one job; ``fixed``: overrides of all jobs."""

    cells: list[Cell]
    variants: list[Variant]
    seeds: list[int]
    fixed: tuple[str, ...]


class Job(NamedTuple):
    """One run of the pipeline."""

    cell: Cell
    seed: int
    variant: Variant


def read_axes(path: Path) -> dict[str, list[Any]]:
    """The axes of an experiment file: each key that is swept, with its values."""
    params = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(path).hydra.sweeper.params))
    parser = OverridesParser.create()
    axes: dict[str, list[Any]] = {}
    for key, text in params.items():
        override = parser.parse_override(f"{key}={text}")
        axes[key] = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    return axes


def variant_of(values: Mapping[str, Any]) -> Variant:
    """The variant that keys of ``bayes_cutoff`` make."""
    overrides = tuple(f"{METHOD}.{key}={config.encode(value)}" for key, value in values.items())
    if not values.get("enabled", True):
        return Variant(GIVEN, "", overrides)
    method = str(values.get("method", OURS))
    others = [f"{key} {config.encode(value)}" for key, value in values.items() if key != "method"]
    return Variant(", ".join([method, *others]), method, overrides)


def grid(axes: Mapping[str, Sequence[Any]], *, feedback: Sequence[Path] = (), losses: Sequence[str] = ()) -> Grid:
    """Put an experiment's axes together.

    Parameters
    ----------
    axes : mapping
        From :func:`read_axes`, or fewer values of them.
    feedback : sequence of Path
        Files whose labels are judged instead of simulated ones, one more cell each.
    losses : sequence of str
        Values of ``train.loss``, tried on the labels as given.

    Returns
    -------
    Grid
        Audited images are added behind the default ``label_posterior``, robust losses and the true labels behind all others.
    """
    cells = []
    for corruption, noise, accuracy in itertools.product(axes[CORRUPTION], axes[NOISE], axes[ACCURACY]):
        overrides = ("noisy_labels.source=simulated", f"{CORRUPTION}={corruption}", f"{NOISE}={noise}", f"{ACCURACY}={accuracy}")
        cells.append(Cell(f"{corruption}, {noise}, {accuracy}", overrides))
    for path in feedback:
        cells.append(Cell(path.stem, ("noisy_labels.source=file", f"noisy_labels.feedback_file='{path}'")))
    variants = [variant_of(values) for values in axes[METHOD]]
    ours = next((place for place, variant in enumerate(variants) if variant.name == OURS), None)
    if ours is not None:
        variants.insert(ours + 1, variants[ours]._replace(name=AUDITED))
    variants += [Variant(f"{GIVEN}, {loss}", "", (f"{METHOD}.enabled=false", f"train.loss={loss}")) for loss in losses]
    variants.append(Variant(TRUE, "", ("noisy_labels.label=ground_truth",)))
    others = {key: values for key, values in axes.items() if key not in (CORRUPTION, NOISE, ACCURACY, METHOD, SEED)}
    several = next((key for key, values in others.items() if len(values) > 1), None)
    if several:
        raise BCCPError(f"{several} has several values in the experiment file: the benchmark knows one of it")
    fixed = tuple(f"{key}={config.encode(values[0])}" for key, values in others.items())
    return Grid(cells, variants, [int(seed) for seed in axes[SEED]], fixed)


def audited_idx(n_images: int, seed: int) -> npt.NDArray[np.int64]:
    """Positions of the images that are audited: max(100, 2%) of them, sorted; equal for equal seeds."""
    size = min(n_images, max(100, math.ceil(0.02 * n_images)))
    rng = np.random.default_rng([seed, *b"audited images"])
    return np.sort(rng.choice(n_images, size, replace=False)).astype(np.int64)


def trainings(section: Mapping[str, Any], n_trusted: int, n_judged: int) -> float:
    """The cost of judging as a multiple of ten plain epochs on all training images; forward passes are not counted.

    Parameters
    ----------
    section : mapping
        ``bayes_cutoff`` of a run's configuration.
    n_trusted, n_judged : int
        Training images of either kind. Without trusted ones, the other folds' given labels are what the judging models are fitted to.

    Returns
    -------
    float
    """
    convex = section["judge"] == "features" if not n_trusted else section["refine"] == "stack"
    if convex:  # of features, which all models share, or of pixels
        return 0.0
    by_folds = section["folds"] * n_trusted + (section["folds"] - 1) * n_judged
    judges = n_trusted or by_folds
    students = by_folds if section["refine"] == "cross_fit" else n_trusted + n_judged
    rounds = section["rounds"] if section["method"] == "label_posterior" else 0
    seen = section["epochs"] * judges + rounds * section["refine_epochs"] * students
    return float(seen / (EPOCHS_A_TRAINING * (n_trusted + n_judged)))


def clean_filters(given: npt.NDArray[np.int64], probs: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Flags of cleanlab's ``FILTERS``, shape (7, N)."""
    from cleanlab.filter import find_label_issues

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "May not flag all label issues", UserWarning)  # of classes with one image or none
        return np.array([find_label_issues(given, probs, filter_by=name, n_jobs=1) for name in FILTERS], np.bool_)


def cleanlab_accuracy(given: npt.NDArray[np.int64], probs: npt.NDArray[np.float64]) -> float:
    """Estimate the share of right labels as cleanlab does: the trace of its joint distribution of given and true labels."""
    from cleanlab.count import estimate_joint

    return float(np.trace(estimate_joint(given, probs)))


class Store:
    """Store of results: ``results.jsonl`` (a line a run), and beside it the labels as they were judged.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines = folder / "results.jsonl"
        (folder / "judged").mkdir(parents=True, exist_ok=True)
        self.records: dict[str, dict[str, Any]] = {}
        if self.lines.exists():
            text = self.lines.read_text(encoding="utf-8")
            if not text.endswith("\n"):
                with self.lines.open("a", encoding="utf-8") as stream:
                    stream.write("\n")
            for line in text.splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line that a killed process left unfinished
                    record = json.loads(line)
                    self.records[record["key"]] = record

    def find(self, key: str, *, trained: bool) -> Result | None:
        """The result under a key; one without training does not do where it is wanted."""
        record = self.records.get(key)
        if record is None or (trained and not record["trained"]):
            return None
        return Result(record["metrics"], record["seconds"], record["trainings"], self._judged(record["judged"]))

    def add(self, key: str, result: Result, about: Mapping[str, Any]) -> None:
        """Keep a result; what it was measured on is written first."""
        name = None
        if result.judged is not None:
            name = f"{key[:32]}.npz"
            fresh = self.folder / "judged" / f".{name}.{time.time_ns()}.npz"
            np.savez_compressed(fresh, **result.judged._asdict())
            fresh.replace(self.folder / "judged" / name)
        figures = {"metrics": result.metrics, "seconds": result.seconds, "trainings": result.trainings, "judged": name}
        record = {"key": key, **about, **figures}
        with self.lines.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
        self.records[key] = record

    def _judged(self, name: str | None) -> Judged | None:
        if name is None:
            return None
        with np.load(self.folder / "judged" / name) as arrays:
            return Judged(**{field: arrays[field] for field in Judged._fields})


class ChangedError(Exception):
    """The code or the configuration is no longer what it was at the start, so that nobody knows what a result comes from."""


class Bench:
    """Runs jobs, or finds what they gave before.

    Parameters
    ----------
    store : Store
    base : sequence of str
        Overrides of every run, and behind them
    options : sequence of str
        those of the command line.
    trained : bool
        Whether models are trained on what is left.
    """

    def __init__(self, store: Store, base: Sequence[str], options: Sequence[str], *, trained: bool) -> None:
        self.store = store
        self.base = list(base)
        self.options = list(options)
        self.trained = trained
        self.commit = commit()
        self._sources = source_digests()
        self._ledgers: dict[str, Ledger] = {}

    def overrides(self, job: Job) -> list[str]:
        """Overrides by which a job's run differs from the default one; moot ones left out, so that equal runs are equal."""
        cell = [o for o in job.cell.overrides if job.variant.name != TRUE or not o.startswith((NOISE, ACCURACY))]
        return [*self.base, *self.options, *cell, f"{SEED}={job.seed}", *job.variant.overrides]

    def key(self, job: Job) -> str:
        """Everything that a job's result depends on, as 64 hex digits."""
        overrides = self.overrides(job)
        parts = {
            "overrides": [text.partition("=")[0] if _file(text) else text for text in overrides],
            "files": [path_digest(path) for path in map(_file, overrides) if path],
            "audited": job.variant.name == AUDITED,
            **_surroundings(),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def find(self, job: Job) -> Result | None:
        """Stored result of the job, where there is one."""
        return self.store.find(self.key(job), trained=self._trains(job))

    def run(self, job: Job, audit_file: Path | None = None) -> Result:
        """Run the pipeline and keep what came of it."""
        steps = [] if self._trains(job) else [f"main.execute_steps=[{','.join(JUDGING)}]"]
        audit = [f"{METHOD}.audit_file='{audit_file}'"] if audit_file else []
        with contextlib.redirect_stdout(io.StringIO()):
            summary = bccp.run([*self.overrides(job), *audit, *steps, "tracking.wandb=disabled"])
        self.check_sources()
        result = self.result_of(summary, job.variant)
        about = {"cell": job.cell.name, "seed": job.seed, "variant": job.variant.name, "commit": self.commit, "trained": self._trains(job)}
        self.store.add(self.key(job), result, about | {"outputs": _outputs(summary)})
        return result

    def check_sources(self) -> None:
        """Raise ChangedError where the code is no longer what it was at the start."""
        if source_digests() != self._sources:
            raise ChangedError("files of src, of the steps or config.yaml were changed while the benchmark ran: start it again")

    def audit_file(self, judged: Judged, seed: int) -> Path:
        """The audited images with their true labels; equal ones are one file."""
        chosen = audited_idx(len(judged.images), seed)
        rows = pd.DataFrame({"image": judged.images[chosen], "label": judged.classes[judged.true[chosen]]})
        name = hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()[:16]
        path = self.store.folder / "audits" / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        tables.write(rows, path)
        return path

    def _trains(self, job: Job) -> bool:
        return self.trained and job.variant.trains

    def result_of(self, summary: Mapping[str, Any], variant: Variant) -> Result:
        if not variant.method:
            return Result(summary["metrics"], None, None, None)
        ledger = self._ledger(summary["config"]["tracking"]["mlflow_uri"])
        outputs = _outputs(summary)
        folders = {
            name: ledger.fetch(f"{name}:{outputs[name]}") for name in ("clean_data", "segregated_data", "true_labels", "cleansed_labels")
        }
        judged, n_trusted = read_judged(folders, variant.method)
        run_id = next(step["run_id"] for step in summary["steps"] if step["name"] == METHOD)
        cost = trainings(summary["config"][METHOD], n_trusted, len(judged.images))
        return Result(summary["metrics"], whole_seconds(ledger, run_id), cost, judged)

    def _ledger(self, configured: str | None) -> Ledger:
        uri, _ = ledger_uri(configured)
        if uri not in self._ledgers:
            self._ledgers[uri] = Ledger(uri)
        return self._ledgers[uri]


def read_judged(folders: Mapping[str, Path], method: str) -> tuple[Judged, int]:
    """The target day's training images whose truth is known, as they were judged; and the number of trusted training images.

    Parameters
    ----------
    folders : mapping of str to Path
        Of the artifacts, by name.
    method : str
        ``bayes_cutoff.method``.

    Returns
    -------
    judged : Judged
    n_trusted : int
    """
    days = open_days(folders["segregated_data"], folders["clean_data"])
    table = tables.read(folders["cleansed_labels"] / "cleansed_labels.csv", dtypes={"score": float})
    truth = tables.read(folders["true_labels"] / "true_labels.csv").set_index("image")["label"]
    training = set(days.ids(days.target_day, "train")) & set(truth.index)
    rows = table["image"].isin(training).to_numpy()
    probs = np.load(folders["cleansed_labels"] / "probabilities.npy")[rows].astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    table = table[rows]
    given, score = days.encode(table["given_label"].tolist()), table["score"].to_numpy()
    looks_at_labels = method in ("label_posterior", "cleanlab")
    judged = Judged(
        images=table["image"].to_numpy(str),
        classes=np.array(days.classes),
        given=given,
        true=days.encode(truth[table["image"]].tolist()),
        score=score,
        stated=score if looks_at_labels else np.empty(0),  # of cleanlab it is 1 - self-confidence
        above=(table["above_cutoff"] == "True").to_numpy(),
        filters=clean_filters(given, probs) if looks_at_labels else np.empty((0, len(table)), np.bool_),
        estimated=np.array(cleanlab_accuracy(given, probs) if method == "cleanlab" else np.nan),
    )
    return judged, 0 if days.target_day == "monday" else len(days.ids("monday", "train"))


def whole_seconds(ledger: Ledger, run_id: str) -> float:
    """Seconds of a step's own work, with what it took ready from other steps and pipelines (such as Monday's model)."""
    run = ledger.client.get_run(run_id)
    seconds = float(run.data.tags["bccp.work_seconds"])
    for name in ("monday_model", "student"):
        made = maker(ledger, run, name)
        if made is not None and made.info.end_time <= run.info.start_time:
            seconds += (made.info.end_time - made.info.start_time) / 1000
    return seconds


def maker(ledger: Ledger, run: Any, name: str) -> Any:
    """The first run that made what another one took from the ledger under this name; None where it took nothing."""
    version = run.data.tags.get(f"bccp.input.{name}")
    if version is None:
        return None
    wanted = f"tags.`bccp.output.{name}` = '{version}' and attributes.status = 'FINISHED'"
    found = ledger.client.search_runs([run.info.experiment_id], wanted, order_by=["attributes.start_time ASC"], max_results=1)
    return found[0] if found else None


def commit() -> str:
    """The checkout's commit, with a ``+`` where files differ from it; empty where git does not tell."""
    said = [
        subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
    ]
    return said[0] + "+" * bool(said[1])


def jobs(plan: Grid) -> Iterator[Job]:
    """All jobs, seed by seed, so that what is finished compares everything."""
    for seed in plan.seeds:
        for cell in plan.cells:
            for variant in plan.variants:
                yield Job(cell, seed, variant)


def measure(bench: Bench, plan: Grid, *, only_report: bool = False) -> tuple[label_tables.Found, list[str]]:
    """Run whatever is not there yet.

    Parameters
    ----------
    bench : Bench
    plan : Grid
    only_report : bool
        Run nothing.

    Returns
    -------
    found : dict
        Result by seed, by (cell, variant).
    problems : list of str
        A line for each job that failed.
    """
    todo = list(jobs(plan))
    found: label_tables.Found = {}
    problems: list[str] = []
    n_run, started = 0, time.monotonic()
    for number, job in enumerate(todo, 1):
        place = f"seed {job.seed} | {job.cell.name} | {job.variant.name}"
        try:
            result = bench.find(job)
            if result is None and not only_report:
                left = (time.monotonic() - started) / n_run * (len(todo) - number + 1) if n_run else None
                print(f"{number}/{len(todo)}, {_time_left(left)}: {place}", file=sys.stderr, flush=True)
                audit = None
                if job.variant.name == AUDITED:
                    seen = found.get((job.cell.name, OURS), {}).get(job.seed)
                    if seen is None or seen.judged is None:
                        raise BCCPError(f"{OURS} failed, which would have told which images may be audited")
                    audit = bench.audit_file(seen.judged, job.seed)
                result = bench.run(job, audit)
                n_run += 1
        except ChangedError:
            raise
        except Exception as error:
            if not isinstance(error, BCCPError):
                traceback.print_exc()
            problems.append(f"{place}: {type(error).__name__}: {error}".splitlines()[0])
            print(f"failed: {problems[-1]}", file=sys.stderr, flush=True)
            continue
        if result is not None:
            found.setdefault((job.cell.name, job.variant.name), {})[job.seed] = result
    return found, problems


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return "time left unknown"
    return f"at most {seconds / 3600:.1f} h left" if seconds > 5400 else f"at most {seconds / 60:.0f} min left"


def source_digests() -> dict[str, int]:
    """When each file that results depend on was last changed."""
    files = [ROOT / "config.yaml", *(ROOT / step / "run.py" for step in step_graph.STEPS), *(ROOT / "src" / "bccp").rglob("*.py")]
    return {str(path): path.stat().st_mtime_ns for path in files}


def _outputs(summary: Mapping[str, Any]) -> dict[str, str]:
    return {name: version for step in summary["steps"] for name, version in step["outputs"].items()}


def _file(override: str) -> Path | None:
    """The file or folder that an override's value names."""
    value = override.partition("=")[2].strip("'\"")
    path = Path(value).expanduser()
    return path if "/" in value and path.exists() else None


@functools.cache
def path_digest(path: Path) -> str:
    return folder_digest(path) if path.is_dir() else file_digest(path)


@functools.cache
def _surroundings() -> dict[str, Any]:
    """The code, packages and device that results come from."""
    return {
        "benchmark": file_digest(Path(__file__)),
        "code": {step: cache_keys.source_digests(ROOT / step / "run.py") for step in step_graph.STEPS},
        "config": file_digest(ROOT / "config.yaml"),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": device.device_type(),
    }


def _chosen(axes: dict[str, list[Any]], key: str, wanted: Sequence[str] | None) -> None:
    """Leave of an axis what the command line asks for."""
    if wanted is not None:
        numbers = key == ACCURACY
        axes[key] = [float(value) if numbers else value for value in wanted]


def chosen_images(data: Path | None, feedback: str | None) -> tuple[list[str], list[Path]]:
    """Parse ``--data`` and ``--feedback``: options that name the images, and the files of given labels."""
    files = [Path(text.strip()).expanduser().resolve() for text in (feedback or "").split(",") if text.strip()]
    if data is None and files:
        raise BCCPError("--feedback needs --data: say which images the labels are of")
    return pairs.images(data), files


def free_options(texts: Sequence[str]) -> list[str]:
    """The Hydra options behind ``--``; what the benchmark itself varies is refused."""
    options = [word for text in texts for word in split_options(text)]
    taken = next((o for o in options if o.partition("=")[0] in (SEED, NOISE, ACCURACY, CORRUPTION, "main.execute_steps")), None)
    if taken:
        raise BCCPError(f"the option {taken} is an axis of the benchmark: use its own arguments, which --help shows")
    return options


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or archive with a folder a class, instead of digits")
    parser.add_argument("--feedback", help="files of given labels for it, image,label[,user], separated by commas")
    parser.add_argument("--seeds", type=read_seeds, help="a number (3: 1 to 3) or a range (4-6), instead of the experiment file's")
    parser.add_argument("--accuracies", nargs="*", help="of these only")
    parser.add_argument("--noises", nargs="*", help="of these only; none with --data: the feedback files alone")
    parser.add_argument("--corruptions", nargs="+", help="of these only")
    parser.add_argument("--methods", nargs="+", help="of these only, by name as in the tables")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=[], help="robust losses to try on the labels as given")
    parser.add_argument("--no-training", action="store_true", help="find wrong labels only")
    parser.add_argument("--only-report", action="store_true", help="run nothing, report what is there")
    parser.add_argument("--name", help="of the files under BCCP_HOME/benchmarks/labels; digits or the data's name")
    parser.add_argument("options", nargs="*", help="Hydra options of all runs, after --")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print and store; the status is 1 where a run failed."""
    given = _arguments(words)
    axes = read_axes(ROOT / "experiments" / ("labels_data.yaml" if given.data else "labels.yaml"))
    for key, wanted in ((ACCURACY, given.accuracies), (NOISE, given.noises), (CORRUPTION, given.corruptions)):
        _chosen(axes, key, wanted)
    source, feedback = chosen_images(given.data, given.feedback)
    plan = grid(axes, feedback=feedback, losses=given.losses)
    if given.seeds:
        plan = plan._replace(seeds=given.seeds)
    if given.methods:
        unknown = set(given.methods) - {variant.name for variant in plan.variants}
        if unknown:
            raise BCCPError(f"--methods {unknown.pop()!r} is unknown: use {', '.join(repr(v.name) for v in plan.variants)}")
        plan = plan._replace(variants=[variant for variant in plan.variants if variant.name in given.methods])
    if given.no_training:
        plan = plan._replace(variants=[variant for variant in plan.variants if variant.method])
    options = free_options(given.options)
    name = given.name or (given.data.stem if given.data else "digits")
    bench = Bench(Store(home() / "benchmarks" / "labels"), [*source, *plan.fixed], options, trained=not given.no_training)
    found, problems = measure(bench, plan, only_report=given.only_report)
    command = "python -m benchmarks.labels " + " ".join(words if words is not None else sys.argv[1:])
    names = [cell.name for cell in plan.cells], [variant.name for variant in plan.variants]
    report = label_tables.Report(found, *names, audited_idx, digits=not given.data)
    about = [f"`{command.strip()}`, commit {bench.commit or 'unknown'}, {device.device_type()}."]
    if given.data:
        chosen = f"{len(plan.cells)} cells and {len(plan.seeds)} seeds"
        about.append(f"Fewer than on digits, chosen in experiments/labels_data.yaml or on the command line: {chosen}.")
    text = report.text(name, about, problems)
    print(text)
    report.cells_table().to_csv(bench.store.folder / f"{name}.csv", index=False, lineterminator="\n")
    (bench.store.folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(f"stored: {bench.store.folder / name}.md and .csv", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    try:
        status = main()
    except (BCCPError, ChangedError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)
