"""The judge on frozen features beside trusted images: ``python -m benchmarks.frozen_judge [--feedback answers.csv] -- [options]``.

    python -m benchmarks.frozen_judge --feedback answers.csv --trusted 3000 1000 300 --seeds 3 -- data.source=archive data.path=images.zip
    python -m benchmarks.frozen_judge --trusted 150 --wrong 0.3 0 --seeds 5 -- data.source=archive data.path=photographs.zip

Class folders are the truth. With ``--feedback`` (image,label) the images that it names are new, and of the others so many are trusted;
without it so many of all images are trusted, and of the others a share (``--wrong``) gets any other class. The pipeline prepares the
images, the backbone looks at them once in both views, and duplicates stay on one side of each fold. Beside the judge stand, on the p of
its first regression, the standing estimate (:func:`bccp.labels.calibration.judge_by_trusted_model`) and cleanlab's filter. ``nothing
wrong`` has the true labels as given ones. Labels at P(wrong) of 0.5 and 0.8 give way to the likeliest class if it has as much.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.special import softmax
from sklearn.metrics import average_precision_score, roc_auc_score

from bccp.core.errors import BCCPError
from bccp.data.array_types import Float, Index
from bccp.data.duplicates import assign_folds, duplicate_groups
from bccp.labels import bayes_cutoff, calibration, expert_labels
from bccp.labels.frozen_judge import judge_given_labels
from bccp.labels.posterior import expected_f1_cutoff
from bccp.models import classifier, inference_engine
from bccp.models.feature_cache import BATCH_SIZE, judge_views
from bccp.models.logistic_regression import fit_by_folds, fit_scaling
from benchmarks.measures import calibration_error, interval
from benchmarks.photographs import BACKBONE, Prepared, prepare

N_FOLDS, N_AUDITED = 5, 100

FIGURES = ("AUROC", "AP", "F1", "ECE", "said", "wrong", "right before", "right at 0.5", "right at 0.8", "audited F1", "seconds")

JUDGE, STANDING, CLEANLAB = "judge on features", "standing estimate", "cleanlab"


class Case(NamedTuple):
    """Images to be judged: positions of trusted and new ones, and the new ones' given labels."""

    trusted: Index
    new: Index
    given: Index


def views_of(pixels: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
    """Features (N, D) of the pretrained backbone in both views, by the engine that the pipeline has for many images on a CPU."""
    model = classifier.build_classifier(
        BACKBONE, 2, image_size=pixels.shape[1], dropout=0.0, seed=0, weights="DEFAULT", freeze_backbone=True
    ).eval()
    own, found = model.input_size, []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "backbone.onnx"
        file.write_bytes(inference_engine.exported(copy.deepcopy(model).backbone, own))
        session = inference_engine.open_session(file, torch.get_num_threads())
    for side, flipped in judge_views(model):
        model.input_size = side or own
        look = inference_engine.session_look(model, session)
        batches = (pixels[start : start + BATCH_SIZE] for start in range(0, len(pixels), BATCH_SIZE))
        found.append(np.concatenate([look(np.ascontiguousarray(batch[:, :, ::-1]) if flipped else batch) for batch in batches]))
    return found


def with_feedback(prepared: Prepared, classes: Sequence[str], feedback: str, n_trusted: int, seed: int) -> Case:
    """The images that a file of answers names are new."""
    answers = pd.read_csv(feedback, dtype=str).set_index("image")["label"]
    images = prepared.manifest["image"]
    named = np.flatnonzero(images.isin(answers.index))
    rest = np.setdiff1d(np.arange(len(images)), named)
    if not len(named) or len(rest) < n_trusted:
        raise BCCPError(
            f"{feedback} names {len(named)} of {len(images)} images: some have to be new, and {n_trusted} of the others trusted"
        )
    number = {label: k for k, label in enumerate(classes)}
    given = np.array([number[label] for label in answers[images.iloc[named]]], np.int64)
    return Case(np.sort(np.random.default_rng(seed).choice(rest, n_trusted, replace=False)), named, given)


def with_wrong(true: Index, n_classes: int, wrong: float, n_trusted: int, seed: int) -> Case:
    """All images but the trusted ones are new, and a share of them gets any other class."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(true))
    trusted, new = np.sort(order[:n_trusted]), np.sort(order[n_trusted:])
    given = true[new].copy()
    changed = rng.choice(len(new), round(wrong * len(new)), replace=False)
    given[changed] = (given[changed] + rng.integers(1, n_classes, len(changed))) % n_classes
    return Case(trusted, new, given)


def judged(views: Sequence[npt.NDArray[np.float32]], true: Index, groups: Index, n_classes: int, case: Case) -> dict[str, dict[str, float]]:
    """The figures of each judge."""
    truth, both, n_trusted = true[case.new], np.concatenate([case.trusted, case.new]), len(case.trusted)
    scaled = [fit_scaling(view[both]).apply(view[both]) for view in views]
    labels = np.concatenate([true[case.trusted], n_classes + case.given])
    fold = assign_folds(groups[both], labels, folds=N_FOLDS, rng=np.random.default_rng(0))
    began = time.process_time()
    found = judge_given_labels(
        [view[:n_trusted] for view in scaled],
        true[case.trusted],
        [view[n_trusted:] for view in scaled],
        case.given,
        n_classes=n_classes,
        trusted_folds=fold[:n_trusted],
        new_folds=fold[n_trusted:],
    )
    took = time.process_time() - began
    one = fit_by_folds(scaled[0][:n_trusted], np.eye(n_classes)[true[case.trusted]], fold[:n_trusted])
    start = calibration.fit_temperature(softmax(one.scores, axis=1), true[case.trusted])
    probs = softmax(one.model.scores(scaled[0][n_trusted:]), axis=1)
    standing = calibration.judge_by_trusted_model(probs, case.given, start=start, most=start)
    score, above = bayes_cutoff.confident_learning(calibration.temper(probs, start), case.given)
    return {
        JUDGE: figures(found.posterior, case.given, truth, probs=found.probs) | {"seconds": took},
        STANDING: figures(standing.fit.posterior, case.given, truth, probs=standing.probs),
        CLEANLAB: ranking(score, case.given != truth) | {"F1": f1(above, case.given != truth), "said": float(above.mean())},
    }


def figures(posterior: Float, given: Index, true: Index, *, probs: Float) -> dict[str, float]:
    """The figures of P(z = j | x, y), shape (N, K)."""
    p_wrong, wrong = bayes_cutoff.probability_wrong(posterior, given), given != true
    found = ranking(p_wrong, wrong) | {"F1": f1(p_wrong > expected_f1_cutoff(p_wrong), wrong), "ECE": calibration_error(p_wrong, wrong)}
    found |= {"said": float(p_wrong.mean()), "wrong": float(wrong.mean()), "right before": float((~wrong).mean())}
    likeliest = posterior.argmax(axis=1)
    for least in (0.5, 0.8):
        changed = (p_wrong >= least) & (posterior.max(axis=1) >= least)
        found[f"right at {least}"] = float((np.where(changed, likeliest, given) == true).mean())
    checked = np.sort(np.random.default_rng(1).choice(len(given), min(N_AUDITED, len(given)), replace=False))
    audit = expert_labels.calibrate(probs, posterior, given, checked, true[checked], at_random=np.ones(len(checked), np.bool_))
    above = audit.p_wrong > expected_f1_cutoff(audit.p_wrong)
    above[checked] = wrong[checked]
    return found | {"audited F1": f1(above, wrong)}


def ranking(score: Float, wrong: npt.NDArray[np.bool_]) -> dict[str, float]:
    """AUROC and average precision, where labels of both kinds are there."""
    if wrong.all() or not wrong.any():
        return {}
    return {"AUROC": float(roc_auc_score(wrong, score)), "AP": float(average_precision_score(wrong, score))}


def f1(above: npt.NDArray[np.bool_], wrong: npt.NDArray[np.bool_]) -> float:
    """Of labels that are cut off; nan where none is wrong."""
    return 2 * float((above & wrong).sum()) / float(above.sum() + wrong.sum()) if wrong.any() else float("nan")


def table(rows: Sequence[tuple[str, dict[str, list[dict[str, float]]]]]) -> str:
    """Means and 95% intervals, a line a case and judge."""
    lines = [f"| labels | judge | {' | '.join(FIGURES)} |", f"|---|---|{'---|' * len(FIGURES)}"]
    for what, by_judge in rows:
        for judge, runs in by_judge.items():
            cells = [[run[figure] for run in runs if np.isfinite(run.get(figure, np.nan))] for figure in FIGURES]
            lines.append(f"| {what} | {judge} | {' | '.join(interval(values) if values else '-' for values in cells)} |")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feedback", help="CSV with the columns image,label: these images are new")
    parser.add_argument("--trusted", type=int, nargs="+", default=[150])
    parser.add_argument("--wrong", type=float, nargs="+", default=[0.3, 0.0], help="without --feedback: shares of wrong labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("options", nargs="*", help="of the pipeline, after --")
    given = parser.parse_args(words)
    prepared = prepare(given.options)
    classes, true = np.unique(prepared.manifest["label"], return_inverse=True)
    true, groups = true.astype(np.int64), duplicate_groups(prepared.manifest["sha256"].tolist(), prepared.manifest["phash"].tolist())
    views, rows = views_of(prepared.pixels), []
    for n_trusted in given.trusted:
        cases: dict[str, Any] = {f"{n_trusted} trusted, {100 * wrong:g}% any other class": wrong for wrong in given.wrong}
        if given.feedback:
            cases = {f"{n_trusted} trusted, {given.feedback}": None, f"{n_trusted} trusted, nothing wrong": 0.0}
        for what, wrong in cases.items():
            runs: dict[str, list[dict[str, float]]] = {}
            for seed in range(given.seeds):
                if given.feedback:
                    case = with_feedback(prepared, classes, given.feedback, n_trusted, seed)
                    case = case if wrong is None else case._replace(given=true[case.new])
                else:
                    case = with_wrong(true, len(classes), wrong, n_trusted, seed)
                for judge, found in judged(views, true, groups, len(classes), case).items():
                    runs.setdefault(judge, []).append(found)
            rows.append((what, runs))
            print(rows[-1][0], "done", file=sys.stderr, flush=True)
    print(table(rows))


if __name__ == "__main__":
    try:
        main()
    except BCCPError as error:
        sys.exit(f"error: {error}")
