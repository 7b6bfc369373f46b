"""How well descriptors predict a property: cross-validated, with all of them, the selected ones and random ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import RepeatedKFold, RepeatedStratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import QuantileTransformer

Task = Literal["regression", "classification"]
Split = tuple[np.ndarray, np.ndarray]

FEW_CLASSES = 10  # integers of at most as many values are classes
QUANTILES = 1000
RIDGES = np.logspace(-2, 4, 13)
SCORES = {"regression": "R2", "classification": "ROC AUC"}


def task_of(values: np.ndarray) -> Task:
    """What the type of a target (N,) asks for: text, booleans and few different integers are classes."""
    if values.dtype.kind in "iu":
        return "classification" if len(np.unique(values)) <= FEW_CLASSES else "regression"
    return "regression" if values.dtype.kind == "f" else "classification"


def models(task: Task, seed: int) -> dict[str, Callable[[], Pipeline]]:
    """Makers of the models by name. What they learn of the columns, they learn from the rows they are fitted on.

    Trees take missing values as they are. The linear model gets medians in their place and normal scores, since a
    descriptor of 1e84 leaves no other scale.
    """
    boosted = HistGradientBoostingRegressor if task == "regression" else HistGradientBoostingClassifier

    def linear() -> Pipeline:
        last = RidgeCV(RIDGES) if task == "regression" else LogisticRegression(C=0.1, max_iter=1000)
        scores = QuantileTransformer(n_quantiles=QUANTILES, output_distribution="normal", random_state=seed)
        return make_pipeline(SimpleImputer(strategy="median"), scores, last)

    return {
        "gradient boosting": lambda: make_pipeline(boosted(random_state=seed)),
        "ridge" if task == "regression" else "logistic": linear,
    }


def splits(target: np.ndarray, task: Task, folds: int, repeats: int, seed: int) -> list[Split]:
    """Rows to fit on and rows to predict, (folds * repeats) pairs; the same for every model and set of columns."""
    kind = RepeatedKFold if task == "regression" else RepeatedStratifiedKFold
    return list(kind(n_splits=folds, n_repeats=repeats, random_state=seed).split(target, target))


def random_sets(n_columns: int, size: int, number: int, seed: int) -> list[np.ndarray]:
    """(size,) int64 each, ascending: columns drawn without replacement."""
    rngs = [np.random.default_rng((seed, place)) for place in range(number)]
    return [np.sort(rng.choice(n_columns, size, replace=False)) for rng in rngs]


def score(
    values: np.ndarray, target: np.ndarray, task: Task, model: Pipeline, fit: np.ndarray, test: np.ndarray
) -> float:
    """R2, or the area under the ROC curve (of several classes, each against the rest, their mean), on rows not seen.

    Parameters
    ----------
    values : (N, P) float64, NaN = missing.
    target : (N,) float64, or whole numbers from 0 for classes.
    model : a fresh one; it is fitted.
    fit, test : rows.
    """
    if "quantiletransformer" in model.named_steps:
        model.set_params(quantiletransformer__n_quantiles=min(QUANTILES, len(fit)))
    there = ~np.isnan(values[fit]).all(axis=0)
    values = values[:, there] if there.any() else np.zeros((len(values), 1))  # nothing is learnt from empty columns
    model.fit(values[fit], target[fit])
    if task == "regression":
        return float(r2_score(target[test], model.predict(values[test])))
    chances = model.predict_proba(values[test])
    if chances.shape[1] == 2:
        return float(roc_auc_score(target[test], chances[:, 1]))
    return float(roc_auc_score(target[test], chances, multi_class="ovr", labels=model.classes_))


def summary(found: np.ndarray, test_share: float) -> dict[str, Any]:
    """Mean and 95 % interval of the scores of folds, (K,), or of their differences.

    Folds share rows to fit on, so their variance is enlarged by n_test / n_fit; without that the interval is too
    narrow.

    References
    ----------
    Nadeau & Bengio (2003), Inference for the generalization error.
    """
    mean, count = float(found.mean()), len(found)
    variance = float(found.var(ddof=1)) * (1 / count + test_share / (1 - test_share))
    half = float(stats.t.ppf(0.975, count - 1)) * variance**0.5
    return {"mean": mean, "low": mean - half, "high": mean + half}
