"""The finding about a set of given labels, and the one sentence in which terminal, page and report put it.

Where nothing is trusted a share of wrong labels is never a bare figure: what cannot be told from errors of the judge is not counted, so the
share has a lower and an upper end, and checked images, drawn at random, decide between them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from bccp.data.array_types import Float

Verdict = Literal["blind", "nothing", "found"]

SURE = 0.9
"""P(wrong) from which on a label counts as surely wrong."""

N_RANDOM = 50
"""Images that a person is asked to check at random; in small sets at most a third of them."""


@dataclass(frozen=True)
class Finding:
    """What is known of N given labels.

    Attributes
    ----------
    verdict : {"found", "nothing", "blind"}
        ``nothing``: so few seem wrong that none stands out. ``blind``: the judge cannot tell the classes apart, and no figure counts.
    at_least : float
        Share of wrong labels: the mean of P(wrong); 0 for ``blind``.
    at_most : float or None
        Upper end of that share; None where trusted images, or enough that were checked at random, make the mean an estimate.
    n_images : int
        N.
    n_surely : int
        Labels with a P(wrong) of at least ``SURE``.
    n_audited : int
        Images that a person has checked, those of no class among them.
    n_unsure, n_no_class : int
        Images of which a person was unsure, and of those checked the ones of no class.
    trusted : bool
        Trusted images lie beside the judged ones.
    """

    verdict: Verdict
    at_least: float
    at_most: float | None
    n_images: int
    n_surely: int
    n_audited: int = 0
    n_unsure: int = 0
    n_no_class: int = 0
    trusted: bool = False

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Finding:
        """The finding that :meth:`to_json` gave."""
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The value of the key ``finding`` in ``cutoff.json``."""
        return dataclasses.asdict(self)


def count_sure(p_wrong: Float) -> int:
    """Count the labels that are surely wrong, from P(wrong) of shape (N,)."""
    return int((np.asarray(p_wrong) >= SURE).sum())


def random_sample_size(n_images: int) -> int:
    """The number of images, of so many, that are to be checked at random."""
    return min(N_RANDOM, n_images // 3)


def finding_sentence(finding: Finding) -> str:
    """Put a finding into plain words.

    Parameters
    ----------
    finding : Finding

    Returns
    -------
    str
        One sentence without a capital and a full stop.

    Examples
    --------
    >>> finding_sentence(Finding("found", 0.26, 0.49, 900, 234))
    'at least 26% of the labels are wrong, at most 49%; 234 surely (P >= 0.9); check these 50 at random to know'
    >>> finding_sentence(Finding("found", 0.31, None, 900, 240, n_audited=50))
    'about 31% of the labels are wrong, as far as 50 checked ones tell; 240 surely (P >= 0.9)'
    >>> finding_sentence(Finding("blind", 0.0, None, 900, 0))
    'this judge cannot tell these classes apart; nothing was changed'
    """
    checked = finding.n_audited
    if finding.verdict == "blind":
        return "this judge cannot tell these classes apart; nothing was changed" + (" but what was checked" if checked else "")
    if finding.verdict == "nothing":
        return "no label stands out as wrong" + (f", as far as {checked} checked ones tell" if checked else "")
    surely = f"{finding.n_surely} surely (P >= {SURE})"
    if finding.at_most is None:
        as_far = f", as far as {checked} checked ones tell" if checked else ", as far as the trusted images tell" if finding.trusted else ""
        return f"about {percent(finding.at_least)} of the labels are wrong{as_far}; {surely}"
    sample = random_sample_size(finding.n_images)
    advice = f"; check these {sample} at random to know" if sample else ""
    return f"at least {percent(finding.at_least)} of the labels are wrong, at most {percent(finding.at_most)}; {surely}{advice}"


def percent(share: float) -> str:
    """A share in percent, with a decimal where it is small.

    Examples
    --------
    >>> percent(0.264), percent(0.0312)
    ('26%', '3.1%')
    """
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"
