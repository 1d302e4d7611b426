"""Judges given labels: what a model that never saw them says, what a refined one says, what was checked, and what is decided.

N images, K classes. No probability for an image ever comes from a model that was fitted to its own given label, or to that of a duplicate;
one that was trained on its posterior may judge it again (:mod:`bccp.labels.student`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bccp.core.config_schema import BayesCutoff
from bccp.core.errors import BCCPError
from bccp.core.step_context import Step
from bccp.data import label_files
from bccp.data.array_types import Float, Index, Mask
from bccp.data.dataset import Days
from bccp.data.duplicates import assign_folds
from bccp.data.label_tables.votes import problems_sentence
from bccp.labels import annotators, bayes_cutoff, calibration, expert_labels, feedback, posterior
from bccp.labels.anchored_noise import MATRIX_SMOOTHING
from bccp.labels.bayes_cutoff import Decision, GuardrailResult, McDropoutSummary
from bccp.labels.findings import Finding, Verdict, count_sure, finding_sentence
from bccp.labels.frozen_judge import SEPARATED
from bccp.labels.frozen_scoring import judge_on_features
from bccp.labels.network_scoring import fold_passes, monday_passes
from bccp.labels.student import student_probabilities
from bccp.labels.untrusted_audit import conclude
from bccp.labels.untrusted_judge import LEAST_FOUND, UntrustedJudgement
from bccp.labels.untrusted_noise import SMOOTHING
from bccp.labels.untrusted_scoring import judge_without_trust
from bccp.models.feature_cache import view_features
from bccp.models.monday_model import build_by_recipe
from bccp.models.training_set import copies

MOST_CUT_OFF = 0.9
"""A greater share above the cut-off says more about the judge than about the labels."""


class LabelPosterior(NamedTuple):
    """What is believed of the true labels.

    Attributes
    ----------
    probs : ndarray of float64, shape (N, K)
        p(z = j | x), with temperature and offsets; rows sum to 1.
    likelihood : ndarray of float64, shape (N, K)
        P(y | z = j) of each image's label, or of all labels that users gave it; each row up to a factor.
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, y); rows sum to 1.
    noise_matrix : ndarray of float64, shape (K, K)
        P(y = k | z = j) of labels that are no guess; rows sum to 1.
    temperature, smoothing, guess_share : float
        See :mod:`bccp.labels.posterior`.
    offsets : ndarray of float64, shape (K,)
        Of log p(z | x), at the temperature.
    softness : float or None
        Temperature of guesses, where labels may be some: not where users are told apart.
    users : DataFrame or None
        The report of :func:`bccp.labels.annotators.users_table`, where users are told apart.
    """

    probs: Float
    likelihood: Float
    posterior: Float
    noise_matrix: Float
    temperature: float
    offsets: Float
    smoothing: float
    guess_share: float
    softness: float | None
    users: pd.DataFrame | None


class Votes(NamedTuple):
    """The labels that each user gave; M votes.

    Attributes
    ----------
    image_idx, user_idx, labels : ndarray of int64, shape (M,)
    users : list of str
        Names of the users.
    """

    image_idx: Index
    user_idx: Index
    labels: Index
    users: list[str]


class ExpertLabels(NamedTuple):
    """What an expert has checked.

    Attributes
    ----------
    said : mapping of str to (str or None)
        The true label by image id; None for an image of none of the classes.
    places : ndarray of int64, shape (M,)
        Positions of the checked images.
    labels : ndarray of int64, shape (M,)
        Their true labels; ``expert_labels.NO_CLASS`` for an image of none.
    chosen : mapping of str to str
        How each was chosen, by image id.
    at_random : ndarray of bool, shape (M,)
        Whether each belongs to a random sample.
    about : dict
        What ``cutoff.json`` says of the file.
    """

    said: Mapping[str, str | None]
    places: Index
    labels: Index
    chosen: Mapping[str, str]
    at_random: Mask
    about: dict[str, Any]


class LabelQualityResult(NamedTuple):
    """What the step makes of the given labels.

    Attributes
    ----------
    decision : Decision
    about : dict
        What ``cutoff.json`` says: method, tier, cut-off and, with a posterior, temperature, smoothing and noise matrix.
    probs : ndarray of float64, shape (N, K)
        p(z = j | x) that it rests on, at the temperature where there is one; rows sum to 1.
    users : DataFrame or None
        The report of the users, where they are told apart and there is a posterior.
    audited : mapping of str to (str or None)
        The checked labels by image id; None for an image of none of the classes.
    chosen : mapping of str to str
        How each of these images was chosen.
    metrics : dict of str to float
    finding : Finding or None
        None where there is no posterior.
    groups : ndarray of int64, shape (N,), or None
        Judged images of one group are copies, where features have judged.
    """

    decision: Decision
    about: dict[str, Any]
    probs: Float
    users: pd.DataFrame | None
    audited: Mapping[str, str | None]
    chosen: Mapping[str, str]
    metrics: dict[str, float]
    finding: Finding | None
    groups: Index | None


class _Judged(NamedTuple):
    """What a method says of the given labels, before anything that was checked is looked at."""

    tier: str
    probs: Float
    """p(z = j | x), shape (N, K)."""
    posterior: Float | None
    score: Float
    belief: LabelPosterior | None
    above: Mask
    """What is cut off by a method with a filter of its own; else empty."""
    validation_temperature: float | None
    chosen: dict[str, Any]
    """What ``cutoff.json`` says of choices between models."""
    alone: UntrustedJudgement | None = None
    """Of convex judges, where nothing is trusted."""
    groups: Index | None = None
    """Copies, where features have judged; shape (N,)."""


def score_labels(step: Step, days: Days, ids: list[str], given: Index) -> LabelQualityResult:
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
    LabelQualityResult

    Raises
    ------
    BCCPError
        For a cut-off or action that the method does not have, an audit file of no use, or a model that cannot be trained.
    """
    config: BayesCutoff = step.config
    plan = bayes_cutoff.plan_cutoff(config.method, config.cutoff, config.action)
    if plan.note:
        step.emit(plan.note)
    judges_labels = config.method == "label_posterior"
    checked = _read_audit(step, days, ids) if config.audit_file else None  # before hours are spent
    judged = _judge(step, days, ids, given)
    tier, belief, p_posterior, score, above = judged.tier, judged.belief, judged.posterior, judged.score, judged.above
    cutoff, held, at_least = None, None, False
    about: dict[str, Any] = {}
    if checked is not None and p_posterior is not None:
        p_posterior, score, at_least, about = _heed_checked(judged, p_posterior, given, checked)
        tier += f", {len(checked.places)} audited images"
    elif config.method == "cleanlab":
        p_posterior = None
    if belief is not None:
        about = _parameters(belief, score, days.classes, judged.validation_temperature) | judged.chosen | about
    elif checked is not None:
        about = {"estimated_user_accuracy": 1 - float(score.mean())} | judged.chosen | about
    else:
        about = judged.chosen | about
    if config.method != "cleanlab" or plan.cutoff != "auto":
        cutoff = bayes_cutoff.cut_off(score, plan.cutoff, percentile=config.percentile, threshold=config.threshold)
        above = score > cutoff
    audited, no_class = np.zeros((2, len(ids)), np.bool_)
    if judges_labels and judged.alone is None and config.max_class_ratio is not None:
        held = bayes_cutoff.hold_back(score, given, above, len(days.classes), max_ratio=config.max_class_ratio)
        above = held.above
        about["given_back"] = dict(zip(days.classes, held.given_back.tolist(), strict=True))
    finding = None
    if p_posterior is not None or _is_blind(judged.alone):
        finding = _finding(judged, score, given, checked, trusted=days.target_day == "tuesday", at_least=at_least)
    unchanged = judged.alone is not None and finding is not None and finding.verdict != "found"
    if unchanged:
        above = np.zeros(len(ids), np.bool_)
    if _is_blind(judged.alone):
        about.pop("estimated_user_accuracy", None)
        p_posterior = None if checked is None else p_posterior
    if checked is not None:
        audited[checked.places] = True
        no_class[checked.places] = checked.labels == expert_labels.NO_CLASS
        above[checked.places] = checked.labels != given[checked.places]
    if judged.alone is not None:
        _tell_alone(step, tier, finding, above, plan.action, unchanged=unchanged)
    else:
        share = _share(score, at_least) if p_posterior is not None else ""
        step.emit(_sentence(tier, share, belief, cutoff, above, held, plan.action))
        if plan.cutoff != "percentile" and above.sum() > MOST_CUT_OFF * len(above):  # a percentile is what was asked for
            step.emit(
                f"warning: {above.mean():.0%} of the labels are doubted; probably not so many are wrong, but the judge has learned too "
                + ("little: " if config.refine == "stack" else "little: raise bayes_cutoff.epochs, or ")
                + "give checked labels with bayes_cutoff.audit_file"
            )
    how: dict[str, Any] = {"score": score, "above": above, "audited": audited, "no_class": no_class}
    if unchanged:
        decision = _keep_given(ids, given, days.classes, p_posterior, checked, how)
    else:
        decision = bayes_cutoff.decide(ids, given, days.classes, action=plan.action, posterior=p_posterior, **how)
    what = {"method": config.method, "tier": tier, "cutoff": plan.cutoff, "cutoff_value": cutoff, "action": plan.action}
    if finding is not None:
        about["finding"] = finding.to_json()
    metrics = {} if held is None else {"given_back": float(held.given_back.sum())}
    users = None if belief is None else belief.users
    said, chosen = ({}, {}) if checked is None else (checked.said, checked.chosen)
    return LabelQualityResult(decision, what | about, judged.probs, users, said, chosen, metrics, finding, judged.groups)


def _heed_checked(judged: _Judged, before: Float, given: Index, checked: ExpertLabels) -> tuple[Float, Float, bool, dict[str, Any]]:
    """Correct the posterior by what was checked: posterior, P(wrong), whether its mean is a lower bound, and what ``cutoff.json`` says."""
    if judged.alone is None or judged.belief is None:
        found = expert_labels.calibrate(judged.probs, before, given, checked.places, checked.labels, at_random=checked.at_random)
        return found.posterior, found.p_wrong, found.at_least, {"audit": checked.about | {"at_least": found.at_least}}
    if before.shape[1] < 2:
        raise BCCPError("bayes_cutoff.audit_file says which labels are wrong, and with one class none can be: leave it out")
    alone = dataclasses.replace(judged.alone, posterior=before)  # that of the users, where they are told apart
    drawn = conclude(alone, given, checked.places, checked.labels, at_random=checked.at_random)
    fit = drawn.audited
    about = checked.about | {"at_least": drawn.is_bound, "level": fit.level, "slope": fit.slope, "matrix_weight": fit.matrix_weight}
    return fit.posterior, drawn.p_wrong, drawn.is_bound, {"audit": about}


def _is_blind(alone: UntrustedJudgement | None) -> bool:
    return alone is not None and alone.verdict == "blind"


def _finding(judged: _Judged, score: Float, given: Index, checked: ExpertLabels | None, *, trusted: bool, at_least: bool) -> Finding:
    """What is known of the labels; ``at_least``: what was checked does not tell of all labels alike."""
    share = float(score.mean()) if len(score) else 0.0
    about = {} if checked is None else checked.about
    counts = {f"n_{mine}": int(about.get(key, 0)) for mine, key in (("audited", "images"), ("unsure", "unsure"), ("no_class", "no_class"))}
    if _is_blind(judged.alone):
        return Finding("blind", 0.0, None, len(score), 0, trusted=trusted, **counts)
    upper = None
    if not trusted and (checked is None or at_least):
        disagreed = float((judged.probs.argmax(axis=1) != given).mean()) if judged.alone is None else judged.alone.at_most
        upper = max(share, disagreed)
    verdict: Verdict = "nothing" if share < LEAST_FOUND else "found"
    return Finding(verdict, share, upper, len(score), count_sure(score), trusted=trusted, **counts)


def _keep_given(
    ids: list[str], given: Index, classes: list[str], p_posterior: Float | None, checked: ExpertLabels | None, how: dict[str, Any]
) -> Decision:
    """Keep every label as it was given, but for what was checked; what is known of P(wrong) is told all the same."""
    kept = np.eye(len(classes))[given]
    if checked is not None:
        known = checked.labels != expert_labels.NO_CLASS
        kept[checked.places[known]] = np.eye(len(classes))[checked.labels[known]]
    decision = bayes_cutoff.decide(ids, given, classes, action="relabel", posterior=kept, **how)
    p_wrong = "" if p_posterior is None else bayes_cutoff.probability_wrong(p_posterior, given)
    return decision._replace(table=decision.table.assign(p_wrong=p_wrong), posterior=p_posterior)


def _tell_alone(step: Step, tier: str, finding: Finding | None, above: Mask, action: str, *, unchanged: bool) -> None:
    """Say what was found without a trusted image, and what becomes of the labels."""
    if finding is not None:
        step.emit(finding_sentence(finding))
    n_changed = int(above.sum())
    if unchanged:
        becomes = "for training, too, all labels stay as they were given" + (f" but for {n_changed} that were checked" if n_changed else "")
    elif action == "soft":
        becomes = "training weighs the classes of each image by what is known of its label (action=soft)"
    else:
        becomes = f"for training, {n_changed} of {len(above)} labels are doubted (action={action})"
    step.emit(f"{tier}: {becomes}")


def _judge(step: Step, days: Days, ids: list[str], given: Index) -> _Judged:
    """Judge by the method that the section names, before anything that was checked is looked at."""
    config: BayesCutoff = step.config
    if config.judges_features_alone():
        return _alone(step, days, ids, given)
    if config.method == "label_posterior" and config.refine == "stack":
        return _stacked(step, days, ids, given)
    tier, passes, start = (_trusted_day if days.target_day == "tuesday" else _held_out_folds)(step, days, ids, given)
    if config.method == "label_posterior":
        most = calibration.most_believed(1.0 if start is None else start)
        belief = _believe(passes.mean_probs, given, _read_votes(step, days, ids), most=most)
        belief = _refine(step, days, ids, given, belief, most)
        if config.rounds:
            tier += f", {config.rounds} round{'s' * (config.rounds > 1)} of {config.refine}"
        return _of_posterior(tier, belief, given, start, {})
    if config.method == "cleanlab":
        score, above = bayes_cutoff.confident_learning(passes.mean_probs, given)
        # cleanlab's score is 1 - p(given); only checked labels make it a probability
        return _Judged(tier, passes.mean_probs, passes.mean_probs, score, None, above, None, {})
    return _Judged(tier, passes.mean_probs, None, getattr(passes, config.method), None, np.empty(0, np.bool_), None, {})


def _of_posterior(tier: str, belief: LabelPosterior, given: Index, start: float | None, chosen: dict[str, Any]) -> _Judged:
    score = bayes_cutoff.probability_wrong(belief.posterior, given)
    return _Judged(tier, belief.probs, belief.posterior, score, belief, np.empty(0, np.bool_), start, chosen)


def _alone(step: Step, days: Days, ids: list[str], given: Index) -> _Judged:
    """Tier 3 on features: by convex judges of the other folds (:mod:`bccp.labels.untrusted_judge`)."""
    config: BayesCutoff = step.config
    found, held_out = judge_without_trust(step, days, ids, given, seed=_seed(config.random_seed, "folds"))
    seen = "features" if config.freeze_backbone else "pixels"
    tier = f"nothing trusted, {held_out.n_folds} held-out folds of {seen}, {'matrix' if found.matrix_accepted else 'uniform'} noise"
    chosen = {"judge": found.numbers()}
    if config.method == "cleanlab":
        if _is_blind(found):
            score, above = 1 - posterior.given_probability(found.probs, given), np.zeros(len(ids), np.bool_)
        else:
            score, above = bayes_cutoff.confident_learning(found.probs, given)
        return _Judged(tier, found.probs, found.probs, score, None, above, None, chosen, found, held_out.groups)
    votes = None if _is_blind(found) else _read_votes(step, days, ids)
    if votes is not None:
        belief = _pool(found.uniform_probs, votes, start=1.0, most=None)
    else:
        likelihood, offsets = found.noise_matrix.T[given], np.zeros(len(days.classes))
        how = found.temperature, offsets, SMOOTHING, 0.0, None, None
        belief = LabelPosterior(found.probs, likelihood, found.posterior, found.noise_matrix, *how)
    return _of_posterior(tier, belief, given, None, chosen)._replace(alone=found, groups=held_out.groups)


def _stacked(step: Step, days: Days, ids: list[str], given: Index) -> _Judged:
    """Tier 1 on a frozen backbone: by convex judges of its features (:mod:`bccp.labels.frozen_judge`)."""
    config: BayesCutoff = step.config
    found = judge_on_features(step, days, ids, given, seed=_seed(config.random_seed, "features"))
    step.log_metrics({"separability": found.separability})
    if found.separability >= SEPARATED:
        step.emit(
            f"drift: features tell the new images from the trusted ones (area under the ROC curve {found.separability:.2f}; alike: 0.5), "
            f"so the trusted ones count as {found.anchor_worth:.0f} where they say how overconfident the judges are"
        )
    tier = f"trusted day, {found.n_judges} judges of features{', two rounds' * found.accepted}, {found.noise_model}"
    votes = _read_votes(step, days, ids)
    if votes is not None:
        belief = _pool(found.probs, votes, start=1.0, most=None)
        belief = belief._replace(temperature=belief.temperature * found.temperature, offsets=belief.offsets + found.offsets)
    else:
        likelihood = _likelihood(found.posterior, found.probs)
        how = found.temperature, found.offsets / found.temperature, MATRIX_SMOOTHING, found.guess_share, found.softness, None
        belief = LabelPosterior(found.probs, likelihood, found.posterior, found.noise_matrix, *how)
    return _of_posterior(tier, belief, given, None, {"judge": found.numbers})._replace(groups=found.groups)


def _trusted_day(step: Step, days: Days, ids: list[str], given: Index) -> tuple[str, McDropoutSummary, float | None]:
    """Tier 1: by Monday's model, with the temperature that fits Monday's validation."""
    config: BayesCutoff = step.config
    passes, val_probs = monday_passes(step, days, ids, seed=_seed(config.random_seed, "dropout"))
    if config.method != "label_posterior":
        return "trusted day", passes, None
    return "trusted day", passes, calibration.fit_temperature(val_probs, days.labels(days.ids("monday", "val")))


def _held_out_folds(step: Step, days: Days, ids: list[str], given: Index) -> tuple[str, McDropoutSummary, None]:
    """Tier 3: by networks that are fitted to the other folds' given labels, whose noise is then taken out of what they say."""
    config: BayesCutoff = step.config
    fold = _folds(step, days, ids, given, "folds")
    passes = fold_passes(step, days, ids, given, fold, seed=_seed(config.random_seed, "dropout"))
    if config.method == "label_posterior":
        passes = passes._replace(mean_probs=posterior.without_noise(passes.mean_probs, given))
    return f"nothing trusted, {config.folds} held-out folds", passes, None


def _believe(mean_probs: Float, given: Index, votes: Votes | None, *, most: float) -> LabelPosterior:
    """Estimate the users, and with them the posterior, by a model that has not seen their labels."""
    if votes is None:
        judged = calibration.judge_by_trusted_model(mean_probs, given, start=most, most=most)
        fit = judged.fit
        how = judged.temperature, judged.offsets, judged.smoothing, fit.guess_share, judged.softness
        return LabelPosterior(judged.probs, fit.likelihood, fit.posterior, fit.noise_matrix, *how, None)
    return _pool(mean_probs, votes, start=most, most=most)


def _pool(mean_probs: Float, votes: Votes, *, start: float, most: float | None) -> LabelPosterior:
    """Estimate each user; ``start`` and ``most`` as for :func:`bccp.labels.annotators.judge_votes`."""
    pooled = annotators.judge_votes(mean_probs, votes.image_idx, votes.user_idx, votes.labels, len(votes.users), start=start, most=most)
    found = pooled.pooled
    likelihood = _likelihood(found.posterior, pooled.probs)
    users = annotators.users_table(votes.users, found)
    how = pooled.temperature, pooled.offsets, pooled.smoothing, 0.0, None
    return LabelPosterior(pooled.probs, likelihood, found.posterior, found.noise_matrix, *how, users)


def _likelihood(believed: Float, probs: Float) -> Float:
    """P(y | z = j) up to a factor, from the posterior and p(z | x), all of shape (N, K)."""
    likelihood = np.divide(believed, probs, out=np.zeros_like(probs), where=probs > 0)
    most = likelihood.max(axis=1, keepdims=True)
    likelihood /= np.where(most > 0, most, 1.0)  # a judge may rule out the class of a label that no other image has
    return likelihood


def _refine(step: Step, days: Days, ids: list[str], given: Index, belief: LabelPosterior, most: float) -> LabelPosterior:
    """Judge again by models that are trained on the posteriors, round after round."""
    config: BayesCutoff = step.config
    recipe = config.monday_model()
    for number in range(1, config.rounds + 1):
        name = f"round {number}"
        fold = _folds(step, days, ids, given, name) if config.refine == "cross_fit" else None
        mean_probs = student_probabilities(
            step,
            days,
            ids,
            belief.posterior,
            dataclasses.replace(recipe, epochs=config.refine_epochs, random_seed=_seed(config.random_seed, name) % 2**32),
            fold=fold,
            passes=config.passes,
            seed=_seed(config.random_seed, "dropout"),
        )
        temperature, offsets, probs = calibration.judge_by_student(mean_probs, belief.likelihood, most=most)
        believed = posterior.combine(probs, belief.likelihood)
        belief = belief._replace(probs=probs, posterior=believed, temperature=temperature, offsets=offsets)
    return belief


def _folds(step: Step, days: Days, ids: list[str], given: Index, purpose: str) -> Index:
    """Held-out folds with duplicates together, which a frozen backbone's features help to find."""
    config: BayesCutoff = step.config
    features = view_features(step, days, build_by_recipe(days, config.monday_model()), ids)[:] if config.freeze_backbone else None
    groups = copies(step.input("clean_data"), ids, features)
    return assign_folds(groups, given, folds=config.folds, rng=np.random.default_rng(_seed(config.random_seed, purpose)))


def _read_votes(step: Step, days: Days, ids: list[str]) -> Votes | None:
    """What each user said of the judged images, where users are told apart; one user alone is what the noise matrix is of."""
    table = label_files.read_votes(step.input("given_labels"))
    if table is None:
        return None
    place = {image: i for i, image in enumerate(ids)}
    table = table[table["image"].isin(place.keys())]
    users = sorted(table["user"].unique())
    if len(users) < 2:
        return None
    number = {user: u for u, user in enumerate(users)}
    images, said_by = np.array([place[i] for i in table["image"]], np.int64), np.array([number[u] for u in table["user"]], np.int64)
    return Votes(images, said_by, days.encode(table["label"].tolist()), users)


def _read_audit(step: Step, days: Days, ids: list[str]) -> ExpertLabels:
    config: BayesCutoff = step.config
    said = expert_labels.read_audit(Path(str(config.audit_file)), images=set(days.splits.index), judged=ids, classes=days.classes)
    places, labels = said.encoded(ids, days.classes)
    chosen, note = expert_labels.trusted_origins([said.chosen[ids[i]] for i in places], said.n_random_blank)
    wrong_rows = problems_sentence(said.problems)
    step.emit(f"audit file: {expert_labels.audit_sentence(said, chosen)}" + (f"; {wrong_rows}" if wrong_rows else ""))
    if note:
        step.emit(f"audit file: {note}")
    about: dict[str, Any] = {"images": len(places), "no_class": len(said.no_class), "unsure": said.n_unsure, "blank": said.n_blank}
    about |= {"problems": feedback.problem_counts(said.problems)}
    about |= {"chosen": {kind: chosen.count(kind) for kind in (expert_labels.SUSPECT, expert_labels.RANDOM, expert_labels.UNKNOWN)}}
    at_random = np.array([kind == expert_labels.RANDOM for kind in chosen], np.bool_)
    kept = {image: "" if kind == expert_labels.UNKNOWN else kind for image, kind in said.chosen.items()}
    return ExpertLabels(said.answers, places, labels, kept, at_random, about)


def _seed(random_seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, in [0, 2**63)."""
    return int(np.random.default_rng([random_seed, *b"bayes_cutoff ", *purpose.encode()]).integers(2**63))


def _parameters(belief: LabelPosterior, score: Float, classes: list[str], validation_temperature: float | None) -> dict[str, Any]:
    return {
        "estimated_user_accuracy": 1 - float(score.mean()),
        "validation_temperature": validation_temperature,
        "temperature": belief.temperature,
        "class_offsets": dict(zip(classes, belief.offsets.tolist(), strict=True)),
        "smoothing": belief.smoothing,
        "guess_share": belief.guess_share,
        "guess_softness": belief.softness,
        "classes": classes,
        "noise_matrix": belief.noise_matrix.tolist(),
    }


def _share(p_wrong: Float, at_least: bool) -> str:
    """The share of wrong labels, in words."""
    return f"{'at least ' * at_least}{p_wrong.mean():.1%} of the labels seem wrong"


def _sentence(
    tier: str, share: str, belief: LabelPosterior | None, cutoff: float | None, above: Mask, held: GuardrailResult | None, action: str
) -> str:
    noise = share + (f" (temperature {belief.temperature:.2f})" if belief is not None else "")
    noise += "; " if noise else ""
    where = "by cleanlab's filter" if cutoff is None else f"score above {cutoff:.3g}"
    back = "" if held is None or not held.given_back.any() else f", {held.given_back.sum()} more are not, so that no class loses too many"
    return f"{tier}: {noise}{int(above.sum())} of {len(above)} are doubted ({where}{back}), action={action}"
