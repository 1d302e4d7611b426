"""The finding in words, and on its way through ``cutoff.json``."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from bccp.labels.findings import Finding, count_sure, finding_sentence

FOUND = Finding("found", 0.264, 0.491, 1200, 234)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({}, "at least 26% of the labels are wrong, at most 49%; 234 surely (P >= 0.9); check these 50 at random to know"),
        (
            {"at_least": 0.0312, "n_images": 30},
            "at least 3.1% of the labels are wrong, at most 49%; 234 surely (P >= 0.9); check these 10 at random to know",
        ),
        ({"n_images": 2, "n_surely": 1}, "at least 26% of the labels are wrong, at most 49%; 1 surely (P >= 0.9)"),
        ({"at_most": None, "n_audited": 50}, "about 26% of the labels are wrong, as far as 50 checked ones tell; 234 surely (P >= 0.9)"),
        ({"at_most": None, "trusted": True}, "about 26% of the labels are wrong, as far as the trusted images tell; 234 surely (P >= 0.9)"),
        ({"verdict": "nothing"}, "no label stands out as wrong"),
        ({"verdict": "blind"}, "this judge cannot tell these classes apart; nothing was changed"),
        ({"verdict": "blind", "n_audited": 3}, "this judge cannot tell these classes apart; nothing was changed but what was checked"),
    ],
)
def test_a_share_is_never_a_bare_figure(changed: dict, sentence: str) -> None:
    assert finding_sentence(dataclasses.replace(FOUND, **changed)) == sentence


def test_a_finding_survives_json() -> None:
    assert Finding.from_json(json.loads(json.dumps(FOUND.to_json()))) == FOUND


def test_sure_is_from_nine_in_ten_on() -> None:
    assert count_sure(np.array([0.2, 0.8999, 0.9, 1.0])) == 2
