"""What a person works with: each judged image with its label, how likely that is wrong, and what it looks like beside trusted ones.

N images, K classes, D features. The report is a table whose column ``label`` is empty: whoever checks an image writes its true label there,
and the table is then read as ``bayes_cutoff.audit_file``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.core.home import scratch
from bccp.core.step_context import Step
from bccp.data import label_files
from bccp.data.array_types import Float32, Index
from bccp.data.dataset import Days
from bccp.data.galleries import UNWRITTEN, Tile, gallery, writable
from bccp.labels import expert_labels, findings
from bccp.labels.bayes_cutoff import Decision
from bccp.labels.checking_list import CHECKING_LIST, checking_sentence, unchecked
from bccp.labels.findings import Finding
from bccp.models import classifier
from bccp.models.embeddings import shared_features
from bccp.models.feature_cache import shared_inputs, view_features
from bccp.models.monday_model import build_by_recipe, open_monday_model

REPORT_COLUMNS = ("image", "label", "chosen", "given_label", "p_wrong", "suggested_label", "posterior", "user", "nearest_trusted", "rank")

N_SUSPECTS = 40
"""Images that a person is asked to check, the worst by score of all that nobody has checked, beside others at random
(:func:`bccp.labels.findings.random_sample_size`)."""

_MOST_DRAWN = 40
"""Suspects in the picture."""

MOST_LISTED = 1000
"""Suspects that are listed, and that get a nearest trusted image: more than anybody looks at, and all that 50,000 trusted images leave
time for."""

_ROWS_AT_ONCE = 128
_NEARLY = 1e-5
_CANDIDATES = 16


class Suspect(NamedTuple):
    """An image whose label is doubted.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (S, S, 3)
    given, suggested : str
        Class names; ``suggested`` is empty where nothing is.
    p_wrong : float or None
        P(given label wrong), in [0, 1], where it is known.
    trusted : ndarray of uint8, shape (S, S, 3), or None
        The trusted image that looks most like it.
    trusted_label : str
        Its class name.
    """

    pixels: npt.NDArray[np.uint8]
    given: str
    suggested: str
    p_wrong: float | None
    trusted: npt.NDArray[np.uint8] | None = None
    trusted_label: str = ""


def draw_suspects(worst: Sequence[Suspect], classes: Sequence[str], path: Path, *, title: str) -> None:
    """Draw images whose labels are doubted, the worst first, each beside its nearest trusted image where it has one.

    Parameters
    ----------
    worst : sequence of Suspect
        At least one, row by row.
    classes : sequence of str, length K
        The class names. One that the bundled font cannot write becomes "class k" (from 1 on, in this order), as boxes look all the same.
    path : Path
        The PNG file to write, at most 1600 px wide. What is too long for its place is shortened in the middle.
    title : str
        A headline.
    """
    written = writable(classes)
    rows = []
    for one in worst:
        doubt = "" if one.p_wrong is None else f"P(wrong) {one.p_wrong:.1%}"
        lines = [f"given: {written[one.given]}", f"likely: {written[one.suggested]}" if one.suggested else "", doubt]
        tiles = [Tile(one.pixels, [line for line in lines if line])]
        if one.trusted is not None:
            tiles.append(Tile(one.trusted, ["nearest trusted:", written[one.trusted_label]]))
        rows.append(tiles)
    gallery(rows, path, title=title + ("" if all(written[name] == name for name in classes) else UNWRITTEN))


def nearest_by_cosine(
    vectors: npt.ArrayLike, references: npt.ArrayLike, *, apart: tuple[Index, Index] | None = None, rows_at_once: int = _ROWS_AT_ONCE
) -> Index:
    """Find for each vector the reference at the smallest angle.

    Parameters
    ----------
    vectors : array-like of float, shape (N, D)
        Finite; may be memory-mapped.
    references : array-like of float, shape (M, D)
        Finite, at least one. A copy of them is held.
    apart : tuple of ndarray of int64, shape (N,) and (M,), optional
        Groups of the vectors and of the references: what is in one group is no neighbour.
    rows_at_once : int
        Vectors whose M cosines are held at once; changes nothing but time and memory.

    Returns
    -------
    ndarray of int64, shape (N,)
        Positions in ``references``; of equally near ones the smallest, and -1 where all are in the vector's own group. A zero vector has
        the cosine 0 to everything.

    Notes
    -----
    A float32 product, whose rounding differs with threads and block sizes, only names candidates: the first 16 within 1e-5 of the largest
    cosine. Among them float64 decides, one pair at a time, rounded to 1e-6, so that copies of an image tie.
    """
    rows, known = np.asarray(vectors, np.float32), _directions(np.asarray(references, np.float32))
    found = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), rows_at_once):
        block = _directions(rows[start : start + rows_at_once])
        cosine = block @ known.T  # (n, M)
        alone = np.zeros(len(block), np.bool_)
        if apart is not None:
            cosine[apart[0][start : start + rows_at_once, np.newaxis] == apart[1]] = -np.inf
            alone = np.isneginf(cosine.max(axis=1))
        row, candidate = np.nonzero(cosine >= cosine.max(axis=1, keepdims=True) - _NEARLY)
        first = np.arange(len(row)) - np.searchsorted(row, row) < _CANDIDATES
        row, candidate = row[first], candidate[first]
        exact = np.round((block[row].astype(np.float64) * known[candidate]).sum(axis=1), 6)
        order = np.lexsort((candidate, -exact, row))
        nearest = candidate[order][np.searchsorted(row, np.arange(len(block)))]
        found[start : start + len(block)] = np.where(alone, -1, nearest)
    return found


def report_table(
    decided: pd.DataFrame,
    classes: Sequence[str],
    *,
    posterior: npt.ArrayLike | None = None,
    votes: pd.DataFrame | None = None,
    nearest_trusted: Mapping[str, str] | None = None,
    audited: Mapping[str, str | None] | None = None,
    chosen: Mapping[str, str] | None = None,
    n_suspects: int = N_SUSPECTS,
    seed: int = 0,
) -> pd.DataFrame:
    """Put together what a person needs to check labels.

    Parameters
    ----------
    decided : DataFrame
        N rows; ``image, given_label, score, p_wrong`` as in :class:`bccp.labels.bayes_cutoff.Decision`.
    classes : sequence of str, length K
    posterior : array-like, shape (N, K), optional
        P(z = j | x, y), row by row.
    votes : DataFrame, optional
        ``image, user, label``: who said what.
    nearest_trusted : mapping of str to str, optional
        For suspects the trusted image that they look most like.
    audited : mapping of str to (str or None), optional
        Labels that an expert has given before, so that they are not lost when the report is fed back; None for an image of no class.
    chosen : mapping of str to str, optional
        How these images were chosen then; it is not lost either.
    n_suspects : int
        Length of the list of suspects.
    seed : int
        Of the random sample, which depends on it and on the images' ids alone.

    Returns
    -------
    DataFrame
        The columns :data:`REPORT_COLUMNS`, all text but ``rank``, sorted by image. ``rank`` is 1 for the highest score, equal ones by
        image; audited images come last. ``chosen`` names the group of the images to check next: ``suspect`` for the highest ranks,
        ``random`` for a sample. What is not known is empty; probabilities have 6 decimals. Where an image is of no class there is a
        column ``verdict``, too, as :func:`bccp.labels.expert_labels.read_audit` takes it.
    """
    images, given = decided["image"].tolist(), decided["given_label"].tolist()
    known = audited or {}
    ranked = decided.assign(checked=decided["image"].isin(list(known)), score=-decided["score"].astype(float))
    ranked = ranked.sort_values(["checked", "score", "image"])
    rank = {image: place for place, image in enumerate(ranked["image"], start=1)}
    before = {image: (chosen or {}).get(image, "") for image in known}
    n_random = max(0, findings.random_sample_size(len(images)) - list(before.values()).count(expert_labels.RANDOM))
    groups = before | _groups([image for image in ranked["image"] if image not in known], n_random, n_suspects, seed=seed)
    suggested, probability = [""] * len(images), [""] * len(images)
    if posterior is not None and len(images):
        believed = np.asarray(posterior, np.float64)
        suggested = [classes[k] for k in believed.argmax(axis=1)]
        probability = [f"{p:.6f}" for p in believed.max(axis=1)]
    no_class = {image for image, label in known.items() if label is None}
    suggested, probability = (
        ["" if image in no_class else cell for image, cell in zip(images, cells, strict=True)] for cells in (suggested, probability)
    )
    users: dict[tuple[str, str], set[str]] = {}
    if votes is not None:
        for image, user, label in votes[["image", "user", "label"]].itertuples(index=False):
            users.setdefault((image, label), set()).add(user)
    columns = {
        "image": images,
        "label": [known.get(image) or "" for image in images],
        "chosen": [groups.get(image, "") for image in images],
        "given_label": given,
        "p_wrong": ["" if p == "" else f"{float(p):.6f}" for p in decided["p_wrong"]],
        "suggested_label": suggested,
        "posterior": probability,
        "user": [";".join(sorted(users.get(said, ()))) for said in zip(images, given, strict=True)],
        "nearest_trusted": [(nearest_trusted or {}).get(image, "") for image in images],
        "rank": [rank[image] for image in images],
    }
    table = pd.DataFrame(columns, columns=list(REPORT_COLUMNS))
    if no_class:
        verdicts = [(expert_labels.OF_NO_CLASS if i in no_class else expert_labels.LABELLED) if i in known else "" for i in images]
        table.insert(2, "verdict", verdicts)
    return table.sort_values("image").reset_index(drop=True)


def _groups(ranked: Sequence[str], n_random: int, n_suspects: int, *, seed: int) -> dict[str, str]:
    """Choose the images to check next, of those that nobody has checked, the worst first.

    The sample is drawn first, from all of them, and not from what the worst leave: so it stays the same whatever the scores say. It only
    fills up what was drawn and checked before, for a sample that is left half blank is none.
    """
    by_chance = sorted(ranked, key=lambda image: hashlib.sha256(f"{seed}:audit:{image}".encode("utf-8", "surrogateescape")).digest())
    groups = dict.fromkeys(by_chance[:n_random], expert_labels.RANDOM)
    worst = [image for image in ranked if image not in groups]
    return groups | dict.fromkeys(worst[:n_suspects], expert_labels.SUSPECT)


def make_report(
    step: Step,
    days: Days,
    decision: Decision,
    audited: Mapping[str, str | None],
    chosen: Mapping[str, str] | None = None,
    finding: Finding | None = None,
) -> pd.DataFrame:
    """The report of the step's decision; see :func:`report_table`.

    Parameters
    ----------
    step : Step
        Of ``bayes_cutoff``; its input ``true_labels`` is not looked at.
    days : Days
    decision : Decision
    audited : mapping of str to (str or None)
        What is checked stays checked when this report is fed back; None for an image of no class.
    chosen : mapping of str to str, optional
        How each of these was chosen.
    finding : Finding, optional
        Where no image is trusted, its upper end says how long the list of suspects is; a judge who cannot tell has none.

    Returns
    -------
    DataFrame
    """
    return report_table(
        decision.table,
        days.classes,
        posterior=decision.posterior,
        votes=label_files.read_votes(step.input("given_labels")),
        nearest_trusted=_nearest_trusted(step, days, _suspects(decision)),
        audited=audited,
        chosen=chosen,
        n_suspects=N_SUSPECTS if finding is None else list_length(finding),
        seed=step.config.random_seed,
    )


def list_length(finding: Finding) -> int:
    """The number of suspects that a finding asks to look at, at most ``MOST_LISTED``."""
    if finding.trusted:
        return N_SUSPECTS
    if finding.verdict == "blind":
        return 0
    upper = finding.at_least if finding.at_most is None else finding.at_most
    return min(MOST_LISTED, math.ceil(upper * finding.n_images - 1e-9))


def log_suspects(step: Step, days: Days, report: pd.DataFrame, decision: Decision, finding: Finding | None = None) -> None:
    """Draw the worst suspects, once the report is published; a step alone says where it lies.

    Parameters
    ----------
    step : Step
        Has published ``cleansed_labels``.
    days : Days
    report : DataFrame
        From :func:`make_report`.
    decision : Decision
        That it is made of.
    finding : Finding, optional
        As for :func:`make_report`.
    """
    if step.context.folder is None:  # a run leaves the list in its own folder, and says so at its end
        place = step.ledger.fetch(f"cleansed_labels:{step.outputs['cleansed_labels']}")
        # the ledger's own file is not to be changed: its version would no longer be what it is
        step.emit(checking_sentence(place / CHECKING_LIST, report, step.config.method))
    open_images = set(unchecked(report)["image"])
    ranked = finding is not None and not finding.trusted
    doubted = report.loc[report["chosen"] == expert_labels.SUSPECT, "image"] if ranked else _suspects(decision)
    suspects = [image for image in doubted if image in open_images]
    worst = report[report["image"].isin(suspects)].sort_values("rank")[:_MOST_DRAWN]
    if len(worst):
        with scratch("suspects") as folder:
            path = folder / "worst_suspects.png"
            where = "that are listed" if ranked else "above the cut-off"
            title = f"{len(worst)} most suspect of {len(suspects)} labels {where}, {len(report)} judged"
            draw_suspects(_drawn(worst, days), days.classes, path, title=title)
            step.log_picture(path, pixels=True)
        columns = ["image", "given_label", "suggested_label", "p_wrong", "user", "rank"]
        step.log_table("most_suspect_labels", worst[columns].to_dict("records"), (days.view([image])[0] for image in worst["image"]))


def _suspects(decision: Decision) -> list[str]:
    """The images above the cut-off, the worst first."""
    above = decision.table[decision.table["above_cutoff"].astype(bool)]
    return [str(image) for image in above.sort_values(["score", "image"], ascending=[False, True])["image"]]


def _nearest_trusted(step: Step, days: Days, suspects: list[str]) -> dict[str, str]:
    """Monday's training image that each of the worst suspects looks most like, where Monday is trusted."""
    suspects = suspects[:MOST_LISTED]
    if days.target_day != "tuesday" or not suspects:
        return {}
    recipe, trusted = step.config.monday_model(), days.ids("monday", "train")
    if step.config.refine == "stack":  # no model is trained for its judges, nor for this
        model = build_by_recipe(days, recipe)
        features, known = (view_features(step, days, model, some)[:] for some in (suspects, trusted))
        return {suspect: trusted[k] for suspect, k in zip(suspects, nearest_by_cosine(features, known).tolist(), strict=True)}
    references = shared_features(step, days, trusted, embedding="monday_model", recipe=recipe)
    model = open_monday_model(step, days, recipe)
    found = nearest_by_cosine(classifier.embed(model, shared_inputs(step, days)(model, suspects), device=step.device), references[:])
    return {suspect: trusted[k] for suspect, k in zip(suspects, found.tolist(), strict=True)}


def _drawn(worst: pd.DataFrame, days: Days) -> list[Suspect]:
    drawn = []
    for row in worst.to_dict("records"):
        trusted = row["nearest_trusted"]
        drawn.append(
            Suspect(
                pixels=days.view([row["image"]])[0],
                given=row["given_label"],
                suggested=row["suggested_label"],
                p_wrong=float(row["p_wrong"]) if row["p_wrong"] else None,
                trusted=days.view([trusted])[0] if trusted else None,
                trusted_label=str(days.splits.at[trusted, "label"]) if trusted else "",
            )
        )
    return drawn


def _directions(vectors: Float32) -> Float32:
    """Vectors (n, D) of length 1; a zero vector stays what it is."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    lengths[lengths == 0] = 1
    scaled: Float32 = vectors / lengths.astype(np.float32)[:, np.newaxis]
    return scaled
