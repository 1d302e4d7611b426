"""Tuesday's corruption: right shapes, and for each image the same ones whatever else is there."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bccp.data import corruption

UInt8 = npt.NDArray[np.uint8]


def some_images(n: int = 12, size: int = 32) -> tuple[UInt8, list[str]]:
    rng = np.random.default_rng(5)
    images = rng.integers(0, 128, (n, size, size, 3), dtype=np.uint8)
    images.flags.writeable = False  # whoever changes its input is caught
    return images, [f"class/{i}.png" for i in range(n)]


def test_an_images_corruption_depends_on_the_seed_and_its_id_alone() -> None:
    images, ids = some_images()
    kinds = corruption.draw_kinds(ids, corruption="mixed", seed=3)
    together = corruption.corrupt(images, ids, kinds, seed=3)
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = [ids[i] for i in order]
    assert corruption.draw_kinds(shuffled, corruption="mixed", seed=3) == [kinds[i] for i in order]
    permuted = corruption.corrupt(images[order], shuffled, [kinds[i] for i in order], seed=3)
    np.testing.assert_array_equal(permuted, together[order])
    for i, image_id in enumerate(ids):
        alone = corruption.corrupt(images[i : i + 1], [image_id], [kinds[i]], seed=3)
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize("kind", corruption.KINDS)
def test_seed_and_id_both_change_the_corruption(kind: str) -> None:
    image, _ = some_images(1)
    first = corruption.corrupt(image, ["a"], [kind], seed=3)
    assert not np.array_equal(first, corruption.corrupt(image, ["a"], [kind], seed=4))
    assert not np.array_equal(first, corruption.corrupt(image, ["b"], [kind], seed=3))
    np.testing.assert_array_equal(first, corruption.corrupt(image, ["a"], [kind], seed=3))


@pytest.mark.parametrize("kind", corruption.KINDS)
@pytest.mark.parametrize("size", [4, 10, 32, 100])
def test_every_size_of_image_is_corrupted(kind: str, size: int) -> None:
    images, ids = some_images(6, size)
    after = corruption.corrupt(images, ids, [kind] * 6, seed=1)
    assert after.shape == images.shape
    assert after.dtype == np.uint8
    if size >= 10:  # on fewer pixels a patch or line may be smaller than a pixel
        assert all((after[i] != images[i]).any() for i in range(6))


def test_mixed_draws_each_kind_with_the_same_chance() -> None:
    n = 9000
    kinds = corruption.draw_kinds([f"{i}.png" for i in range(n)], corruption="mixed", seed=0)
    tolerance = 5 * np.sqrt(n * (1 / 3) * (2 / 3))  # five standard deviations of a binomial count
    for kind in corruption.KINDS:
        assert abs(kinds.count(kind) - n / 3) < tolerance


def test_one_kind_or_none_is_for_all() -> None:
    assert corruption.draw_kinds(["a", "b"], corruption="mosaic", seed=0) == ["mosaic", "mosaic"]
    assert corruption.draw_kinds(["a", "b"], corruption="none", seed=0) == ["", ""]


def test_an_unknown_kind_is_refused() -> None:
    images, ids = some_images(2)
    with pytest.raises(ValueError, match="'snow'"):
        corruption.corrupt(images, ids, ["snow", "mosaic"], seed=0)


@pytest.mark.parametrize("bounds", [corruption.BOXES, corruption.PATCHES])
def test_boxes_have_the_right_number_and_sides_and_lie_inside(bounds: tuple[int, int]) -> None:
    draws = np.random.default_rng(1).random((2000, corruption.N_DRAWS))
    count, tops, sides = corruption.place_boxes(draws, bounds, 100, square=False)
    assert (count.min(), count.max()) == bounds
    assert (sides.min(), sides.max()) == (10, 20)
    assert tops.min() == 0
    assert (tops + sides).max() == 100
    assert abs(sides.mean() - 15) < 5 * (10 / np.sqrt(12)) / np.sqrt(sides.size)
    assert (sides[..., 0] != sides[..., 1]).any()
    square = corruption.place_boxes(draws, bounds, 100, square=True)[2]
    np.testing.assert_array_equal(square[..., 0], square[..., 1])


def test_random_boxes_paints_exactly_the_drawn_boxes_white() -> None:
    images, ids = some_images(5, 40)
    draws = corruption.draw_uniform(ids, seed=7)
    count, tops, sides = corruption.place_boxes(draws, corruption.BOXES, 40, square=False)
    expected = images.copy()
    for i in range(5):
        for b in range(count[i]):
            for y in range(sides[i, b, 0]):
                for x in range(sides[i, b, 1]):
                    expected[i, tops[i, b, 0] + y, tops[i, b, 1] + x] = 255
    np.testing.assert_array_equal(corruption.random_boxes(images, draws), expected)


@pytest.mark.parametrize("size", [8, 32, 150, 260])
def test_mosaic_averages_each_cell_as_a_slow_loop_does(size: int) -> None:
    images, ids = some_images(3, size)
    draws = corruption.draw_uniform(ids, seed=2)
    count, tops, sides = corruption.place_boxes(draws, corruption.PATCHES, size, square=True)
    expected = images.copy()
    for i in range(3):
        for p in range(count[i]):
            (top, left), side = tops[i, p], sides[i, p, 0]
            cell = max(2, round(side / 10))
            for y in range(top, top + side, cell):
                for x in range(left, left + side, cell):
                    box = slice(y, min(y + cell, top + side)), slice(x, min(x + cell, left + side))
                    expected[i][box] = np.rint(images[i][box].mean(axis=(0, 1)))
    np.testing.assert_array_equal(corruption.mosaic(images, draws), expected)


def test_mosaic_leaves_a_plain_image_as_it_is() -> None:
    plain = np.full((2, 64, 64, 3), 137, dtype=np.uint8)
    np.testing.assert_array_equal(corruption.mosaic(plain, corruption.draw_uniform(["a", "b"], seed=0)), plain)


def test_a_level_line_of_least_thickness_is_a_tenth_of_the_diagonal() -> None:
    white = np.full((1, 100, 100, 3), 255, dtype=np.uint8)
    draws = np.zeros((1, corruption.N_DRAWS))
    draws[0, 0] = 0.5  # from the middle of the left edge
    black = (corruption.random_lines(white, draws) == 0).all(axis=3)[0]
    expected = np.zeros((100, 100), dtype=bool)
    expected[43:57] = True  # 14.1 px: 7 rows of pixel centres on either side
    np.testing.assert_array_equal(black, expected)


def test_lines_cross_the_centre_from_edge_to_opposite_edge() -> None:
    n, size = 300, 64
    white = np.full((n, size, size, 3), 255, dtype=np.uint8)
    lines = corruption.random_lines(white, corruption.draw_uniform([str(i) for i in range(n)], seed=0))
    black = (lines == 0).all(axis=3)
    assert set(np.unique(lines)) == {0, 255}
    np.testing.assert_array_equal(black, black[:, ::-1, ::-1])  # a reflection through the centre
    assert black[:, size // 2, size // 2].all()
    upright = black[:, 0].any(axis=1) & black[:, -1].any(axis=1)
    level = black[:, :, 0].any(axis=1) & black[:, :, -1].any(axis=1)
    assert (upright | level).all()
    # a strip of thickness t and length between 1 and sqrt 2 sides covers t to 2 t side lengths of area
    share = black.mean(axis=(1, 2))
    assert share.min() > 0.1 * np.sqrt(2) * 0.85
    assert share.max() < 0.2 * 2
    assert 0.35 < upright.mean() < 0.75


def test_a_stream_gives_the_same_images_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images, ids = some_images(10)
    rows = np.array([9, 0, 4, 3, 7])
    chosen = [ids[row] for row in rows]
    kinds = corruption.draw_kinds(chosen, corruption="mixed", seed=1)
    monkeypatch.setattr(corruption, "CORRUPTED_AT_ONCE_BYTES", 2 * images[0].nbytes)
    chunks = list(corruption.stream(images, rows, chosen, kinds, seed=1))
    assert [len(chunk) for chunk in chunks] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(chunks), corruption.corrupt(images[rows], chosen, kinds, seed=1))
