"""Champion and challenger: whether the new model takes the place of the one in use.

Both are asked about the same test images. N images; ``gain`` is the challenger's accuracy minus the champion's, from -1 to 1.

References
----------
B. Efron, R. Tibshirani: "An Introduction to the Bootstrap", 1993, chapter 13 (percentile intervals).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bccp.core import automatic
from bccp.core.errors import BCCPError
from bccp.core.home import scratch
from bccp.data import array_types, tables
from bccp.data.array_types import Mask
from bccp.data.dataset import Days
from bccp.models import classifier, mlflow_flavor
from bccp.models.feature_cache import shared_inputs
from bccp.tracking import finished_runs, registry
from bccp.tracking.tags import REGISTERED_TAG, SIMULATED_TAG, VERDICT_REASON_TAG, VERDICT_TAG

if TYPE_CHECKING:
    from bccp.core.step_context import Step

_SURE = 0.95
"""Share of resamples in which the challenger has to be ahead."""

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
    by_day : dict of str to float
        The gain on each day.
    """

    images: int
    gain: float
    low: float
    high: float
    ahead: float
    by_day: dict[str, float]


@dataclass(frozen=True)
class PromotionDecision:
    """What becomes of a challenger.

    Attributes
    ----------
    name : str
        ``promoted``, ``forced``, ``rejected``, ``unchanged``, or ``not asked`` (``test.promote=never``).
    reason : str
    """

    name: str
    reason: str

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
    Comparison
    """
    difference = challenger_right.astype(int) - champion_right.astype(int)
    by_day = {str(day): part.to_numpy() for day, part in pd.Series(difference).groupby(np.asarray(days))}
    # an image wins, loses or changes nothing: to draw n images is to draw how many of each kind
    drawn = np.zeros(RESAMPLES)
    for part in by_day.values():
        counts = rng.multinomial(len(part), [float((part == kind).mean()) for kind in (1, 0, -1)], size=RESAMPLES)
        drawn += counts[:, 0] - counts[:, 2]
    low, high = np.percentile(drawn / len(difference), [2.5, 97.5])
    return PairedComparison(
        images=len(difference),
        gain=float(difference.mean()),
        low=float(low),
        high=float(high),
        ahead=float((drawn > 0).mean()),
        by_day={day: float(part.mean()) for day, part in by_day.items()},
    )


def decide_promotion(found: PairedComparison, *, max_regression: float) -> PromotionDecision:
    """Promote what is surely better overall and on no day worse by more than is borne.

    Examples
    --------
    >>> decide(Comparison(100, 0.04, 0.01, 0.07, 0.99, {"monday": -0.02, "tuesday": 0.1}), max_regression=0.01).reason
    'worse by 2.0 points on monday, more than test.max_regression=0.01; overall +4.0 points (+1.0 to +7.0) on 100 images'
    """
    overall = f"overall {100 * found.gain:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f}) on {found.images} images"
    for day, gain in found.by_day.items():
        if gain < -max_regression - 1e-9:  # 0.01 is not to be exceeded by 1 of 100
            return PromotionDecision(
                "rejected", f"worse by {-100 * gain:.1f} points on {day}, more than test.max_regression={max_regression:g}; {overall}"
            )
    if found.ahead < _SURE:
        return PromotionDecision("rejected", f"not surely better: {overall}")
    return PromotionDecision("promoted", overall)


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
    step: Step, days: Days, references: pd.DataFrame, probs: array_types.Float32, *, simulated: Sequence[str] = ()
) -> PromotionDecision:
    """Register the step's model, compare it with the champion, and promote it if it deserves it and ``test.promote`` lets it.

    A rerun finishes what a stopped one has begun; nothing is registered twice.

    Parameters
    ----------
    step : Step
        ``test``, with ``registered_model_name``.
    days : Days
    references : DataFrame
        The N test images: ``image, day, label``.
    probs : ndarray of float32, shape (N, K)
        The model's.
    simulated : sequence of str
        What was simulated, for a tag of the version (:func:`bccp.data.label_files.simulated_in`).

    Returns
    -------
    Verdict
        Also told, and a tag of the run and of the registered version.

    Raises
    ------
    BCCPError
        If the registry refuses something.
    """
    name, digest, ledger = str(step.config.registered_model_name), step.inputs["model"], step.ledger
    manifest = tables.read(step.input("clean_data") / "manifest.csv").set_index("image")["sha256"]
    seen = mlflow_flavor.fingerprints(manifest[days.splits.index[days.splits["split"] != "test"]])
    lock = f"registry-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    with ledger.lock(lock, lambda: step.emit(f"waits for another process that registers {name}")), scratch("champion") as folder:
        version = registry.register(
            ledger,
            name,
            digest,
            run_id=step.run_id,
            write=lambda place: mlflow_flavor.write_model(place, step.input("model"), seen=seen),
            tags={SIMULATED_TAG: ",".join(simulated)} if simulated else {},
        )
        champion = registry.champion(ledger, name)
        rival = "no champion" if champion is None else f"champion, version {champion.version}"
        if champion is not None and str(champion.version) == str(version.version):
            verdict = PromotionDecision("unchanged", "it is the champion already")
        else:
            verdict = _compared(step, days, references, probs, champion, manifest, folder)
            verdict = _as_asked(step, verdict, rolled_back=str(version.version) in registry.rolled_back_versions(ledger, name))
        step.emit(f"registered as {name}, version {version.version}; {verdict.name} ({rival}): {verdict.reason}")
        _record(step, name, version, verdict)
    return verdict


def _as_asked(step: Step, verdict: PromotionDecision, *, rolled_back: bool) -> PromotionDecision:
    """The verdict under ``test.promote``."""
    if step.context.sweep:
        return PromotionDecision("not asked", f"a multirun promotes nothing; {verdict.reason}")
    if step.config.promote == "never":
        return PromotionDecision("not asked", f"test.promote=never; {verdict.reason}")
    if step.config.promote == "force":
        return PromotionDecision("forced", f"test.promote=force; {verdict.reason}")
    if rolled_back:
        return PromotionDecision("rejected", f"it was rolled back before (test.promote=force promotes it again); {verdict.reason}")
    return verdict


def _record(step: Step, name: str, version: Any, verdict: PromotionDecision) -> None:
    tags = {VERDICT_TAG: verdict.name, VERDICT_REASON_TAG: verdict.reason, REGISTERED_TAG: f"models:/{name}/{version.version}"}
    step.ledger.tag(step.run_id, tags)
    if verdict.name != "unchanged":  # else its version keeps the verdict that made it champion
        for tag in (VERDICT_TAG, VERDICT_REASON_TAG):
            step.ledger.client.set_model_version_tag(name, version.version, tag, tags[tag])
    aliases = [verdict.name.replace(" ", "-")]
    if verdict.promotes:
        registry.promote(step.ledger, name, str(version.version))  # last in the ledger: what is stopped before is done again
        aliases.append(registry.CHAMPION)
    step.mirror.publish("model", step.inputs["model"], step.input("model"), pixels=False, aliases=aliases)


def _compared(
    step: Step, days: Days, references: pd.DataFrame, probs: array_types.Float32, champion: Any, manifest: pd.Series[str], folder: Path
) -> PromotionDecision:
    """The verdict over the test images that the champion has not been trained on."""
    if champion is not None:
        place = registry.fetch_model(step.ledger, champion, folder)
    elif days.target_day == "monday":
        return PromotionDecision("promoted", "the first of its name; there is no trusted day, and so no Monday model to compare it with")
    else:
        from bccp.models.monday_model import shared_monday_model

        place = shared_monday_model(step, days, step.config.monday_model)
    model, about = classifier.load_classifier(place)
    other = _unlike(step, about, days)
    if other:
        return PromotionDecision(
            "rejected", f"it cannot be compared with the champion, {other}; test.promote=force promotes it all the same"
        )
    fresh = np.ones(len(references), bool)
    if champion is not None:
        seen = mlflow_flavor.trained_on(place)
        fresh = ~mlflow_flavor.known(manifest[references["image"]], seen)
        if not len(seen):
            step.emit("which images the champion was trained on is not recorded: it is compared on all test images")
    if not fresh.all():
        step.emit(f"test images that the champion was trained on, left out of the comparison: {(~fresh).sum()} of {len(fresh)}")
    if not fresh.any():
        return PromotionDecision("rejected", "the champion was trained on all test images; test.promote=force promotes it all the same")
    ids = references.loc[fresh, "image"].tolist()
    its_probs = classifier.probabilities(
        model, shared_inputs(step, days)(model, ids), batch_size=step.config.batch_size, device=step.device
    )
    label_idx = days.encode(references.loc[fresh, "label"].tolist())
    right, its_right = probs[fresh].argmax(axis=1) == label_idx, its_probs.argmax(axis=1) == label_idx
    found = compare_models(references.loc[fresh, "day"].tolist(), right, its_right, rng=np.random.default_rng(0))
    figures = {"gain": found.gain, "gain_low": found.low, "gain_high": found.high, "champion_accuracy": float(its_right.mean())}
    step.log_metrics(figures)
    verdict = decide_promotion(found, max_regression=step.config.max_regression)
    return PromotionDecision(verdict.name, verdict.reason + (", against monday_model" if champion is None else ""))


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
