"""Clusters of documents: found where they are, the same from the same seed, none where documents are few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taxoclass import clustering
from taxoclass.clustering import PER_CLASS, clusterings, k_means, principal


def blobs(n_blobs: int, size: int, dimensions: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points about distant centres, and which."""
    rng = np.random.default_rng(seed)
    centres = 20 * np.eye(max(n_blobs, dimensions), dtype=np.float32)[:n_blobs, :dimensions]
    labels = np.repeat(np.arange(n_blobs), size)
    return centres[labels] + rng.normal(size=(len(labels), dimensions)).astype(np.float32), labels


def test_every_point_is_with_the_nearest_centre():
    values, _ = blobs(4, 50)
    found = k_means(values, 6, np.random.default_rng(0))
    assert found.dtype == np.int32 and found.min() >= 0 and found.max() < 6
    centres = np.stack([values[found == each].mean(axis=0) for each in np.unique(found)])
    nearest = np.unique(found)[((values[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)]
    assert np.array_equal(nearest, found)


@given(st.integers(0, 50))
def test_clusters_finer_than_the_blobs_are_of_one_blob_each(seed):
    values, labels = blobs(3, 60, seed=seed)
    found = k_means(values, 12, np.random.default_rng(seed))
    pure = sum(np.bincount(labels[found == each]).max() for each in np.unique(found))
    assert pure / len(labels) > 0.65  # a blob may get no first centre of its own


def lloyd(values: np.ndarray, n_clusters: int, rng: np.random.Generator, rounds: int) -> np.ndarray:
    """The published algorithm, cluster by cluster; one without a value keeps its centre."""
    centres = values[np.sort(rng.choice(len(values), n_clusters, replace=False))].astype(np.float64)
    for _ in range(rounds):
        found = ((values[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        for each in np.unique(found):
            centres[each] = values[found == each].mean(axis=0)
    return found


@pytest.mark.parametrize("rounds", [1, 2, 5, clustering.ROUNDS])
@pytest.mark.parametrize("times", [1, 2], ids=["different values", "each twice"])
def test_clusters_are_those_of_lloyds_algorithm_after_as_many_rounds_in_any_blocks(monkeypatch, rounds, times):
    # a value that is there twice may be the first centre of two clusters, of which one is empty
    monkeypatch.setattr(clustering, "ROUNDS", rounds)
    monkeypatch.setattr(clustering, "BLOCK", 64)
    for seed in range(5):
        values = np.random.default_rng(seed).normal(size=(300 // times, 3)).astype(np.float32).repeat(times, axis=0)
        found = k_means(values, 40, np.random.default_rng(seed))
        assert np.array_equal(found, lloyd(values, 40, np.random.default_rng(seed), rounds))


def test_the_same_documents_are_clustered_alike_and_in_several_finenesses():
    values, _ = blobs(3, 300)
    found = clusterings(values, 3, 7, seed=0)
    assert found.shape == (900, 7) and np.array_equal(found, clusterings(values, 3, 7, seed=0))
    assert not np.array_equal(found, clusterings(values, 3, 7, seed=1))
    for turn in range(7):
        assert len(np.unique(found[:, turn])) <= 3 * PER_CLASS[turn % len(PER_CLASS)]
    assert len(np.unique(found[:, 4])) > len(np.unique(found[:, 0]))


def test_each_turn_has_its_clusters_a_class_and_is_told(monkeypatch):
    asked, told = [], []
    monkeypatch.setattr(
        clustering, "k_means", lambda values, n, rng: asked.append(n) or np.zeros(len(values), np.int32)
    )
    clusterings(blobs(3, 300)[0], 3, 7, seed=0, progress=told.append)
    assert asked == [6, 9, 12, 18, 24, 6, 9] and told == [1] * 7


@pytest.mark.parametrize(("n_documents", "count"), [(0, 3), (10, 3), (749, 3), (750, 0)])
def test_too_few_documents_are_not_clustered(n_documents, count):
    values = np.ones((n_documents, 4), np.float32)
    assert clusterings(values, 3, count, seed=0).shape == (n_documents, 0)


def test_equal_documents_do_no_harm():
    assert clusterings(np.ones((750, 4), np.float32), 3, 2, seed=0).shape == (750, 2)


def test_principal_directions_keep_the_angles_of_centred_vectors():
    values, _ = blobs(4, 30)
    reduced = principal(values, 64)
    centred = values - values.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    assert np.allclose(reduced @ reduced.T, centred @ centred.T, atol=1e-4)


def test_of_more_directions_than_are_kept_those_of_largest_variance_stay():
    values = np.random.default_rng(0).normal(size=(200, 5)) * [1, 5, 0.1, 3, 0.5] + 7
    left, scale, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    expected = left[:, :2] * scale[:2]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    reduced = principal(values.astype(np.float32), 2)
    assert reduced.shape == (200, 2) and reduced.dtype == np.float32
    assert np.allclose(reduced @ reduced.T, expected @ expected.T, atol=1e-3)
