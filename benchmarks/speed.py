"""Speed, each figure beside its rival in the same run: ``python -m benchmarks.speed [--only ROW …] [--repeats 3] [--smoke]``.

pipeline   the eight steps on digits, beyond their own work, beside eight cold processes; and with everything reused
sweep      60 jobs, beside the same launcher without reuse (on 12 of them)
grid       experiments/smoke.yaml
heads      15 epochs of a head on the features of a frozen backbone, beside the backbone in every epoch (timed on some images)
features   images a second, beside a plain float32 loop
sampling   closest pairs, beside embedding each pair anew (timed on some rounds)
growth     the whole pipeline on 20 times as many images: time and peak memory

Nothing is downloaded; images are drawn with a seed into a temporary folder, which holds every home too. Times are medians of repeats that
alternate with the rival's. What was timed on a part is scaled up, and the table says so.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from bccp.core import config, step_graph
from bccp.core.paths import ROOT
from bccp.core.runtime import device
from bccp.core.runtime.threads import default_threads, limit_threads
from bccp.core.step_graph import SPECS
from bccp.data.closest_pairs import closest_pairs, n_pairs_for
from bccp.data.dataset import FeatureView, ImageView
from bccp.models import classifier
from bccp.models.architectures import ImageClassifier
from bccp.models.feature_cache import BATCH_SIZE, look_by, write_features
from bccp.models.fitting import training
from bccp.models.fitting.training_options import TrainingData, TrainingOptions
from bccp.models.training_set import one_hot

TYPES = ("none", "random", "l1_norm", "l2_norm", "cosine_similarity")
RATIOS = (0.1, 0.3, 0.5)
ACCURACIES = (0.5, 0.6, 0.7, 0.9)
N_CLASSES = 10
CP_RATIO = 0.4
EPOCHS = 15
GROWTH = 20
SHORT = ("train.epochs=3", "bayes_cutoff.epochs=3", "bayes_cutoff.refine_epochs=3")
"""For ``growth``: as many epochs of few images as of many."""


class Row(NamedTuple):
    """A line of the table; ``reached`` is None where there is nothing to reach."""

    what: str
    rival: str
    reach: str
    measured: str
    reached: bool | None


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes
    ----------
    repeats : int
    options : tuple of str
        Hydra options of ``pipeline``, ``sweep`` and ``grid``.
    launcher : tuple of str
        Hydra options of the sweeps besides.
    cold_steps : tuple of str
        The steps that run as cold processes.
    types, ratios, accuracies : tuple
        Of the sweep.
    narrowed : tuple of str
        Hydra options of ``grid``, for fewer jobs.
    image_px : int
        Side of the images that a frozen backbone sees.
    trained, looked, sampled, rounds, photos : int
        Images of ``heads``; images that the backbone is timed on; images of ``sampling``, and its rounds that the rival is timed on; images
        of the smaller set of ``growth``.
    """

    repeats: int = 3
    options: tuple[str, ...] = ()
    launcher: tuple[str, ...] = ()
    cold_steps: tuple[str, ...] = step_graph.STEPS
    types: tuple[str, ...] = TYPES
    ratios: tuple[float, ...] = RATIOS
    accuracies: tuple[float, ...] = ACCURACIES
    narrowed: tuple[str, ...] = ()
    image_px: int = 224
    trained: int = 2000
    looked: int = 256
    sampled: int = 10_000
    rounds: int = 5
    photos: int = 1000


SMOKE = Sizes(
    repeats=1,
    options=("train.epochs=1", "bayes_cutoff.epochs=1", "bayes_cutoff.rounds=0", "tracking.wandb=disabled"),
    cold_steps=step_graph.STEPS[:3],
    types=("none", "random"),
    ratios=(0.3,),
    accuracies=(0.7,),
    narrowed=("cp_sampling.type=none", "cp_sampling.ratio=0.5"),
    image_px=32,
    trained=128,
    looked=64,
    sampled=256,
    rounds=1,
    photos=100,
)


class Ended(NamedTuple):
    """What a process took; its peaks of memory, of all and of what no file backs, are in bytes."""

    seconds: float
    resident: int
    anonymous: int


class Home:
    """A fresh home whose database is there already, and what runs in it."""

    def __init__(self, place: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=place))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "WANDB_", "BCCP_"))}
        self.environment = kept | {"BCCP_HOME": str(self.folder), "NETRC": str(self.folder / "none"), "MLFLOW_LOGGING_LEVEL": "WARNING"}
        self.environment |= {"PYTHONPATH": str(ROOT / "src"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        made = subprocess.run(
            [sys.executable, "-m", "bccp.tracking.store"], env=self.environment, check=True, capture_output=True, text=True
        )
        self.environment |= {"MLFLOW_TRACKING_URI": made.stdout.strip(), "MLFLOW_EXPERIMENT_NAME": "bccp"}  # as `make run` has them

    def run(self, command: Sequence[str]) -> Ended:
        """Run a command of the checkout to its good end."""
        output = self.folder / "output.txt"
        with output.open("w", encoding="utf-8") as log:
            start = time.perf_counter()
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
            peaks = {"VmHWM": 0, "RssAnon": 0}
            while process.poll() is None:
                for name, value in _memory(process.pid, peaks).items():
                    peaks[name] = max(peaks[name], value)
                time.sleep(0.02)
            seconds = time.perf_counter() - start
        if process.returncode:
            sys.exit(f"error: {shlex.join(command)} failed: {output.read_text(encoding='utf-8')[-2000:]}")
        return Ended(seconds, peaks["VmHWM"], peaks["RssAnon"])

    def pipeline(self, options: Sequence[str]) -> Ended:
        """``python main.py`` with these options."""
        return self.run([sys.executable, "main.py", *options])

    def steps(self) -> list[dict[str, Any]]:
        """What the newest run's summaries say of the steps: those of one, or of all jobs of a sweep."""
        newest = max((self.folder / "outputs").iterdir(), key=lambda folder: folder.stat().st_mtime)
        return [step for path in newest.rglob("summary.json") for step in json.loads(path.read_text(encoding="utf-8"))["steps"]]

    def tags(self, name: str) -> list[tuple[str, str, str]]:
        """Run, name and value of the tags whose names start so, of all runs."""
        with sqlite3.connect(self.folder / "mlflow.db") as database:
            return database.execute("SELECT run_uuid, key, value FROM tags WHERE key LIKE ?", (f"{name}%",)).fetchall()


def _memory(pid: int, wanted: dict[str, int]) -> dict[str, int]:
    """Figures of ``/proc/<pid>/status`` in bytes; none where the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: 1024 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if name in wanted}


def work(steps: Sequence[dict[str, Any]]) -> float:
    """The steps' own work, in seconds."""
    return sum(float(step["work_seconds"]) for step in steps)


def pipeline(place: Path, sizes: Sizes) -> Iterator[Row]:
    """The eight steps in a fresh process, by both ways to start them."""
    words = " ".join(sizes.options)
    starts = {
        "python main.py": ([sys.executable, "main.py", *sizes.options], 8, 2.5),
        "mlflow run .": (["mlflow", "run", ".", "--env-manager=local", "-P", f"hydra_options={words}"], 12, 5.5),
    }
    beyond: dict[str, list[float]] = {name: [] for name in starts}
    reused: dict[str, list[float]] = {name: [] for name in starts}
    idle = place / "idle"
    idle.mkdir()
    (idle / "MLproject").write_text("name: idle\nentry_points:\n  main:\n    command: 'true'\n", encoding="utf-8")
    # what MLflow itself takes: to be imported, and to run a project that does nothing
    opens = {
        "python main.py": [sys.executable, "-c", "import mlflow.store.tracking.sqlalchemy_store"],
        "mlflow run .": ["mlflow", "run", str(idle), "--env-manager=local"],
    }
    alone: dict[str, list[float]] = {name: [] for name in starts}
    cold: list[float] = []
    for _ in range(sizes.repeats):
        for name, (command, _, _) in starts.items():
            home = Home(place)
            alone[name].append(home.run(opens[name]).seconds)
            beyond[name].append(home.run(command).seconds - work(home.steps()))
            reused[name].append(home.run(command).seconds)
            assert {step["status"] for step in home.steps()} == {"reused"}
        cold.append(cold_processes(Home(place), sizes))
    rival = f"{len(sizes.cold_steps)} cold processes (`mlflow run <step>`): {median(cold):.1f} s"
    for name, (_, reach, _) in starts.items():
        seconds = median(beyond[name])
        yield Row(f"eight steps on digits beyond their work, `{name}`", rival, f"≤ {reach} s", f"{seconds:.1f} s", seconds <= reach)
    for name, (_, _, reach) in starts.items():
        seconds = median(reused[name])
        itself = f"{shlex.join(Path(word).name for word in opens[name])}: {median(alone[name]):.1f} s"
        yield Row(f"everything reused, `{name}`", itself, f"≤ {reach} s", f"{seconds:.1f} s", seconds <= reach)


def cold_processes(home: Home, sizes: Sizes) -> float:
    """Seconds beyond their work of the steps, each started alone by ``mlflow run``."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT)):
        checked = config.load(compose("config", overrides=list(sizes.options)), base=ROOT)
    seconds = 0.0
    for step in sizes.cold_steps:
        versions = {key.removeprefix("bccp.output."): value for _, key, value in home.tags("bccp.output.")}
        section, spec = checked.section(step), SPECS[step]
        given = {name: config.encode(getattr(section, name)) for name in section.__dataclass_fields__}
        given |= {name: f"{name}:{versions[name]}" for name in (*spec.inputs, *spec.optional_inputs) if name in versions}
        words = [word for name, value in given.items() for word in ("-P", f"{name}={value}")]
        seconds += home.run(["mlflow", "run", step, "--env-manager=local", *words]).seconds
    return seconds - sum(float(value) for _, _, value in home.tags("bccp.work_seconds"))


def sweep(place: Path, sizes: Sizes) -> Iterator[Row]:
    """Types, ratios and accuracies; the rival runs the jobs of the last type, and all take it as long as these."""
    launcher = ["-m", *sizes.launcher, *sizes.options]

    def grid(types: Sequence[str]) -> list[str]:
        named = {"cp_sampling.type": types, "cp_sampling.ratio": sizes.ratios, "noisy_labels.user_accuracy": sizes.accuracies}
        return [f"{name}={','.join(map(str, values))}" for name, values in named.items()]

    home, rival = Home(place), Home(place)
    seconds = home.pipeline([*launcher, *grid(sizes.types)]).seconds
    one_each = len(sizes.ratios) * len(sizes.accuracies)
    slow = rival.pipeline([*launcher, "main.cache=false", *grid(sizes.types[-1:])]).seconds
    of_run = {run: float(value) for run, _, value in home.tags("bccp.work_seconds")}
    by_key: dict[str, list[float]] = {}
    for run, name, value in home.tags("bccp.key"):
        if name == "bccp.key" and run in of_run:
            by_key.setdefault(value, []).append(of_run[run])
    n_jobs, n_executed = one_each * len(sizes.types), sum(map(len, by_key.values()))
    share = work(home.steps()) / sum(map(min, by_key.values()))
    yield Row(
        f"a sweep of {n_jobs} jobs on digits ({shlex.join(sizes.launcher) or 'hydra/launcher=joblib, the default'})",
        f"the same with main.cache=false: {slow:.0f} s for {one_each} jobs, so {slow * len(sizes.types):.0f} s",
        "work ≤ 1.1 times that of the distinct steps, each once; ≤ 300 s",
        f"{share:.2f} times; {n_executed} steps for {len(by_key)} distinct; {seconds:.0f} s, "
        f"{slow * len(sizes.types) / seconds:.1f} times faster",
        share <= 1.1 and n_executed == len(by_key) and seconds <= 300,
    )


def grid(place: Path, sizes: Sizes) -> Iterator[Row]:
    """The grid that shows whether a sweep works."""
    home = Home(place)
    seconds = home.pipeline(["-m", "+experiments=smoke", *sizes.narrowed, *sizes.launcher, *sizes.options]).seconds
    n_jobs = sum(1 for step in home.steps() if step["name"] == "test" and step["status"] in ("ran", "reused"))
    yield Row("experiments/smoke.yaml, to its report", "", "about two minutes", f"{seconds:.0f} s for {n_jobs} jobs", seconds <= 120)


def backbone(image_px: int, images: ImageView) -> ImageClassifier:
    """A frozen MobileNetV2 with random weights, and the batch statistics of some images: without them its features vanish."""
    model = classifier.build_classifier("mobilenet_v2", N_CLASSES, image_size=image_px, dropout=0.2, seed=0)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
    with torch.no_grad():
        model.train().embed(torch.from_numpy(images[:BATCH_SIZE]))
    model.freeze_backbone()
    return model.eval()


def draw_images(place: Path, n_images: int, image_px: int, n_wanted: int) -> ImageView:
    """So many images of random pixels in a file, memory-mapped, which are gone over again where more are wanted."""
    path = Path(tempfile.mkdtemp(dir=place)) / "images.npy"
    rng = np.random.default_rng(0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n_images, image_px, image_px, 3))
    for start in range(0, n_images, BATCH_SIZE):
        array[start : start + BATCH_SIZE] = rng.integers(0, 256, array[start : start + BATCH_SIZE].shape, dtype=np.uint8)
    array.flush()
    return ImageView(np.load(path, mmap_mode="r"), None, np.arange(n_wanted) % n_images, np.full(n_wanted, -1))


def looked_at(model: ImageClassifier, images: ImageView, path: Path) -> FeatureView:
    """Features as the steps make and read them."""
    look = look_by(model, device.device_type())
    starts = range(0, len(images), BATCH_SIZE)
    write_features(path, len(images), lambda: (look(images[start : start + BATCH_SIZE]) for start in starts))
    return FeatureView([np.load(path, mmap_mode="r")], np.zeros(len(images), np.int64), np.arange(len(images)), model.n_features)


def plain_loop(model: ImageClassifier, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Features of images (n, S, S, 3) as one writes it first: float32, channels first."""
    with torch.inference_mode():
        pixels = torch.from_numpy(images).to(device.device_type()).permute(0, 3, 1, 2).contiguous().float() / 255
        return model.embed(pixels).cpu().numpy()


def seconds_of(function: Callable[[], Any]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def heads(place: Path, sizes: Sizes) -> Iterator[Row]:
    """Features once and epochs of the head on them; the rival's backbone, in the same dtype, is timed on some images."""
    images = draw_images(place, sizes.trained, sizes.image_px, sizes.trained)
    model, few = backbone(sizes.image_px, images), images.take(np.arange(sizes.looked))
    labels = np.arange(sizes.trained) % N_CLASSES
    ours, head, look = [], [], []
    for _ in range(sizes.repeats):
        look.append(seconds_of(lambda: looked_at(model, few, place / "few.npy")) / sizes.looked)
        start = time.perf_counter()
        features = looked_at(model, images, place / "heads.npy")
        head.append(seconds_of(lambda: _train_head(model, features, labels, place)))  # noqa: B023 - called at once
        ours.append(time.perf_counter() - start)
    rival = EPOCHS * median(look) * sizes.trained + median(head)
    yield Row(
        f"frozen MobileNetV2, {sizes.trained} images of {sizes.image_px} px, {EPOCHS} epochs of the head",
        f"the backbone in every epoch, {device.features_dtype(device.device_type())} too: {rival:.0f} s (from {sizes.looked} images)",
        "≥ 12 times faster",
        f"{rival / median(ours):.1f} times ({median(ours):.1f} s, the head {median(head):.1f} s of them)",
        rival >= 12 * median(ours),
    )


def _train_head(model: ImageClassifier, features: FeatureView, labels: npt.NDArray[np.int64], place: Path) -> None:
    options = TrainingOptions(epochs=EPOCHS, learning_rate=0.002, batch_size=64, augmentation="none", device=device.device_type())
    training.fit(model, TrainingData(features, one_hot(labels, N_CLASSES)), None, options, seed=0, folder=place / "head")


def features(place: Path, sizes: Sizes) -> Iterator[Row]:
    """Images a second."""
    images = draw_images(place, sizes.looked, sizes.image_px, sizes.looked)
    plain = backbone(sizes.image_px, images).to(device.device_type())
    model = copy.deepcopy(plain)
    ours, rival = [], []
    for _ in range(sizes.repeats):
        ours.append(seconds_of(lambda: looked_at(model, images, place / "features.npy")))
        starts = range(0, len(images), BATCH_SIZE)
        rival.append(seconds_of(lambda: [plain_loop(plain, images[start : start + BATCH_SIZE]) for start in starts]))  # noqa: B023
    dtype = device.features_dtype(device.device_type())
    reach = 3.0 if dtype == "bfloat16" else 1.6
    faster = median(rival) / median(ours)
    yield Row(
        f"features of images of {sizes.image_px} px, {dtype}",
        f"plain float32 loop: {len(images) / median(rival):.0f} images/s",
        f"≥ {reach:g} times",
        f"{faster:.2f} times ({len(images) / median(ours):.0f} images/s)",
        faster >= reach,
    )


def sampling(place: Path, sizes: Sizes) -> Iterator[Row]:
    """Closest pairs; the rival embeds both images of each of a round's pairs when it compares them."""
    images = draw_images(place, min(sizes.sampled, 2000), sizes.image_px, sizes.sampled)
    plain = backbone(sizes.image_px, images).to(device.device_type())
    model, labels = copy.deepcopy(plain), np.arange(sizes.sampled) % N_CLASSES
    n_pairs = n_pairs_for(CP_RATIO, sizes.sampled)

    def anew() -> None:
        rng = np.random.default_rng(0)
        for _ in range(sizes.rounds):
            drawn = [int(rng.choice(np.flatnonzero(labels == k))) for k in range(N_CLASSES)]
            for other in drawn[1:]:
                first, second = plain_loop(plain, images[[drawn[0], other]])
                np.linalg.norm(first - second)

    rival = median(seconds_of(anew) for _ in range(sizes.repeats)) * n_pairs / sizes.rounds
    start = time.perf_counter()
    embeddings = looked_at(model, images, place / "sampling.npy")
    embedded = time.perf_counter() - start

    def sample() -> None:
        closest_pairs(embeddings, labels, n_pairs=n_pairs, metric="l2_norm", rng=np.random.default_rng(0))

    alone = median(seconds_of(sample) for _ in range(sizes.repeats))
    what = f"closest pairs of {sizes.sampled} images of {sizes.image_px} px, ratio {CP_RATIO}, {N_CLASSES} classes"
    beside = f"embedding each pair anew: {rival:.0f} s (from {sizes.rounds} of {n_pairs} rounds)"
    yield Row(what, beside, "≥ 1000 times", f"{rival / alone:.0f} times ({alone:.2f} s)", rival >= 1000 * alone)
    both = alone + embedded
    yield Row(f"{what}, with their embeddings", beside, "≥ 3 times", f"{rival / both:.1f} times ({both:.0f} s)", rival >= 3 * both)


def growth(place: Path, sizes: Sizes) -> Iterator[Row]:
    """The whole pipeline on folders of small images."""
    took: dict[int, list[tuple[float, Ended]]] = {}
    folders = {n_images: draw_files(place, n_images) for n_images in (sizes.photos, GROWTH * sizes.photos)}
    for _ in range(sizes.repeats):
        for n_images, folder in folders.items():
            home = Home(place)
            own = ["data.source=folder", f"data.path={folder}", "noisy_labels.source=simulated"]
            ended = home.pipeline([*SHORT, *own, "tracking.wandb=disabled"])
            took.setdefault(n_images, []).append((work(home.steps()), ended))
    seconds, resident, anonymous = (
        [median(figure(*one) for one in took[n_images]) for n_images in folders]
        for figure in (lambda worked, _: worked, lambda _, ended: ended.resident, lambda _, ended: ended.anonymous)
    )
    slower, larger = seconds[1] / seconds[0], resident[1] / resident[0]
    yield Row(
        f"{GROWTH * sizes.photos} images of 32 px through the eight steps",
        f"{sizes.photos} images: {seconds[0]:.1f} s of work, peak {resident[0] / 2**20:.0f} MiB",
        "time ≤ 22 times, peak memory ≤ 1.2 times",
        f"{slower:.1f} times, {larger:.2f} times ({anonymous[1] / anonymous[0]:.2f} times without what files back)",
        slower <= 22 and larger <= 1.2,
    )


def draw_files(place: Path, n_images: int) -> Path:
    """A folder of class folders of small pictures, each class with a pattern of its own."""
    folder, rng = Path(tempfile.mkdtemp(dir=place)), np.random.default_rng(0)
    patterns = rng.integers(40, 216, (N_CLASSES, 8, 8, 3))
    for label in range(N_CLASSES):
        (folder / f"class{label}").mkdir()
    for number in range(n_images):
        label = number % N_CLASSES
        pixels = np.kron(patterns[label], np.ones((4, 4, 1))) + rng.normal(0, 40, (32, 32, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"class{label}" / f"{number:06d}.png", compress_level=1)
    return folder


ROWS: dict[str, Callable[[Path, Sizes], Iterator[Row]]] = {
    function.__name__: function for function in (pipeline, sweep, grid, heads, features, sampling, growth)
}


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| what | rival | reach | measured | reached? |", "|---|---|---|---|---|"]
    said = {True: "yes", False: "no", None: ""}
    return "\n".join([*lines, *(f"| {' | '.join(row[:4])} | {said[row.reached]} |" for row in rows)])


def about(module: str = "speed") -> str:
    """The command, by the module of this package, the commit and the machine."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    command = shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
    machine = f"{default_threads()} cores, {platform.processor() or platform.machine()}, {device.device_type()}, torch {torch.__version__}"
    return f"`{command}`, commit {done.stdout.strip() or 'unknown'}, {machine}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--repeats", type=int, help="3 where nothing else is said")
    parser.add_argument("--launcher", default="", help='Hydra options of the sweeps, as "hydra/launcher=joblib"')
    parser.add_argument("--options", default="", help="Hydra options of the rows pipeline, sweep and grid")
    parser.add_argument("--smoke", action="store_true", help="sizes that only show that it works")
    given = parser.parse_args()
    sizes = SMOKE if given.smoke else Sizes()
    changed = {"repeats": given.repeats or sizes.repeats, "launcher": tuple(shlex.split(given.launcher))}
    sizes = Sizes(**{**vars(sizes), **changed, "options": (*sizes.options, *shlex.split(given.options))})
    limit_threads(default_threads())
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        for name in given.only:
            print(f"{name} …", file=sys.stderr, flush=True)
            rows += ROWS[name](Path(place), sizes)
    print(f"{about()}; medians of {sizes.repeats}\n\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
