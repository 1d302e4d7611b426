"""The benchmark of the test step, on few images."""

from __future__ import annotations

import pytest

from benchmarks import evaluation


def test_the_table_says_what_each_part_took_and_whether_it_was_quick_enough(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation.main(["--images", "200", "--classes", "4", "--resamples", "20"])
    row = capsys.readouterr().out.splitlines()[-1]
    assert "200 images, 4 classes, 20 resamples" in row
    for part in ("figures with intervals", "figures by class", "errors", "pictures"):
        assert part in row
    assert row.endswith("| yes |")
