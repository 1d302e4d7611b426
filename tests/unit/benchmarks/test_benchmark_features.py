"""The table of engines, on very few small images."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks import features


def test_the_table_has_both_engines_side_by_side(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "limit_threads", lambda _: None)
    before = torch.get_num_threads()
    features.main(["--models", "squeezenet1_1", "--sizes", "32", "--images", "2", "--rounds", "1"])
    torch.set_num_threads(before)
    row = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"\| squeezenet1_1 \| 32( \| \d+){4} \| [\d.]+ \| [\d.]+ \| (\d+|never) \| \de-\d+ \|", row)
