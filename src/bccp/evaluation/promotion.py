"""Champion and challenger: whether the new model takes the place of the one in use.

Both are asked about the same test images whose labels are verified (:mod:`bccp.evaluation.verified`); what people said and nobody has
checked decides nothing, or they could vote a model in. N images; ``gain`` is the challenger's accuracy minus the champion's, from -1 to 1.

References
----------
B. Efron, R. Tibshirani: "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bccp.core import automatic
from bccp.core.errors import BCCPError
from bccp.core.home import scratch
from bccp.data import array_types, tables
from bccp.data.array_types import Float, Mask
from bccp.data.dataset import Days
from bccp.evaluation.verified import how_to_verify
from bccp.models import classifier, mlflow_flavor
from bccp.models.feature_cache import shared_inputs
from bccp.tracking import finished_runs, registry
from bccp.tracking.tags import JUDGED_TAG, REGISTERED_TAG, SIMULATED_TAG, UNVERIFIED_TAG, VERDICT_REASON_TAG, VERDICT_TAG

if TYPE_CHECKING:
    from bccp.core.step_context import Step

_SURE = 0.95
"""Share of resamples in which the challenger has to be ahead."""

_VETO = 0.9
"""Share of resamples in which a day has to be worse by more than is borne, so that single images of a small day veto nothing."""

RESAMPLES = 10_000


@dataclass(frozen=True)
class PairedComparison:
    """Two models on the same images.

    Attributes
    ----------
    images : int
        N.
    gain, low, high : float
        With its 95% interval.
    ahead : float
        Share of resamples in which the challenger is ahead, 0 to 1.
    by_day : mapping of str to float
        The gain on each day.
    drawn : mapping of str to ndarray of float64, shape (RESAMPLES,)
        The same in each resample.
    """

    images: int
    gain: float
    low: float
    high: float
    ahead: float
    by_day: Mapping[str, float]
    drawn: Mapping[str, Float]


@dataclass(frozen=True)
class PromotionDecision:
    """What becomes of a challenger.

    Attributes
    ----------
    name : str
        ``promoted``, ``forced``, ``rejected``, ``held`` (too little is verified to decide), ``unchanged``, or ``not asked``
        (``test.promote=never``).
    reason : str
    unverified : bool
        Whether too little was verified to compare it with anything.
    """

    name: str
    reason: str
    unverified: bool = False

    @property
    def promotes(self) -> bool:
        """Whether the challenger becomes the champion."""
        return self.name in ("promoted", "forced")


def compare_models(days: Sequence[str], challenger_right: Mask, champion_right: Mask, *, rng: np.random.Generator) -> PairedComparison:
    """Compare by a paired bootstrap: images are drawn again within each day, and with each both models' answers.

    Parameters
    ----------
    days : sequence of str, length N
        Of each image; N is at least 1.
    challenger_right, champion_right : ndarray of bool, shape (N,)
        Whether the answers are right.
    rng : Generator

    Returns
    -------
    PairedComparison
    """
    difference = challenger_right.astype(int) - champion_right.astype(int)
    by_day = {str(day): part.to_numpy() for day, part in pd.Series(difference).groupby(np.asarray(days))}
    # an image wins, loses or changes nothing: to draw n images is to draw how many of each kind
    drawn, drawn_by_day = np.zeros(RESAMPLES), {}
    for day, part in by_day.items():
        counts = rng.multinomial(len(part), [float((part == kind).mean()) for kind in (1, 0, -1)], size=RESAMPLES)
        won = counts[:, 0] - counts[:, 2]
        drawn += won
        drawn_by_day[day] = won / len(part)
    low, high = np.percentile(drawn / len(difference), [2.5, 97.5])
    return PairedComparison(
        images=len(difference),
        gain=float(difference.mean()),
        low=float(low),
        high=float(high),
        ahead=float((drawn > 0).mean()),
        by_day={day: float(part.mean()) for day, part in by_day.items()},
        drawn=drawn_by_day,
    )


def decide_promotion(found: PairedComparison, *, max_regression: float) -> PromotionDecision:
    """Promote if better overall in 95% of the resamples, and on no day worse by more than is borne in 90% of them.

    Examples
    --------
    >>> rng, right = np.random.default_rng(0), np.ones(40, bool)
    >>> found = compare_models(["monday"] * 20 + ["tuesday"] * 20, right, right & (np.arange(40) < 20), rng=rng)
    >>> decide_promotion(found, max_regression=0.01).reason
    'overall +50.0 points (+50.0 to +50.0) on 40 images'
    """
    overall = _overall(found)
    if day := regressed(found, max_regression=max_regression):
        worse = f"worse by {-100 * found.by_day[day]:.1f} points on {day}, more than test.max_regression={max_regression:g}"
        return PromotionDecision("rejected", f"{worse}; {overall}")
    if found.ahead < _SURE:
        return PromotionDecision("rejected", f"not surely better: {overall}")
    return PromotionDecision("promoted", overall)


def settle(
    found: PairedComparison | None, *, n_verified: int, min_verified: int, max_regression: float, day: str, first: bool
) -> PromotionDecision:
    """Decide on a challenger by as much as is verified.

    Parameters
    ----------
    found : PairedComparison or None
        On verified images; None where there are none to compare on.
    n_verified : int
        Those of the target day among them.
    min_verified : int
        So many are needed for a decision. With fewer a first model serves all the same, unless they show it to be worse than Monday's
        model, and a later one is held.
    max_regression : float
        Accuracy that a day may lose.
    day : str
        The target day.
    first : bool
        Whether there is no champion yet.

    Returns
    -------
    PromotionDecision
    """
    is_worse = first and found is not None and n_verified and regressed(found, max_regression=max_regression)
    if found is not None and (n_verified >= min_verified or is_worse):
        return decide_promotion(found, max_regression=max_regression)
    short = f"{n_verified} of the {min_verified} verified images of {day} that test.min_verified asks for; {how_to_verify(day)}"
    short += f"; so far {_overall(found)}" if found is not None and n_verified else ""
    if first:
        return PromotionDecision("promoted", f"the first of its name, unverified: {short}", unverified=True)
    return PromotionDecision("held", short, unverified=True)


def regressed(found: PairedComparison, *, max_regression: float) -> str:
    """Name the first day that is worse by more than is borne in so many resamples that it vetoes; an empty string where none is."""
    for day, drawn in found.drawn.items():
        if (drawn < -max_regression - 1e-9).mean() >= _VETO:  # 0.01 is not to be exceeded by 1 of 100
            return day
    return ""


def _overall(found: PairedComparison) -> str:
    return f"overall {100 * found.gain:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f}) on {found.images} images"


def refuse_simulated(step: Step, simulated: Sequence[str]) -> None:
    """Refuse to register a model of a user's own data that learnt from simulated labels, unless that is asked for.

    Parameters
    ----------
    step : Step
        ``test``.
    simulated : sequence of str
        As of :func:`bccp.data.label_files.simulated_in`.

    Raises
    ------
    BCCPError
        If ``registered_model_name`` is given without ``register_simulated``.
    """
    name = step.config.registered_model_name
    if name is None or step.config.register_simulated or "labels" not in simulated:
        return
    if finished_runs.data_source_of(step.inputs["clean_data"], step.ledger) not in (None, automatic.BUILT_IN):
        raise BCCPError(automatic.registration_refused(name))


def register_and_promote(
    step: Step,
    days: Days,
    references: pd.DataFrame,
    probs: array_types.Float32,
    *,
    simulated: Sequence[str] = (),
    min_verified: int = 0,
) -> PromotionDecision:
    """Register the step's model, compare it with the champion, and promote it if it deserves it and ``test.promote`` lets it.

    A rerun finishes what a stopped one has begun; nothing is registered twice.

    Parameters
    ----------
    step : Step
        ``test``, with ``registered_model_name``.
    days : Days
    references : DataFrame
        The N test images: ``image, day, label, verified``.
    probs : ndarray of float32, shape (N, K)
        The model's.
    simulated : sequence of str
        What was simulated, for a tag of the version (:func:`bccp.data.label_files.simulated_in`).
    min_verified : int
        Images of the target day that have to be verified for a decision, where its labels are people's.

    Returns
    -------
    PromotionDecision
        Also told, and a tag of the run and of the registered version.

    Raises
    ------
    BCCPError
        If the registry refuses something.
    """
    name, digest, ledger = str(step.config.registered_model_name), step.inputs["model"], step.ledger
    manifest = tables.read(step.input("clean_data") / "manifest.csv").set_index("image")["sha256"]
    seen = mlflow_flavor.fingerprints(manifest[days.splits.index[days.splits["split"] != "test"]])
    with (
        ledger.lock(registry.lock_name(name), lambda: step.emit(f"waits for another process that registers {name}")),
        scratch("champion") as folder,
    ):
        version = registry.register(
            ledger,
            name,
            digest,
            run_id=step.run_id,
            write=lambda place: mlflow_flavor.write_model(place, step.input("model"), seen=seen),
            tags={SIMULATED_TAG: ",".join(simulated)} if simulated else {},
        )
        champion = registry.champion(ledger, name)
        rival = registry.NO_CHAMPION if champion is None else f"champion, version {champion.version}"
        judged = {}
        if champion is not None and str(champion.version) == str(version.version):
            verdict = PromotionDecision("unchanged", "it is the champion already")
        else:
            verdict = _compared(step, days, references, probs, champion, manifest, folder, min_verified=min_verified)
            if champion is None and verdict.name == "rejected":
                by_hand = f"bccp promote {name}/{version.version} --force promotes it all the same"
                verdict = replace(verdict, reason=f"{verdict.reason}; {by_hand}")
            judged[JUDGED_TAG] = f"{verdict.name} against {registry.NO_CHAMPION if champion is None else champion.version}"
            verdict = _as_asked(step, verdict, rolled_back=str(version.version) in registry.rolled_back_versions(ledger, name))
        step.emit(f"registered as {name}, version {version.version}; {verdict.name} ({rival}): {verdict.reason}")
        _record(step, name, version, verdict, judged)
    return verdict


def _as_asked(step: Step, verdict: PromotionDecision, *, rolled_back: bool) -> PromotionDecision:
    """The verdict under ``test.promote``."""
    if step.context.sweep:
        return replace(verdict, name="not asked", reason=f"a multirun promotes nothing; {verdict.reason}")
    if step.config.promote == "never":
        return replace(verdict, name="not asked", reason=f"test.promote=never; {verdict.reason}")
    if step.config.promote == "force":
        return replace(verdict, name="forced", reason=f"test.promote=force; {verdict.reason}")
    if rolled_back:
        return replace(
            verdict, name="rejected", reason=f"it was rolled back before (test.promote=force promotes it again); {verdict.reason}"
        )
    return verdict


def _record(step: Step, name: str, version: Any, verdict: PromotionDecision, judged: Mapping[str, str]) -> None:
    tags = {VERDICT_TAG: verdict.name, VERDICT_REASON_TAG: verdict.reason, REGISTERED_TAG: f"models:/{name}/{version.version}"}
    step.ledger.tag(step.run_id, tags)
    if verdict.name != "unchanged":  # else its version keeps the verdict that made it champion
        of_version = {tag: tags[tag] for tag in (VERDICT_TAG, VERDICT_REASON_TAG)} | dict(judged)
        if verdict.unverified or UNVERIFIED_TAG in version.tags:  # of an earlier verdict
            of_version[UNVERIFIED_TAG] = "true" if verdict.unverified else "false"
        for tag, value in of_version.items():
            step.ledger.client.set_model_version_tag(name, version.version, tag, value)
    aliases = [verdict.name.replace(" ", "-"), *(["unverified"] if verdict.unverified else [])]
    if verdict.promotes:
        registry.promote(step.ledger, name, str(version.version))  # last in the ledger: what is stopped before is done again
        aliases.append(registry.CHAMPION)
    step.mirror.publish("model", step.inputs["model"], step.input("model"), pixels=False, aliases=aliases)


def _compared(
    step: Step,
    days: Days,
    references: pd.DataFrame,
    probs: array_types.Float32,
    champion: Any,
    manifest: pd.Series[str],
    folder: Path,
    *,
    min_verified: int,
) -> PromotionDecision:
    """The verdict over the verified test images that the champion has not been trained on."""
    day = days.target_day
    usable = (references["verified"] == "true").to_numpy()
    n_verified = int((usable & (references["day"] == day)).sum())
    asked: dict[str, Any] = {"min_verified": min_verified, "max_regression": step.config.max_regression, "day": day}
    asked["first"] = champion is None
    if champion is not None:
        place = registry.fetch_model(step.ledger, champion, folder)
    elif day == "monday":
        reason = "the first of its name; there is no trusted day, and so no Monday model to compare it with"
        return PromotionDecision("promoted", reason, unverified=n_verified < max(min_verified, 1))
    elif not n_verified:
        return settle(None, n_verified=0, **asked)
    else:
        from bccp.models.monday_model import shared_monday_model

        place = shared_monday_model(step, days, step.config.monday_model)
    model, about = classifier.load_classifier(place)
    other = _unlike(step, about, days)
    if other:
        return PromotionDecision(
            "rejected", f"it cannot be compared with the champion, {other}; test.promote=force promotes it all the same"
        )
    if champion is not None:
        seen = mlflow_flavor.trained_on(place)
        known = mlflow_flavor.known(manifest[references["image"]], seen)
        if not len(seen):
            step.emit("which images the champion was trained on is not recorded: it is compared on all test images")
        if known.any():
            step.emit(f"test images that the champion was trained on, left out of the comparison: {known.sum()} of {len(known)}")
        if known.all():
            return PromotionDecision("rejected", "the champion was trained on all test images; test.promote=force promotes it all the same")
        usable = usable & ~known
        n_verified = int((usable & (references["day"] == day)).sum())
    if not usable.any():
        return settle(None, n_verified=0, **asked)
    ids = references.loc[usable, "image"].tolist()
    its_probs = classifier.probabilities(
        model, shared_inputs(step, days)(model, ids), batch_size=step.config.batch_size, device=step.device
    )
    label_idx = days.encode(references.loc[usable, "label"].tolist())
    right, its_right = probs[usable].argmax(axis=1) == label_idx, its_probs.argmax(axis=1) == label_idx
    found = compare_models(references.loc[usable, "day"].tolist(), right, its_right, rng=np.random.default_rng(0))
    if n_verified:  # else they would be of the trusted day alone
        figures = {"gain": found.gain, "gain_low": found.low, "gain_high": found.high, "champion_accuracy": float(its_right.mean())}
        step.log_metrics(figures)
    verdict = settle(found, n_verified=n_verified, **asked)
    return verdict if champion is not None else replace(verdict, reason=f"{verdict.reason}, against monday_model")


def _unlike(step: Step, about: dict[str, Any], days: Days) -> str:
    """Why a champion cannot be asked about these images, or an empty string."""
    own = classifier.read_about(step.input("model"))
    if list(about["class_names"]) != days.classes:
        return f"which tells other classes apart ({', '.join(about['class_names'][:5])}, ...)"
    if about["image_size"] != days.image_size:
        return f"which takes images of {about['image_size']} px, not {days.image_size}"
    if "resize" in about and about["resize"] != own.get("resize"):
        return f"whose images were resized by {about['resize']}, not {own.get('resize')}"
    return ""
