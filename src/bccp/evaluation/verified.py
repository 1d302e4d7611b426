"""Verified test images: those whose true label is known and that were not chosen for what their label looked like.

Truth comes from the trusted day, from the data itself (:mod:`bccp.data.segregation`), or from an expert's audit of images drawn at random.
An image that was checked because its label looked wrong, or nobody knows why, says nothing of the others: it teaches
(:mod:`bccp.labels.expert_labels`), and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bccp.core.step_context import Step
from bccp.data import tables
from bccp.data.dataset import Days
from bccp.evaluation import scores
from bccp.labels import expert_labels


@dataclass(frozen=True)
class ReferenceLabels:
    """Labels that the test images are measured against.

    Attributes
    ----------
    table : DataFrame
        From :func:`bccp.evaluation.scores.reference_labels`.
    left_out : dict of str to int
        Test images that are not among them, by reason.
    said : list of str
        Lines about the audit file.
    """

    table: pd.DataFrame
    left_out: Mapping[str, int]
    said: list[str]


@dataclass(frozen=True)
class AuditedTests:
    """What an audit file says of the test images of the target day.

    Attributes
    ----------
    labels : dict of str to str
        The checked label of each that it verifies, by image.
    not_random : frozenset of str
        Checked images that were suspects, or chosen nobody knows how.
    no_class : frozenset of str
        Images drawn at random that are of none of the classes.
    n_unanswered : int
        Rows of the file said to be random that are blank or unsure.
    """

    labels: Mapping[str, str]
    not_random: frozenset[str]
    no_class: frozenset[str]
    n_unanswered: int


def find_references(step: Step, days: Days) -> ReferenceLabels:
    """Gather the true labels of the test images: the data's, and an expert's where the data does not know all.

    Parameters
    ----------
    step : Step
        ``test``, with the input ``true_labels``, and ``given_labels`` where the truth is not known.
    days : Days

    Returns
    -------
    ReferenceLabels

    Raises
    ------
    BCCPError
        If no test image has a label, or the audit file is of no use.
    """
    labels = {name: tables.read(step.input(name) / f"{name}.csv") for name in ("true_labels", "given_labels") if step.has_input(name)}
    tested, reasons, said = days.splits, dict[str, int](), list[str]()
    if step.config.audit_file and not days.truth_known:
        audited = audited_tests(Path(step.config.audit_file), tested, target_day=days.target_day, classes=days.classes)
        known = set(labels["true_labels"]["image"])
        checked = [(image, label) for image, label in audited.labels.items() if image not in known]
        labels["true_labels"] = pd.concat([labels["true_labels"], pd.DataFrame(checked, columns=["image", "label"], dtype=str)])
        tested = tested.drop(index=[*audited.not_random, *audited.no_class])
        reasons["they were checked, but not chosen at random, and say nothing of the others"] = len(audited.not_random)
        reasons["they are of none of the classes"] = len(audited.no_class)
        unanswered = f"; rows chosen at random that are blank or unsure: {audited.n_unanswered}"
        said.append(f"audit file: verified test images of {days.target_day}: {len(audited.labels)}{unanswered}")
    table, n_without = scores.reference_labels(tested, target_day=days.target_day, **labels)
    return ReferenceLabels(table, {"they have no label at all": n_without, **reasons}, said)


def audited_tests(path: Path, splits: pd.DataFrame, *, target_day: str, classes: list[str]) -> AuditedTests:
    """Look the test images of the target day up in an audit file.

    Parameters
    ----------
    path : Path
        See :func:`bccp.labels.expert_labels.read_audit`. An image is verified where the file says that it was chosen at random.
    splits : DataFrame
        Indexed by image id, with the columns ``day, split``.
    target_day : str
    classes : list of str
        The K class names.

    Returns
    -------
    AuditedTests

    Raises
    ------
    BCCPError
        If the file cannot be read, or none of its rows is of any use.
    """
    audit = expert_labels.read_audit(path, images=set(splits.index), judged=set(splits.index), classes=classes)
    tested = splits.index[(splits["split"] == "test") & (splits["day"] == target_day)]
    answers = {image: audit.chosen[image] for image in tested if image in audit.chosen}
    not_random = frozenset(image for image, chosen in answers.items() if chosen != expert_labels.RANDOM)
    no_class = frozenset(audit.no_class & answers.keys()) - not_random
    labels = {image: audit.labels[image] for image in sorted(answers) if image not in not_random | no_class}
    return AuditedTests(labels, not_random, no_class, audit.n_random_blank)


def how_to_verify(target_day: str) -> str:
    """The remedy, in words, where too few test images are verified."""
    return (
        f"check the labels of {target_day}'s test images (verified=false in evaluation/predictions.csv), all or some drawn at random, "
        "and give them as bayes_cutoff.audit_file, a CSV image,label,chosen with chosen=random"
    )
