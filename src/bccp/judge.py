"""What the judging model says of each image, by Monday's trusted model or by models that are fitted to held-out folds.

N images, K classes, S stochastic passes of MC dropout. No probability for an image ever comes from a model that was fitted to its own given
label, or to that of a duplicate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bccp import bayes_cutoff, models, posterior, tables
from bccp.architectures import ImageClassifier
from bccp.bayes_cutoff import Decision, Passes, summarise
from bccp.config import BayesCutoff, MondayModel
from bccp.duplicates import duplicate_groups
from bccp.home import scratch
from bccp.images import Days
from bccp.monday_model import fit_recipe, shared_monday_model
from bccp.posterior import Judgement
from bccp.step import Step

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

CHUNK = 2048
"""Images whose passes are held at once."""


class Seen(NamedTuple):
    """What the judging models say of the images.

    Attributes
    ----------
    tier : str
        On what it rests.
    passes : Passes
    judgement : Judgement or None
        None for a method without a posterior.
    validation_temperature : float or None
        That fits Monday's validation, where Monday is trusted.
    """

    tier: str
    passes: Passes
    judgement: Judgement | None
    validation_temperature: float | None = None


def judge(step: Step, days: Days, ids: list[str], given: Index) -> tuple[Decision, dict[str, Any]]:
    """Judge given labels as the step's section says, in the tier that the data allows.

    Parameters
    ----------
    step : Step
        Of ``bayes_cutoff``; its input ``true_labels`` is not looked at.
    days : Days
    ids : list of str, length N
        Of the judged images, sorted.
    given : ndarray of int64, shape (N,)
        Their given labels.

    Returns
    -------
    decision : Decision
    about : dict
        What ``cutoff.json`` says: method, tier, cut-off and, with a posterior, temperature, smoothing and noise matrix.

    Raises
    ------
    BCCPError
        For a cut-off or action that the method does not have, or a model that cannot be trained.
    """
    config: BayesCutoff = step.config
    plan = bayes_cutoff.plan(config.method, config.cutoff, config.action)
    if plan.note:
        step.say(plan.note)
    seen = (_by_trusted_model if days.target_day == "tuesday" else _by_held_out_folds)(step, days, ids, given)
    cutoff, believed = None, None
    if seen.judgement is not None:
        believed = seen.judgement.fit.posterior
        score = bayes_cutoff.probability_wrong(believed, given)
    elif config.method == "cleanlab":
        score, above = bayes_cutoff.confident_learning(seen.passes.mean_probs, given)
    else:
        score = getattr(seen.passes, config.method)
    if config.method != "cleanlab" or plan.cutoff != "auto":
        cutoff = bayes_cutoff.cut_off(score, plan.cutoff, percentile=config.percentile, threshold=config.threshold)
        above = score > cutoff
    step.say(_sentence(seen, score, cutoff, above, plan.action))
    decision = bayes_cutoff.decide(ids, given, days.classes, score=score, above=above, action=plan.action, posterior=believed)
    about = {"method": config.method, "tier": seen.tier, "cutoff": plan.cutoff, "cutoff_value": cutoff, "action": plan.action}
    return decision, about | _parameters(seen, score, days.classes)


def stochastic_passes(
    model: ImageClassifier, days: Days, ids: list[str], *, passes: int, seed: int, device: str, chunk: int = CHUNK
) -> Passes:
    """Judge images by one model, a chunk at a time.

    Parameters
    ----------
    model : ImageClassifier
    days : Days
    ids : list of str, length N
        Sorted, so that the order of the data set cannot matter.
    passes : int
        S, at least 1.
    seed : int
        Of the dropout masks. Each pass has one mask for all images.
    device : str
        ``cpu``, ``cuda`` or ``mps``.
    chunk : int
        Images at once.

    Returns
    -------
    Passes
        In the order of ``ids``.
    """
    found = []
    for start in range(0, max(len(ids), 1), chunk):
        features = models.embed(model, days.view(ids[start : start + chunk]), device=device)
        # the same seed gives the same masks in each chunk
        found.append(summarise(models.stochastic_logits(model, features, passes=passes, generator=torch.Generator().manual_seed(seed))))
    return Passes(*(np.concatenate(part) for part in zip(*found, strict=True)))


def assign_folds(groups: npt.ArrayLike, given: npt.ArrayLike, *, folds: int, rng: np.random.Generator) -> Index:
    """Deal images to folds, duplicates together and given labels evenly.

    Parameters
    ----------
    groups : array-like of int, shape (N,)
        Images of one group are duplicates.
    given : array-like of int, shape (N,)
        The given labels; the first image of a group speaks for it.
    folds : int
        At least 2.
    rng : Generator

    Returns
    -------
    ndarray of int64, shape (N,)
        0 to ``folds`` - 1. The groups of a class, in random order, go to the folds in turn, and the next class goes on where the
        last ended.
    """
    _, first, group = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    shuffled = rng.permutation(len(first))
    dealt = shuffled[np.argsort(np.asarray(given)[first[shuffled]], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[dealt] = np.arange(len(first)) % folds
    return fold[group]


def held_out_passes(
    days: Days,
    ids: list[str],
    given: npt.ArrayLike,
    fold: npt.ArrayLike,
    recipe: MondayModel,
    *,
    passes: int,
    seed: int,
    device: str,
    folder: Path,
) -> Passes:
    """Judge the images of each fold by a model that is fitted to the given labels of all other folds.

    Parameters
    ----------
    days : Days
    ids : list of str, length N
        Sorted.
    given : array-like of int, shape (N,)
        The given labels.
    fold : array-like of int, shape (N,)
        From :func:`assign_folds`.
    recipe : MondayModel
        Architecture and training of each model; all epochs are run, as there is nothing trusted to choose the best one by.
    passes, seed, device
        As for :func:`stochastic_passes`.
    folder : Path
        An existing folder for what training keeps in between.

    Returns
    -------
    Passes
        In the order of ``ids``; ``mean_probs`` are p(y | x).

    Raises
    ------
    BCCPError
        Where the other folds hold fewer than two images, or the recipe cannot be followed.
    """
    labels, folds = np.asarray(given, np.int64), np.asarray(fold, np.int64)
    parts, order = [], []
    for number in np.unique(folds):
        others, own = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
        model, _ = fit_recipe(
            days, recipe, [ids[i] for i in others.tolist()], labels[others], device=device, folder=folder / f"fold_{number}"
        )
        order.append(own)
        parts.append(stochastic_passes(model, days, [ids[i] for i in own.tolist()], passes=passes, seed=seed, device=device))
    back = np.argsort(np.concatenate(order))
    return Passes(*(np.concatenate(part)[back] for part in zip(*parts, strict=True)))


def _by_trusted_model(step: Step, days: Days, ids: list[str], given: Index) -> Seen:
    config: BayesCutoff = step.config
    seed, _ = _randomness(config.random_seed)
    model, _ = models.load(shared_monday_model(step, days, config.monday_model()))
    passes = stochastic_passes(model, days, ids, passes=config.passes, seed=seed, device=step.device)
    if config.method != "label_posterior":
        return Seen("trusted day", passes, None)
    val_ids = days.ids("monday", "val")
    val_passes = stochastic_passes(model, days, val_ids, passes=config.passes, seed=seed, device=step.device)
    start = posterior.fit_temperature(val_passes.mean_probs, days.labels(val_ids))
    return Seen("trusted day", passes, posterior.judge_by_trusted_model(passes.mean_probs, given, start=start), start)


def _by_held_out_folds(step: Step, days: Days, ids: list[str], given: Index) -> Seen:
    config: BayesCutoff = step.config
    seed, rng = _randomness(config.random_seed)
    tier = f"nothing trusted, {config.folds} held-out folds"
    manifest = tables.read(step.input("clean_data") / "manifest.csv")[["image", "sha256", "phash"]].set_index("image").loc[ids]
    fold = assign_folds(duplicate_groups(manifest["sha256"].tolist(), manifest["phash"].tolist()), given, folds=config.folds, rng=rng)
    recipe = config.monday_model()
    with scratch("folds") as folder:
        passes = held_out_passes(days, ids, given, fold, recipe, passes=config.passes, seed=seed, device=step.device, folder=folder)
    wanted = config.method == "label_posterior"
    return Seen(tier, passes, posterior.judge_by_held_out_folds(passes.mean_probs, given) if wanted else None)


def _randomness(random_seed: int) -> tuple[int, np.random.Generator]:
    """The seed of the dropout masks, and a generator for the rest."""
    rng = np.random.default_rng([random_seed, *b"bayes_cutoff"])
    return int(rng.integers(2**63)), rng


def _parameters(seen: Seen, score: Float, classes: list[str]) -> dict[str, Any]:
    if seen.judgement is None:
        return {}
    return {
        "estimated_user_accuracy": 1 - float(score.mean()),
        "validation_temperature": seen.validation_temperature,
        "temperature": seen.judgement.temperature,
        "smoothing": seen.judgement.smoothing,
        "classes": classes,
        "noise_matrix": seen.judgement.fit.noise_matrix.tolist(),
    }


def _sentence(seen: Seen, score: Float, cutoff: float | None, above: Mask, action: str) -> str:
    noise = (
        "" if seen.judgement is None else f"{score.mean():.1%} of the labels seem wrong (temperature {seen.judgement.temperature:.2f}); "
    )
    where = "by cleanlab's filter" if cutoff is None else f"score above {cutoff:.3g}"
    return f"{seen.tier}: {noise}{int(above.sum())} of {len(above)} are cut off ({where}), action {action}"
