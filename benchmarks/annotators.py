"""Several users label the same images: ``python -m benchmarks.annotators [--seeds 10] [--data images.zip --feedback votes.csv]``.

Majority vote, Dawid and Skene's EM without a classifier, cleanlab's CROWDLAB and ours (both with the same classifier, calibrated on trusted
images), on simulated users of digits and, with ``--data`` (an archive with a folder a class) and ``--feedback`` (``image,label,user``), on
real ones; there the images that nobody voted on are the trusted ones, and a model is trained on them.

``right``: share of images whose pooled label is right. ``AUROC``, ``F1``: of finding the images whose majority label is wrong,
F1 at P(wrong) 0.5 and at the highest expected F1. ``ECE``: of P(majority label wrong), 15 bins of equal size. ``users``: mean error
of the users' estimated accuracies. All in %; for digits means and 95% intervals (Student's t) over the seeds, and the differences
paired by seed.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab.multiannotator import get_label_quality_multiannotator
from PIL import Image
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from bccp.labels import feedback
from bccp.labels.annotators import judge_votes, users_table
from bccp.labels.bayes_cutoff import auroc, probability_wrong
from bccp.labels.calibration import apply_temperature, fit_temperature
from bccp.labels.posterior import expected_f1_cutoff
from bccp.models import classifier
from bccp.models.fitting import training
from bccp.models.fitting.training_options import TrainingData, TrainingOptions

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

METRICS = ("right", "AUROC", "F1 at 0.5", "F1", "ECE", "users", "seconds")
RANDOM_SEED = 1


class Votes(NamedTuple):
    """Inputs of the methods; ``true`` labels and the users' ``accuracy``, which score them."""

    probs: Float  # (N, K)
    image: Index  # (M,)
    user: Index  # (M,)
    label: Index  # (M,)
    true: Index  # (N,)
    accuracy: Float  # (U,)

    def counted(self) -> Float:
        """Return the number of times each image was given each label, shape (N, K)."""
        counts = np.zeros(self.probs.shape)
        np.add.at(counts, (self.image, self.label), 1)
        return counts


class Found(NamedTuple):
    """Pooled labels (N,), P(majority label wrong) (N,), the users' accuracies (U,)."""

    labels: Index
    p_wrong: Float
    accuracy: Float


def majority_vote(votes: Votes, majority: Index) -> Found:
    """Users are as good as they agree with the majority."""
    counts = votes.counted()
    p_wrong = 1 - counts[np.arange(len(counts)), majority] / counts.sum(axis=1)
    agree = np.bincount(votes.user, votes.label == majority[votes.image], minlength=len(votes.accuracy))
    return Found(majority, p_wrong, agree / np.bincount(votes.user, minlength=len(votes.accuracy)))


def dawid_skene(votes: Votes, majority: Index) -> Found:
    """The EM of 1979, started at the shares of the votes, each user lent one vote a class by the matrix of all."""
    n_users, n_classes = len(votes.accuracy), votes.probs.shape[1]
    counts = votes.counted()
    believed = counts / counts.sum(axis=1, keepdims=True)
    for _ in range(100):
        matrices = np.zeros((n_users, n_classes, n_classes))  # user, label, true class
        np.add.at(matrices, (votes.user, votes.label), believed[votes.image])
        pooled = matrices.sum(axis=0) + 0.1
        matrices += pooled / pooled.sum(axis=0)
        share = believed.mean(axis=0)
        logs = np.log(matrices / matrices.sum(axis=1, keepdims=True))
        joint = np.tile(np.log(share + 1e-12), (len(counts), 1))
        np.add.at(joint, votes.image, logs[votes.user, votes.label])
        before, believed = believed, apply_temperature(joint, 1.0)
        if np.abs(believed - before).max() < 1e-4:
            break
    right = np.bincount(votes.user, believed[votes.image, votes.label], minlength=n_users)
    return Found(believed.argmax(axis=1), probability_wrong(believed, majority), right / np.bincount(votes.user, minlength=n_users))


def crowdlab(votes: Votes, majority: Index) -> Found:
    """cleanlab's, as it comes; where its consensus is not the majority label, the quality of the consensus is P(majority label wrong).

    Asked for the quality of the majority label itself, it does worse on digits (AUROC -3 to -7) and a point better on photographs.
    """
    table = np.full((len(votes.probs), len(votes.accuracy)), np.nan)
    table[votes.image, votes.user] = votes.label
    found = get_label_quality_multiannotator(table, votes.probs, verbose=False, return_detailed_quality=False)
    consensus = found["label_quality"]["consensus_label"].to_numpy(np.int64)
    quality = found["label_quality"]["consensus_quality_score"].to_numpy(np.float64)
    accuracy = found["annotator_stats"]["annotator_quality"].sort_index().to_numpy(np.float64)
    return Found(consensus, np.where(consensus == majority, 1 - quality, quality), accuracy)


def ours(votes: Votes, majority: Index) -> Found:
    """:func:`bccp.labels.annotators.judge_votes`."""
    pooled = judge_votes(votes.probs, votes.image, votes.user, votes.label, len(votes.accuracy), start=1.0).pooled
    return Found(pooled.posterior.argmax(axis=1), probability_wrong(pooled.posterior, majority), pooled.accuracy)


METHODS = {"majority": majority_vote, "Dawid-Skene, no classifier": dawid_skene, "cleanlab multiannotator": crowdlab, "ours": ours}


def measure(votes: Votes) -> dict[str, list[float]]:
    """Each method's ``METRICS``; ties of the majority are settled by chance."""
    chance = np.random.default_rng(RANDOM_SEED).random(votes.probs.shape)
    majority = (votes.counted() + 0.5 * chance).argmax(axis=1)
    wrong = majority != votes.true
    rows = {}
    for name, method in METHODS.items():
        start = time.perf_counter()
        found = method(votes, majority)
        seconds = time.perf_counter() - start
        cuts = [found.p_wrong > 0.5, found.p_wrong > expected_f1_cutoff(found.p_wrong)]
        f1 = [2 * (cut & wrong).sum() / max(cut.sum() + wrong.sum(), 1) for cut in cuts]
        bins = np.array_split(np.argsort(found.p_wrong, kind="stable"), 15)
        ece = sum(len(b) * abs(found.p_wrong[b].mean() - wrong[b].mean()) for b in bins) / len(wrong)
        error = np.nanmean(np.abs(found.accuracy - votes.accuracy))  # cleanlab's knows nothing of some users with few votes
        shares = ((found.labels == votes.true).mean(), auroc(found.p_wrong, wrong), *f1, ece, error)
        rows[name] = [*(100 * float(share) for share in shares), seconds]
    return rows


def simulated(kind: str, seed: int) -> Votes:
    """Digits: a linear model on a fifth of them, and users' votes on the rest."""
    rng = np.random.default_rng([seed, *kind.encode()])
    digits = load_digits()
    order = rng.permutation(len(digits.target))
    trusted, held, new = np.split(order, [250, 360])
    model = LogisticRegression(C=0.01, max_iter=1000).fit(digits.data[trusted], digits.target[trusted])
    temperature = fit_temperature(model.predict_proba(digits.data[held]), digits.target[held])
    probs = apply_temperature(model.predict_log_proba(digits.data[new]), temperature)
    true = digits.target[new].astype(np.int64)
    n_votes, accuracy = {
        "5 users, 0.5 to 0.9": (3, np.linspace(0.5, 0.9, 5)),
        "300 users, 1 or 2 votes an image": (2, rng.beta(7, 3, 300)),
        "4 good users, 1 of 0.1": (3, np.array([0.8, 0.8, 0.8, 0.8, 0.1])),
        "5 users, half of the images hard": (3, np.full(5, 0.7)),
    }[kind]
    image = np.repeat(np.arange(len(true)), n_votes)
    user = rng.random((len(true), len(accuracy))).argsort(axis=1)[:, :n_votes].ravel()
    chance = accuracy[user]
    other = (true[image] + rng.integers(1, 10, len(image))) % 10
    if "hard" in kind:  # where everyone errs more often, half of the time towards one and the same class
        hard = rng.random(len(true)) < 0.5
        chance = chance + np.where(hard[image], -0.2, 0.2)
        alike = (true + rng.integers(1, 10, len(true))) % 10
        other = np.where(hard[image] & (rng.random(len(image)) < 0.5), alike[image], other)
    label = np.where(rng.random(len(image)) < chance, true[image], other)
    if "1 or 2" in kind:
        kept = (np.arange(len(image)) % 2 == 0) | (rng.random(len(image)) < 0.5)
        image, user, label = image[kept], user[kept], label[kept]
    return _used(Votes(probs, image, user, label, true, accuracy))


KINDS = ("5 users, 0.5 to 0.9", "300 users, 1 or 2 votes an image", "4 good users, 1 of 0.1", "5 users, half of the images hard")


def real(data: Path, votes_file: Path, architecture: str, epochs: int) -> tuple[Votes, list[str]]:
    """An archive's images and what people said of them; the users' names."""
    with zipfile.ZipFile(data) as archive:
        names = sorted(n for n in archive.namelist() if n.lower().endswith((".png", ".jpg", ".jpeg")))
        ids = ["/".join(PurePosixPath(n).parts[-2:]) for n in names]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB")) for n in names])
    classes, true = np.unique([i.split("/")[0] for i in ids], return_inverse=True)
    said = feedback.sort_out(feedback.read_feedback(votes_file), images=ids, classes=classes.tolist()).votes
    row = {image: n for n, image in enumerate(sorted({image for image, _ in said}))}
    users = sorted({user for _, user in said})
    place = {name: n for n, name in enumerate(ids)}
    new = np.array([place[image] for image in row])
    trusted = np.random.default_rng(RANDOM_SEED).permutation(np.setdiff1d(np.arange(len(ids)), new))
    held, trained = np.split(trusted, [len(trusted) // 10])
    model = classifier.build_classifier(architecture, len(classes), image_size=pixels.shape[1], dropout=0.5, seed=RANDOM_SEED)
    one_hot = np.eye(len(classes), dtype=np.float32)[true]
    with tempfile.TemporaryDirectory() as folder:
        training.fit(
            model,
            TrainingData(pixels[trained], one_hot[trained]),
            TrainingData(pixels[held], one_hot[held]),
            TrainingOptions(epochs=epochs, learning_rate=0.003, batch_size=64, augmentation="generic"),
            seed=RANDOM_SEED,
            folder=Path(folder),
        )
    temperature = fit_temperature(classifier.probabilities(model, pixels[held]), true[held])
    probs = apply_temperature(classifier.logits(model, pixels[new]), temperature)
    image = np.array([row[i] for i, _ in said])
    user = np.array([users.index(u) for _, u in said])
    label = np.searchsorted(classes, list(said.values()))
    right = np.bincount(user, label == true[new][image]) / np.bincount(user)
    return Votes(probs, image, user, label, true[new], right), users


def _used(votes: Votes) -> Votes:
    """Without users who never voted: cleanlab does not take them."""
    seen, user = np.unique(votes.user, return_inverse=True)
    return votes._replace(user=user, accuracy=votes.accuracy[seen])


def table(rows: dict[str, list[str]]) -> str:
    """Markdown."""
    lines = ["| | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 1) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def interval(values: Float) -> str:
    """Mean and 95% half-width."""
    if len(values) < 2:
        return f"{values.mean():.2f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.1f} ± {half:.1f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="of the simulated users; 0: none")
    parser.add_argument("--data", type=Path, help="a zip with a folder a class")
    parser.add_argument("--feedback", type=Path, help="a CSV image,label,user")
    parser.add_argument("--model", default="small_cnn")
    parser.add_argument("--epochs", type=int, default=12, help="on the images that nobody voted on")
    given = parser.parse_args()
    if (given.data is None) != (given.feedback is None):
        parser.error("--data and --feedback belong together: give both or neither")
    for kind in KINDS if given.seeds else ():
        print(f"{kind} ...", file=sys.stderr, flush=True)
        runs = [measure(simulated(kind, seed)) for seed in range(1, given.seeds + 1)]
        found = {name: np.array([run[name] for run in runs]) for name in METHODS}
        rows = {name: [interval(column) for column in values.T] for name, values in found.items()}
        rows["ours minus cleanlab's"] = [interval(column) for column in (found["ours"] - found["cleanlab multiannotator"]).T]
        print(f"\nDigits, {kind}, {given.seeds} seeds\n\n{table(rows)}", flush=True)
    if given.data:
        print(f"{given.data.name} ...", file=sys.stderr, flush=True)
        votes, users = real(given.data, given.feedback, given.model, given.epochs)
        rows = {name: [f"{value:.2f}" for value in values] for name, values in measure(votes).items()}
        right = 100 * (votes.probs.argmax(axis=1) == votes.true).mean()
        print(f"\n{given.data.name}, {len(votes.label)} votes on {len(votes.true)} images; {given.model} alone: {right:.1f} right")
        print(f"\n{table(rows)}\n")
        pooled = judge_votes(votes.probs, votes.image, votes.user, votes.label, len(users), start=1.0).pooled
        report = users_table(users, pooled).assign(true=pd.Series(votes.accuracy))
        print(report.head(20).to_string(index=False, float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
