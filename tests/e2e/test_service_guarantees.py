"""Three rounds of each guarantee of the service, by the functions of ``make benchmark-serve``: killed and moved under load."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.serving.guarantees import compare_with_predict, kill_under_load, move_under_load, refuse_broken
from benchmarks.serving.load import Loader
from benchmarks.serving.made_models import WAYS_TO_BREAK, Made, small_pictures
from benchmarks.serving.service import QUICK_RELOAD, RAW, our_service

pytestmark = pytest.mark.slow


@pytest.fixture
def made(home: Path, one_thread: None) -> Made:
    made = Made(home)
    made.register_champion()
    return made


def test_what_was_acknowledged_outlives_kill_9_under_load(made: Made, tmp_path: Path) -> None:
    kept = kill_under_load(made, tmp_path, rounds=3)
    assert kept.missing == []
    assert kept.n_rounds == 3
    assert min(len(kept.acknowledged.predictions), len(kept.acknowledged.feedback)) > 30
    assert kept.n_files >= len(kept.acknowledged.predictions)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_no_request_is_lost_while_versions_change_and_answers_stay_those_of_bccp_predict(made: Made, tmp_path: Path) -> None:
    with our_service(made, tmp_path, QUICK_RELOAD) as server:
        found = move_under_load(made, server, Loader(small_pictures(), RAW, tmp_path), moves=3, seconds=1)
        assert found.load.n_requests > 100
        assert (found.load.n_refused, found.load.n_lost, found.n_unanswered) == (0, 0, 0)
        assert not found.broken_answered
        assert found.seen == [1, 2, 4]

        refused = refuse_broken(made, server, rounds=len(WAYS_TO_BREAK))
        assert refused.faults == []
        assert refused.n_counted == refused.n_versions

        equal = compare_with_predict(made, server, tmp_path)
        assert equal.differing == []
        assert equal.n_files > 50
        assert equal.largest <= 1e-6
