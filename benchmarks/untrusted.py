"""Wrong labels where nothing is trusted: ``python -m benchmarks.untrusted``, or ``make benchmark-untrusted DATA=… FEEDBACK=…``.

    python -m benchmarks.untrusted [--data photographs.zip,images.zip] [--feedback people.csv,three_users.csv] [--seeds 5]
        [--only digits textures data users views speed] [--runs runs.csv] [-- options]

digits     The built-in digits by their pixels: no, 10% and 30% wrong labels, each of them any other class. Beside it the backbone's
           features, and both together.
textures   Surfaces with subtle defects, which are drawn here and which the backbone's features hardly tell apart: no, 10% and 25% wrong
           labels, 25% in pairs (each class taken for the next one), and labels drawn at random.
data       Each folder or archive of ``--data``, with a folder a class, which is the truth. The images that a file of ``--feedback`` names
           have its labels: with a column ``user`` those of one user, another one for each seed. Data that no file is about has the labels
           of ``textures``.
users      Files of ``--feedback`` with a column ``user``: the judge of the majority's label, beside the users' own model on the same p.
views      Photographs of ``--data`` whose second view is made of the pictures that the pipeline keeps, and of the originals.
speed      CPU seconds by numbers of images and classes, on features that are made up.

The judge stands beside cleanlab's filter and today's estimate (:mod:`bccp.labels.calibration`) on the p of its first regression and of its
pool. The pipeline prepares the images, the backbone looks at them once in both views, duplicates are in one fold. Labels change at P(wrong)
and P(suggestion) of 0.5 and 0.8; ``all changed`` gives each image its likeliest class, and with cleanlab those that its filter finds. The
audit is one of 50 images at random, with known answers, the mean of 20 such draws.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from cleanlab.rank import get_label_quality_scores
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest

from bccp.core.errors import BCCPError
from bccp.core.runtime.threads import limit_threads
from bccp.data.array_types import Float, Images, Index
from bccp.data.duplicates import assign_folds, duplicate_groups, joined_by_features
from bccp.data.label_tables.votes import majority
from bccp.labels import annotators, bayes_cutoff, calibration, posterior
from bccp.labels.confident_changes import choose_changes
from bccp.labels.feature_judges import judges_out_of_fold, neighbours_out_of_fold, regressions_out_of_fold
from bccp.labels.untrusted_audit import calibrate_untrusted
from bccp.labels.untrusted_judge import UntrustedJudgement, judge_untrusted
from bccp.models.logistic_regression import fit_scaling
from benchmarks import textures
from benchmarks.frozen_judge import ranking, views_of
from benchmarks.measures import calibration_error, estimate
from benchmarks.pairs import images
from benchmarks.photographs import Prepared, prepare
from benchmarks.speed import Row, about, table

N_FOLDS, N_AUDITED, N_AUDITS = 5, 50, 20

N_TEXTURES = 480

PEOPLE = (3000, 10000)
"""Numbers of images with people's labels."""

SIZES = ("486x3", "3000x10", "10000x10", "3000x100", "5000x1000")

JUDGE, CLEANLAB, TODAY = "judge", "cleanlab", "today's estimate"
ON_VIEW, ON_POOL = "on view 1", "on the pool"

FIGURES = {
    "AUROC": 100,
    "AP": 100,
    "ECE": 100,
    "at least": 100,
    "at most": 100,
    "wrong": 100,
    "right before": 100,
    "right at 0.5": 100,
    "right at 0.8": 100,
    "all changed": 100,
    "changed at 0.8": 1,
    "audited share off": 100,
    "sample mean off": 100,
    "audited ECE": 100,
    "seconds": 1,
}
"""Columns of the tables, and by what their values are multiplied."""

SURE = 0.9

RANDOM = "random"

PARTS = ("digits", "textures", "data", "users", "views", "speed")


class Seen(NamedTuple):
    """Images as judges see them; N images.

    Attributes
    ----------
    name : str
    views : list of ndarray of float, shape (N, D_v)
    true : ndarray of int64, shape (N,)
    groups : ndarray of int64, shape (N,)
        Of duplicates.
    classes : list of str
    images : list of str
        Names.
    """

    name: str
    views: list[npt.NDArray[Any]]
    true: Index
    groups: Index
    classes: list[str]
    images: list[str]


class Case(NamedTuple):
    """Labels to judge: what they are, the positions of n images, and their given labels."""

    labels: str
    places: Index
    given: Index


class Runs:
    """Measurements: a line for each case, seed and judge.

    Parameters
    ----------
    path : Path, optional
        CSV that gets each line at once; what it holds is not measured again.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.table = pd.read_csv(path) if path is not None and path.exists() else pd.DataFrame(columns=["data", "labels", "seed", "judge"])

    def measure(self, data: str, labels: str, seed: int, judged: Callable[[], dict[str, dict[str, float]]]) -> None:
        """Add the lines of a case, by judge, unless they are there."""
        found = self.table
        if ((found["data"] == data) & (found["labels"] == labels) & (found["seed"] == seed)).any():
            return
        lines = [{"data": data, "labels": labels, "seed": seed, "judge": judge} | figures for judge, figures in judged().items()]
        self.table = pd.concat([found, pd.DataFrame(lines)], ignore_index=True) if len(found) else pd.DataFrame(lines)
        if self.path is not None:
            self.table.to_csv(self.path, index=False)
        print(f"{data}, {labels}, seed {seed}: done", file=sys.stderr, flush=True)


def uniform(true: Index, n_classes: int, wrong: float, rng: np.random.Generator) -> Index:
    """Give a share of the images any other class."""
    given, changed = true.copy(), rng.choice(len(true), round(wrong * len(true)), replace=False)
    given[changed] = (given[changed] + rng.integers(1, n_classes, len(changed))) % n_classes
    return given


def class_pairs(true: Index, n_classes: int, wrong: float, rng: np.random.Generator) -> Index:
    """Give a share of the images the class that comes after theirs."""
    given, changed = true.copy(), rng.choice(len(true), round(wrong * len(true)), replace=False)
    given[changed] = (given[changed] + 1) % n_classes
    return given


def made_cases(seen: Seen, shares: Sequence[float], seed: int, *, weak: bool) -> Iterator[Case]:
    """Cases of all images with simulated labels; with ``weak`` pairs and random labels, too."""
    places, n_classes = np.arange(len(seen.true)), len(seen.classes)
    for share in shares:
        given = uniform(seen.true, n_classes, share, np.random.default_rng([seed, 0]))
        yield Case(f"{100 * share:g}% any other class" if share else "nothing wrong", places, given)
    if weak:
        yield Case("25% in pairs", places, class_pairs(seen.true, n_classes, 0.25, np.random.default_rng([seed, 1])))
        yield Case(RANDOM, places, np.random.default_rng([seed, 2]).permutation(seen.true))


def people_cases(seen: Seen, answers: pd.DataFrame, n_images: Sequence[int], seed: int) -> Iterator[Case]:
    """Cases of people's labels: some of the images that they name, drawn at random, and the same ones with nothing wrong."""
    what = "people's labels"
    if "user" in answers:
        users = sorted(answers["user"].unique())
        answers, what = answers[answers["user"] == users[seed % len(users)]], "one user's labels"
    number, by_image = {label: k for k, label in enumerate(seen.classes)}, answers.set_index("image")["label"]
    named = np.flatnonzero(pd.Index(seen.images).isin(by_image.index))
    for n in sorted({min(n, len(named)) for n in n_images}):
        places = np.sort(np.random.default_rng([seed, n]).choice(named, n, replace=False))
        given = np.array([number[label] for label in by_image[[seen.images[i] for i in places]]], np.int64)
        yield Case(f"{n} images, {what}", places, given)
        if what == "people's labels":
            yield Case(f"{n} images, nothing wrong", places, seen.true[places])


def judge_case(seen: Seen, case: Case, seed: int) -> dict[str, dict[str, float]]:
    """The figures of each judge."""
    views, folds = case_views(seen, case, seed)
    given, true, n_classes = case.given, seen.true[case.places], len(seen.classes)
    began = time.process_time()
    found = judge_untrusted(views, given, n_classes=n_classes, folds=folds)
    took = time.process_time() - began
    figures = {JUDGE: judge_figures(found, given, true, seed) | {"seconds": took}}
    pool = [member.found.scores for member in judges_out_of_fold(views, given, n_classes, folds)]
    for name, scores in ((ON_VIEW, pool[0]), (ON_POOL, np.mean([log_softmax(one, axis=1) for one in pool], axis=0))):
        probs = softmax(scores, axis=1)
        figures[f"{CLEANLAB} {name}"] = cleanlab_figures(probs, given, true)
        figures[f"{TODAY} {name}"] = today_figures(probs, given, true)
    return figures


def case_views(seen: Seen, case: Case, seed: int) -> tuple[list[Float], Index]:
    """Scaled features (n, D) of each view, and folds (n,)."""
    views = [fit_scaling(view[case.places]).apply(view[case.places]) for view in seen.views]
    return views, assign_folds(seen.groups[case.places], case.given, folds=N_FOLDS, rng=np.random.default_rng(seed))


def judge_figures(found: UntrustedJudgement, given: Index, true: Index, seed: int) -> dict[str, float]:
    """The figures of the judge, an audit among them; where it finds nothing, no label is changed."""
    figures = posterior_figures(found.posterior, given, true, changes=found.verdict == "found")
    figures |= {"at most": found.at_most, "blind": float(found.verdict == "blind"), "matrix": float(found.matrix_accepted)}
    return figures | audit_figures(found, given, true, seed)


def posterior_figures(believed: Float, given: Index, true: Index, *, changes: bool = True) -> dict[str, float]:
    """The figures of P(z = j | x, y), shape (n, K)."""
    p_wrong, wrong, likeliest = bayes_cutoff.probability_wrong(believed, given), given != true, believed.argmax(axis=1)
    found = ranking(p_wrong, wrong) | {"ECE": calibration_error(p_wrong, wrong), "at least": float(p_wrong.mean())}
    found |= {"wrong": float(wrong.mean()), "right before": float((~wrong).mean()), "all changed": float((likeliest == true).mean())}
    for least in (0.5, 0.8):
        made = choose_changes(
            given, p_wrong, likeliest, believed.max(axis=1), action="relabel" if changes else "keep", min_confidence=least
        )
        found |= {f"right at {least}": float((made.final == true).mean()), f"changed at {least}": float(made.count("relabel"))}
    return found | {"sure": float((p_wrong >= SURE).sum()), "sure and wrong": float((wrong & (p_wrong >= SURE)).sum())}


def audit_figures(found: UntrustedJudgement, given: Index, true: Index, seed: int) -> dict[str, float]:
    """Errors after a few labels were checked: of the share, of the plain mean of the checked ones, and of calibration."""
    wrong, offs = given != true, []
    for draw in range(N_AUDITS):
        places = np.random.default_rng([seed, 3, draw]).choice(len(given), min(N_AUDITED, len(given)), replace=False)
        posteriors = found.posterior, found.uniform_posterior, found.matrix_posterior
        audit = calibrate_untrusted(*posteriors, given, places, true[places])
        plain = float(wrong[places].mean())
        offs.append([abs(audit.share - wrong.mean()), abs(plain - wrong.mean()), calibration_error(audit.p_wrong, wrong)])
    return dict(zip(("audited share off", "sample mean off", "audited ECE"), np.mean(offs, axis=0).tolist(), strict=True))


def cleanlab_figures(probs: Float, given: Index, true: Index) -> dict[str, float]:
    """The figures of cleanlab's filter and of the better one of its two scores."""
    wrong = given != true
    score, above = bayes_cutoff.confident_learning(probs, given)
    found = ranking(score, wrong)
    margin = ranking(1 - get_label_quality_scores(given, probs, method="normalized_margin"), wrong)
    found = {name: max(value, margin[name]) for name, value in found.items()}
    found |= {"ECE": calibration_error(score, wrong), "at least": float(above.mean())}
    changed = np.where(above, probs.argmax(axis=1), given)
    found |= {"sure": float((score >= SURE).sum()), "sure and wrong": float((wrong & (score >= SURE)).sum())}
    return found | {"wrong": float(wrong.mean()), "right before": float((~wrong).mean()), "all changed": float((changed == true).mean())}


def today_figures(probs: Float, given: Index, true: Index) -> dict[str, float]:
    """The figures of the estimate that judges networks, as ``bayes_cutoff.judge=network`` has it on folds."""
    most = calibration.most_believed(1.0)
    judged = calibration.judge_by_trusted_model(posterior.without_noise(probs, given), given, start=most, most=most)
    return posterior_figures(judged.fit.posterior, given, true)


def judge_users(seen: Seen, answers: pd.DataFrame, seed: int, n_images: int) -> dict[str, dict[str, float]]:
    """The majority's label by the judge, and what the users' model makes of all answers beside the judge's p."""
    place = {image: i for i, image in enumerate(seen.images)}
    named = np.array(sorted(place[image] for image in answers["image"].unique()))
    places = np.sort(np.random.default_rng([seed, len(named)]).choice(named, min(n_images, len(named)), replace=False))
    at = {seen.images[i]: j for j, i in enumerate(places)}
    mine = answers[answers["image"].isin(at.keys())]
    image_idx, users = mine["image"].map(at).to_numpy(np.int64), sorted(mine["user"].unique())
    user_idx, labels = (pd.Categorical(mine[name], of).codes.astype(np.int64) for name, of in (("user", users), ("label", seen.classes)))
    settled, _ = majority({(image, user): label for image, user, label in mine[["image", "user", "label"]].to_numpy()}, seed=seed)
    given = pd.Categorical([settled[image] for image in at], seen.classes).codes.astype(np.int64)
    case, true = Case("", places, given), seen.true[places]
    views, folds = case_views(seen, case, seed)
    found = judge_untrusted(views, given, n_classes=len(seen.classes), folds=folds)
    figures = {JUDGE: judge_figures(found, given, true, seed)}
    for name, probs in (("users' model, pool's p", found.uniform_probs), ("users' model, final p", found.probs)):
        pooled = annotators.judge_votes(probs, image_idx, user_idx, labels, len(users), start=1.0).pooled
        figures[name] = posterior_figures(pooled.posterior, given, true)
    return figures


def measure_users(runs: Runs, seen: Seen, answers: Sequence[pd.DataFrame], n_images: int, seeds: Sequence[int]) -> None:
    """Measure several users' answers to some images."""
    for one in answers:
        for seed in seeds if "user" in one else ():
            labels = f"{n_images} images, majority"
            runs.measure(seen.name, labels, seed, lambda one=one, seed=seed: judge_users(seen, one, seed, n_images))


def pixels_of(pixels: Images) -> npt.NDArray[np.uint8]:
    """Pixels (N, D) as the judge of small images sees them: one channel where all are alike."""
    return (pixels[..., :1] if (pixels == pixels[..., :1]).all() else pixels).reshape(len(pixels), -1)


def see(name: str, prepared: Prepared, views: list[npt.NDArray[Any]], *, joined: bool = True) -> Seen:
    """Name the images, their classes and duplicates, which features help to find."""
    manifest = prepared.manifest
    classes, true = np.unique(manifest["label"], return_inverse=True)
    groups = duplicate_groups(manifest["sha256"].tolist(), manifest["phash"].tolist())
    groups = joined_by_features(groups, manifest["phash"].tolist(), views[0]) if joined else groups
    return Seen(name, views, true.astype(np.int64), groups, classes.tolist(), manifest["image"].tolist())


def measure_made(runs: Runs, seen: Seen, shares: Sequence[float], seeds: Sequence[int], *, weak: bool) -> None:
    """Measure images with simulated labels."""
    for seed in seeds:
        for case in made_cases(seen, shares, seed, weak=weak):
            runs.measure(seen.name, case.labels, seed, lambda case=case, seed=seed: judge_case(seen, case, seed))


def measure_digits(runs: Runs, options: Sequence[str], seeds: Sequence[int]) -> None:
    """Measure the built-in digits by pixels, by the backbone's features, and by both."""
    prepared = prepare(options)
    pixels, features = pixels_of(prepared.pixels), views_of(prepared.pixels)
    for name, views in (("pixels", [pixels]), ("backbone", features), ("pixels and backbone", [pixels, features[0]])):
        measure_made(runs, see(f"digits, {name}", prepared, views, joined=False), (0.0, 0.1, 0.3), seeds, weak=False)


def measure_textures(runs: Runs, options: Sequence[str], seeds: Sequence[int]) -> None:
    """Measure surfaces that are drawn here."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "textures.zip"
        textures.make_textures(path, N_TEXTURES)
        prepared = prepare([*images(path), *options])
    measure_made(runs, see("textures", prepared, views_of(prepared.pixels)), (0.0, 0.1, 0.25), seeds, weak=True)


def measure_data(
    runs: Runs, seen: Seen, answers: Sequence[pd.DataFrame], n_images: Sequence[int], seeds: Sequence[int], people_seeds: Sequence[int]
) -> None:
    """Measure given images, by people's labels where there are some."""
    if not answers:
        measure_made(runs, seen, (0.0, 0.1, 0.25), seeds, weak=True)
    for seed in people_seeds if answers else ():
        for one in answers:
            for case in people_cases(seen, one, n_images, seed):
                runs.measure(seen.name, case.labels, seed, lambda case=case, seed=seed: judge_case(seen, case, seed))


def measure_views(runs: Runs, seen: Seen, prepared: Prepared, options: Sequence[str], seeds: Sequence[int]) -> None:
    """Measure what the second view is worth that is made of the originals."""
    side = 160
    if prepared.pixels.shape[1] <= side:
        return
    originals = views_of(prepare([*options, f"preprocessing.image_size={side}"]).pixels)[1]
    for name, second in (("kept pictures", seen.views[1]), ("originals", originals)):
        other = seen._replace(name=f"{seen.name}, view 2 of the {name}", views=[seen.views[0], second])
        for seed in seeds:
            for case in made_cases(other, (0.1, 0.25), seed, weak=False):
                runs.measure(other.name, case.labels, seed, lambda case=case, seed=seed, other=other: only_judge(other, case, seed))


def only_judge(seen: Seen, case: Case, seed: int) -> dict[str, dict[str, float]]:
    """The judge's figures alone."""
    views, folds = case_views(seen, case, seed)
    found = judge_untrusted(views, case.given, n_classes=len(seen.classes), folds=folds)
    return {JUDGE: judge_figures(found, case.given, seen.true[case.places], seed)}


def speed(sizes: Sequence[str]) -> str:
    """CPU seconds by sizes, of the judge and of parts of it, on made-up features of 256 columns in two views."""
    lines = ["| images | classes | judge, CPU s | one regression | neighbours |", "|---|---|---|---|---|"]
    for size in sizes:
        n_images, n_classes = map(int, size.split("x"))
        rng = np.random.default_rng(0)
        true, centres = np.arange(n_images) % n_classes, rng.normal(size=(n_classes, 256))
        raw = [centres[true] + 4 * rng.normal(size=(n_images, 256)) for _ in range(2)]
        views, given = [fit_scaling(one).apply(one) for one in raw], uniform(true, n_classes, 0.2, rng)
        folds = assign_folds(np.arange(n_images), given, folds=N_FOLDS, rng=rng)

        def seconds(work: Callable[[], object]) -> float:
            began = time.process_time()
            work()
            return time.process_time() - began

        spent = [
            seconds(lambda: judge_untrusted(views, given, n_classes=n_classes, folds=folds)),  # noqa: B023
            seconds(lambda: regressions_out_of_fold(views[0], given, n_classes, folds)),  # noqa: B023
            seconds(lambda: neighbours_out_of_fold(views[0], given, n_classes, folds)),  # noqa: B023
        ]
        lines.append(f"| {n_images} | {n_classes} | {' | '.join(f'{one:.1f}' for one in spent)} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def figures_table(found: pd.DataFrame) -> str:
    """Means and 95% intervals over the seeds, a line a case and judge; shares in %, and of P(wrong) ≥ 0.9 the wrong ones, pooled."""
    lines = [
        f"| images | labels | judge | seeds | {' | '.join(FIGURES)} | P ≥ {SURE:g}, wrong |",
        f"|---|---|---|---|{'---|' * (len(FIGURES) + 1)}",
    ]
    for case, runs in found.groupby(["data", "labels", "judge"], sort=False):
        cells = [str(runs["seed"].nunique())]
        for figure, factor in FIGURES.items():
            values = runs[figure].dropna().to_numpy() if figure in runs else np.empty(0)
            mean, half = estimate(factor * values)
            cells.append("-" if not len(values) else f"{mean:.1f}" + (f" ± {half:.1f}" if half > 0 else ""))
        sure, wrong = (float(runs[name].sum()) for name in ("sure", "sure and wrong"))
        cells.append(f"{wrong:.0f} of {sure:.0f}")
        lines.append(f"| {' | '.join(map(str, case))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def every_run(found: pd.DataFrame) -> list[Row]:
    """Figures that are wanted of every run, or of nearly all, with exact 95% intervals of shares."""
    by_judge = {judge: runs.set_index(["data", "labels", "seed"]) for judge, runs in found.groupby("judge")}
    judge = by_judge[JUDGE]
    judge = judge[judge.index.get_level_values("labels") != RANDOM]
    rows = []
    for name, wanted in ((ON_VIEW, 0.98), (ON_POOL, 0.95)):
        rival = by_judge.get(f"{CLEANLAB} {name}")
        if rival is not None and "AUROC" in found:
            gain = (judge["AUROC"] - rival["AUROC"]).dropna()
            least = f"; least {100 * gain.min():+.1f}" if len(gain) else ""
            rows.append(_counted(f"AUROC at least cleanlab's {name}, less 0.5", gain >= -0.005, wanted, least, gain.min() >= -0.015))
    rows.append(_counted("said at most the truth and 3 points more", judge["at least"] <= judge["wrong"] + 0.03, 0.98))
    rows.append(_counted("the upper end at least the truth", judge["at most"] >= judge["wrong"], None))
    sure, wrong = int(judge["sure"].sum()), int(judge["sure and wrong"].sum())
    rows.append(_counted(f"labels with P(wrong) ≥ {SURE:g} that are wrong", pd.Series(np.arange(sure) < wrong), 0.95))
    for least in (0.5, 0.8):
        kept = judge[f"right at {least}"] >= judge["right before"]
        worst = (judge[f"right at {least}"] - judge["right before"]).min()
        note = f"; least {100 * worst:+.1f}"
        rows.append(_counted(f"right labels after changes at {least} at least as many", kept, 1.0 if least == 0.8 else None, note))
    off, plain, error = (100 * judge[name].mean() for name in ("audited share off", "sample mean off", "audited ECE"))
    rival = f"the mean of the checked: {plain:.1f}"
    rows.append(Row(f"after {N_AUDITED} random audits: share off, points", rival, "2", f"{off:.1f}", bool(off <= 2)))
    rows.append(Row(f"after {N_AUDITED} random audits: ECE, points", "", "3.5", f"{error:.1f}", bool(error <= 3.5)))
    drawn = by_judge[JUDGE].query("labels == @RANDOM")
    if len(drawn):
        rows.append(_counted("labels drawn at random: the judge says that it cannot tell", drawn["blind"] == 1, 1.0))
    return rows


def _counted(what: str, holds: pd.Series[bool], wanted: float | None, note: str = "", also: bool = True) -> Row:
    if not len(holds):
        return Row(what, "", "", "-", None)
    low, high = binomtest(int(holds.sum()), len(holds)).proportion_ci(0.95)
    share = f"{100 * holds.mean():.1f}% ({holds.sum()} of {len(holds)}; {100 * low:.1f} to {100 * high:.1f}){note}"
    return Row(
        what, "", "" if wanted is None else f"{100 * wanted:g}%", share, None if wanted is None else bool(holds.mean() >= wanted and also)
    )


def read_answers(paths: str) -> list[tuple[Path, pd.DataFrame]]:
    """The files of answers, ``image,label[,user]``."""
    return [(Path(path), pd.read_csv(path, dtype=str)) for path in paths.split(",") if path]


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="folders or archives with a folder a class, separated by commas")
    parser.add_argument("--feedback", default="", help="files of given labels, image,label[,user], separated by commas")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--people-seeds", type=int, default=3)
    parser.add_argument("--images", type=int, nargs="+", default=PEOPLE, help="of those that people have labelled")
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="NxK each, of the part speed")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="of these parts; all that there is data for")
    parser.add_argument("--runs", type=Path, help="CSV that gets a line a run; what it holds is not measured again")
    parser.add_argument("options", nargs="*", help="of the pipeline, after --")
    given = parser.parse_args(words)
    parts, runs, others = given.only or PARTS, Runs(given.runs), Runs(None)
    seeds, people_seeds, answers = range(given.seeds), range(given.people_seeds), read_answers(given.feedback)
    limit_threads(1)
    print(about("untrusted"), flush=True)
    if "digits" in parts:
        measure_digits(runs, given.options, seeds)
    if "textures" in parts:
        measure_textures(runs, given.options, seeds)
    for path in [Path(one) for one in given.data.split(",") if one and {"data", "users", "views"} & set(parts)]:
        options = [*images(path), *given.options]
        prepared = prepare(options)
        seen = see(path.stem, prepared, views_of(prepared.pixels))
        own = [one for _, one in answers if set(one["image"]) & set(seen.images)]
        if "data" in parts:
            measure_data(runs, seen, own, given.images, seeds, people_seeds)
        if "views" in parts:
            measure_views(others, seen, prepared, options, seeds)
        if "users" in parts:
            measure_users(others, seen, own, min(given.images), people_seeds)
    for found in (runs.table, others.table):
        if len(found):
            print(f"\n{figures_table(found)}", flush=True)
    if len(runs.table):
        print(f"\n{table(every_run(runs.table))}", flush=True)
    if "speed" in parts:
        print(f"\n{speed(given.sizes)}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BCCPError as error:
        sys.exit(f"error: {error}")
