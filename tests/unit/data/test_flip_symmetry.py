"""The probe that tells whether images may be mirrored."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from bccp.data import flip_symmetry
from bccp.data.flip_symmetry import mirror_symmetric

N_CLASSES, SIZE = 4, 24


def make_images(n: int, *, seed: int, handed: int = 0, noise: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """Classes of horizontal bars, each in its own row, at any place from left to right; of the last ``handed`` classes, pairs share a row
    and differ only in whether the bar is at the left or at the right.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, N_CLASSES + handed, n)
    images = rng.normal(100, noise, (n, SIZE, SIZE, 3))
    for image, label in zip(images, labels, strict=True):
        in_pairs = label - N_CLASSES
        row = 4 * label if in_pairs < 0 else 4 * (N_CLASSES + in_pairs // 2)
        start = int(rng.integers(0, SIZE - 8)) if in_pairs < 0 else (SIZE - 8) * (in_pairs % 2)
        image[row : row + 4, start : start + 8] += 120
    return np.clip(images, 0, 255).astype(np.uint8), labels


def ask(handed: int = 0, n: int = 600, n_val: int = 300, **options: float) -> bool:
    return mirror_symmetric(*make_images(n, seed=1, handed=handed, **options), *make_images(n_val, seed=2, handed=handed, **options))


def test_classes_that_look_the_same_in_a_mirror_are_mirrored() -> None:
    assert ask()


def test_classes_that_are_told_apart_by_left_and_right_are_not() -> None:
    images, labels = make_images(400, seed=1, handed=2)
    of_pair, rest = labels >= N_CLASSES, labels < N_CLASSES
    assert not mirror_symmetric(images[of_pair], labels[of_pair], images[of_pair], labels[of_pair])
    assert mirror_symmetric(images[rest], labels[rest], images[rest], labels[rest])


def test_a_single_pair_of_handed_classes_among_others_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flip_symmetry, "MOST_LOSS", 1.0)
    assert not ask(handed=2)
    monkeypatch.setattr(flip_symmetry, "MOST_CLASS_LOSS", 2.0)
    assert ask(handed=2)


def test_digits_are_not_mirrored() -> None:
    data = load_digits()
    images = np.repeat((data.images * 15).astype(np.uint8)[..., None], 3, axis=3)
    for n in (200, 1200):
        assert not mirror_symmetric(images[:n], data.target[:n], images[1200:], data.target[1200:])


def test_where_there_is_too_little_to_tell_nothing_is_mirrored() -> None:
    images, labels = make_images(40, seed=1)
    assert not mirror_symmetric(images, labels, images[:0], labels[:0])
    assert not mirror_symmetric(images[:0], labels[:0], images, labels)
    assert not mirror_symmetric(images, np.zeros(40, int), images, np.zeros(40, int))
    assert not mirror_symmetric(images, labels, images[:3], labels[:3])
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    assert not mirror_symmetric(noise[:200], rng.integers(0, 3, 200), noise[200:], rng.integers(0, 3, 100))
    assert not mirror_symmetric(np.zeros_like(noise), rng.integers(0, 3, 300), noise, rng.integers(0, 3, 300))


def test_the_labels_may_be_noisy_and_the_classes_unequal() -> None:
    images, labels = make_images(2000, seed=1)
    rng = np.random.default_rng(0)
    keep = (labels > 0) | (rng.random(2000) < 0.2)
    images, labels = images[keep], labels[keep]
    given = np.where(rng.random(len(labels)) < 0.3, rng.integers(0, N_CLASSES, len(labels)), labels)
    assert mirror_symmetric(images[::2], given[::2], images[1::2], given[1::2])


def test_few_images_are_read_at_once_and_at_most_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted:
        def __init__(self, images: np.ndarray) -> None:
            self.images, self.sizes = images, []

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, idx: np.ndarray) -> np.ndarray:
            self.sizes.append(len(idx))
            return self.images[idx]

    images, labels = make_images(600, seed=1)
    seen, val_seen = Counted(images), Counted(images[:300])
    whole = flip_symmetry.shrink_images(images, np.arange(600))
    monkeypatch.setattr(flip_symmetry, "MOST_IMAGES", 450)
    monkeypatch.setattr(flip_symmetry, "MIRROR_CHUNK_BYTES", 50 * SIZE**2 * 12)
    assert mirror_symmetric(seen, labels, val_seen, labels[:300])
    assert sum(seen.sizes) == 451  # one tells the size
    assert sum(val_seen.sizes) == 301
    assert max(seen.sizes + val_seen.sizes) == 50
    np.testing.assert_allclose(flip_symmetry.shrink_images(images, np.arange(600)), whole, rtol=1e-6)


@pytest.mark.parametrize("size", [8, 16, 24, 37, 64])
def test_small_versions_are_means_over_equal_cells_and_mirror_as_the_image_does(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    small = flip_symmetry.shrink_images(images, np.arange(3))
    cells = min(16, size)
    assert small.shape == (3, cells, cells, 3)
    np.testing.assert_allclose(small.mean((1, 2)), images.mean((1, 2)) / 255, rtol=1e-5)
    np.testing.assert_allclose(flip_symmetry.shrink_images(images[:, :, ::-1], np.arange(3)), small[:, :, ::-1], rtol=1e-5)
    if size == 64:
        np.testing.assert_allclose(small, images.reshape(3, 16, 4, 16, 4, 3).mean((2, 4)) / 255, rtol=1e-5)
