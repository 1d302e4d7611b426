"""The tables of a service's engines, on very small images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks import engines


def test_the_tables_have_both_engines_and_the_parts_of_the_time(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "limit_threads", lambda _: None)
    monkeypatch.setattr(engines, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(engines, "N_FILES", 8)
    before = torch.get_num_threads()
    engines.main(["--models", "small_cnn", "--sizes", "8", "--rounds", "1"])
    torch.set_num_threads(before)
    lines = capsys.readouterr().out.splitlines()
    number = r"-?\d+\.\d+"
    row = rf"\| small_cnn \| 8( \| {number}){{6}} \| {number} / {number} / {number} \| onnxruntime \| \de[-+]\d+ \|"
    assert re.fullmatch(row, lines[4])
    assert [line.split(" | ")[0] for line in lines[-3:]] == ["| 1", "| 8", "| 32"]
    assert all(re.fullmatch(rf"\| \d+( \| {number}){{6}} \|", line) for line in lines[-3:])
