"""The most similar images whose label is beyond doubt: of the class that is wanted, and no copies."""

from __future__ import annotations

import numpy as np

from bccp.labels.label_report import nearest_by_cosine
from bccp.labels.neighbours import nearest_of_classes


def test_the_most_similar_confident_image_of_a_class_is_no_copy() -> None:
    rng, n_images = np.random.default_rng(0), 40
    rows, given = rng.normal(size=(n_images, 5)), np.arange(n_images) % 3
    confident, groups = rng.random(n_images) < 0.6, np.arange(n_images) // 2
    suspects, wanted = np.array([3, 8, 20, 39]), np.array([0, 1, 2, -1])
    (found,) = nearest_of_classes(rows, given, confident, groups, suspects, [wanted])
    centred = rows - rows.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    for suspect, label, place in zip(suspects, wanted, found, strict=True):
        fit = [i for i in range(n_images) if confident[i] and given[i] == label and groups[i] != groups[suspect]]
        assert place == (max(fit, key=lambda i: centred[suspect] @ centred[i]) if fit else -1)


def test_without_a_confident_image_there_is_no_neighbour() -> None:
    (found,) = nearest_of_classes(np.eye(3), np.arange(3), np.zeros(3, bool), np.arange(3), np.array([0]), [np.array([1])])
    assert found.tolist() == [-1]


def test_what_is_in_ones_own_group_is_no_neighbour() -> None:
    vectors, references = np.eye(2), np.array([[1.0, 0.0], [0.9, 0.1]])
    assert nearest_by_cosine(vectors, references).tolist() == [0, 1]
    assert nearest_by_cosine(vectors, references, apart=(np.array([7, 8]), np.array([7, 9]))).tolist() == [1, 1]
    assert nearest_by_cosine(vectors, references, apart=(np.array([7, 8]), np.array([7, 7]))).tolist() == [-1, 1]
