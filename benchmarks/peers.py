"""The peers' side, called as their documentation says; each is imported where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np


def scipy_spearman(values: np.ndarray) -> np.ndarray:
    """(P, P) from ``values`` (P, N), complete."""
    from scipy.stats import spearmanr

    return np.asarray(spearmanr(values.T).statistic)


def pandas_spearman(values: np.ndarray) -> np.ndarray:
    """(P, P) from ``values`` (P, N), NaN = missing."""
    import pandas as pd

    return pd.DataFrame(values.T, copy=False).corr(method="spearman").to_numpy()


def statsmodels_vif(data: np.ndarray, column: int) -> float:
    """VIF of one column of ``data`` (N, P), centred: one regression on the others."""
    from statsmodels.stats.outliers_influence import variance_inflation_factor  # type: ignore[import-untyped]

    return float(variance_inflation_factor(data, column))


def reinverting_loop(correlation: np.ndarray, threshold: float) -> list[int]:
    """Removed columns in order: numpy.linalg.inv of what is left, at each step."""
    alive = np.arange(len(correlation))
    removed = []
    while len(alive):
        vif = np.diag(np.linalg.inv(correlation[np.ix_(alive, alive)]))
        k = int(vif.argmax())
        if vif[k] < threshold:
            break
        removed.append(int(alive[k]))
        alive = np.delete(alive, k)
    return removed


def normal_scores(values: np.ndarray) -> np.ndarray:
    """(N,) normal scores of one column, the input of the Gaussian kernel."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    return np.asarray(ndtri((rankdata(values) - 0.5) / len(values)))


def hyppo_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Normalised HSIC of two columns, Gaussian kernel of sigma 1; hyppo returns its root."""
    from hyppo.independence import Hsic  # type: ignore[import-untyped]

    return float(Hsic(compute_kernel="rbf", bias=True, gamma=0.5).statistic(x[:, None], y[:, None])) ** 2


def dcor_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Distance correlation by dcor's fast algorithm, O(N log N)."""
    import dcor

    return float(dcor.distance_correlation(x, y, method="mergesort"))


def paper_rdc(x: np.ndarray, y: np.ndarray, features: int = 20, scale: float = 1 / 6, seed: int = 0) -> float:
    """RDC as published (Lopez-Paz, Hennig & Schoelkopf 2013, five lines of R), in numpy and scipy."""
    from scipy.stats import rankdata

    rng = np.random.default_rng(seed)

    def basis(values: np.ndarray) -> np.ndarray:
        copula = np.column_stack([rankdata(values) / len(values), np.ones(len(values))])
        waves = np.sin(scale / 2 * copula @ rng.standard_normal((2, features)))
        return np.asarray(np.linalg.qr(waves - waves.mean(axis=0))[0])

    return float(np.linalg.svd(basis(x).T @ basis(y), compute_uv=False)[0])


def smart_selection(frame: Any, threshold: float) -> list[str]:
    """Columns that feature-engine keeps of a pandas DataFrame."""
    from feature_engine.selection import SmartCorrelatedSelection

    selector = SmartCorrelatedSelection(
        method="spearman", threshold=threshold, missing_values="ignore", selection_method="missing_values"
    )
    selector.fit(frame)
    gone = set(selector.features_to_drop_)
    return [name for name in frame.columns if name not in gone]


def read_parquet(paths: list[str], names: list[str]) -> np.ndarray:
    """(P, N) float64 by pyarrow.parquet.read_table."""
    import pyarrow.parquet as pq

    table = pq.read_table(paths, columns=names)
    return np.array([table.column(name).to_numpy() for name in names])


def torch_product(left: np.ndarray, threads: int) -> Any:
    """A function that multiplies left' left by torch, float64."""
    import torch

    torch.set_num_threads(threads)
    tensor = torch.from_numpy(left)
    return lambda: tensor.T @ tensor
