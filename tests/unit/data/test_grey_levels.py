"""Grey values of more than 8 bits: what becomes black and white is chosen by a whole set, and is the same for all of its images."""

from __future__ import annotations

import numpy as np
import pytest

from bccp.data.decoding import grey_levels
from bccp.data.decoding.grey_levels import ValueCounts, chosen_range, to_8_bits


def counted(*pictures: np.ndarray) -> ValueCounts:
    return ValueCounts.sum([ValueCounts.of(picture) for picture in pictures])


def test_percentiles_of_pictures_are_those_of_all_their_pixels() -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(7000 + 40 * i, 8000 + 40 * i, (40, 30)).astype(np.uint16) for i in range(20)]
    found = counted(*pictures)
    everything = np.concatenate([picture.ravel() for picture in pictures])
    assert found.percentiles() == tuple(np.percentile(everything, [0.5, 99.5], method="inverted_cdf"))
    assert (found.images, found.lowest, found.highest, int(found.counts.sum())) == (20, everything.min(), everything.max(), everything.size)


def test_more_values_than_are_kept_are_counted_in_bounded_memory_and_nearly_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grey_levels, "MOST_VALUES", 512)
    rng = np.random.default_rng(0)
    pictures = [rng.normal(i, 100, (60, 60)).astype(np.float32) for i in range(20)]
    found = counted(*pictures)
    assert len(found.values) <= 512
    assert int(found.counts.sum()) == 20 * 3600
    everything = np.concatenate([picture.ravel() for picture in pictures])
    np.testing.assert_allclose(found.percentiles(), np.percentile(everything, [0.5, 99.5]), atol=8)


def test_a_picture_of_very_many_pixels_is_counted_by_some_of_all_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grey_levels, "_MOST_PIXELS", 400)
    mosaic = np.zeros((40, 40), np.uint16)
    mosaic[::2, ::2], mosaic[1::2, 1::2] = 100, 300
    found = ValueCounts.of(mosaic)
    assert found.counts.sum() < 1600
    np.testing.assert_allclose(found.counts / found.counts.sum(), [0.5, 0.25, 0.25], atol=0.06)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.arange(65536, dtype=np.uint16), None),
        (np.arange(0, 40000, dtype=np.uint16), None),
        (np.arange(1001, dtype=np.uint16) + 7000, {"integer": [7005, 7995]}),
        (np.arange(1001, dtype=np.int32) - 1000, {"integer": [-995, -5]}),
        (np.arange(0, 10**6, 1000, dtype=np.int32), {"integer": [4000, 994000]}),
        (np.repeat([0, 900], [9990, 10]).astype(np.uint16), {"integer": [0, 900]}),
        (np.full(9, 7500, np.uint16), None),
        (np.linspace(0, 1, 1001, dtype=np.float32), {"float": [0, 1]}),
        (np.linspace(0, 255, 1001, dtype=np.float32), {"float": [0, 255]}),
        (np.linspace(0, 1000, 1001, dtype=np.float32), {"float": [5, 995]}),
        (np.full(9, 0.5, np.float32), None),
    ],
    ids=[
        "all of 16 bits",
        "more than half",
        "12 bits",
        "signed",
        "32 bits",
        "few bright spots",
        "one value",
        "unit",
        "8 bits",
        "others",
        "one float",
    ],
)
def test_the_range_is_that_of_the_type_where_half_of_it_is_used_and_else_that_of_the_set(values: np.ndarray, expected: object) -> None:
    counts = ValueCounts.of(values)
    assert chosen_range({"float" if values.dtype.kind == "f" else "integer": counts}) == expected


def test_integers_and_floats_of_one_set_have_ranges_of_their_own() -> None:
    counts = {"integer": ValueCounts.of(np.arange(1000, dtype=np.uint16)), "float": ValueCounts.of(np.linspace(0, 1, 99, dtype=np.float32))}
    found = chosen_range(counts)
    assert found == {"float": [0, 1], "integer": [4, 994]}
    assert to_8_bits(np.array([[0.0, 1.0]], np.float32), found).tolist() == [[0, 255]]
    assert to_8_bits(np.array([[0, 994, 65535]], np.uint16), found).tolist() == [[0, 255, 255]]


def test_a_range_is_the_same_for_every_picture_and_file_takes_each_by_itself() -> None:
    values = np.array([[100, 200]], np.uint16)
    assert to_8_bits(values).tolist() == [[0, 1]]
    assert to_8_bits(values, {"integer": [0, 500]}).tolist() == [[51, 102]]
    assert to_8_bits(values, {"float": [0, 400]}).tolist() == [[0, 1]]
    assert to_8_bits(values, "file").tolist() == [[0, 255]]
    assert to_8_bits(np.full((1, 2), 65535, np.uint16), "file").tolist() == [[255, 255]]
    assert to_8_bits(values, "file", min_is_white=True).tolist() == [[255, 0]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        to_8_bits(np.array([[0.5, value]], np.float32), {"float": [0, 1]})
