"""The selection as a step of scikit-learn; needs nothing else of winnow, so the file may be copied.

``WinnowSelector("results/descriptors/final_descriptors.txt").fit(X).transform(X)``
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils.validation import check_is_fitted, validate_data


class WinnowSelector(SelectorMixin, BaseEstimator):
    """Keeps the selected descriptors of a table, by name, in the order of the table that it was fitted on.

    In ``transform`` columns may come in any order and others may be among them, so that a table of new molecules needs
    the selected descriptors and nothing else. A data frame (pandas or polars) gives a data frame, an array an array.

    Parameters
    ----------
    descriptors : path of final_descriptors.txt, or names; for arrays, which have no names, positions.

    Attributes
    ----------
    descriptors_ : list of str or int, what is kept, in the order of the table.
    n_features_in_ : int. feature_names_in_ : (n_features_in_,) object, only if fitted on a data frame.
    """

    def __init__(self, descriptors: str | os.PathLike[str] | Sequence[str] | Sequence[int]) -> None:
        self.descriptors = descriptors

    def fit(self, X: Any, y: Any = None) -> Self:
        """Look up the descriptors among the columns of ``X`` (N, P); ``y`` is not used.

        Raises
        ------
        ValueError : descriptors that are no column of X, that are there twice, or names where X has none.
        """
        wanted = _read(self.descriptors)
        if _is_frame(X):
            _check_there(wanted, list(X.columns))
            validate_data(self, X, skip_check_array=True)
        else:
            self._array(X, reset=True)
        known = self._columns()
        if known is None:
            names = [each for each in wanted if not isinstance(each, int | np.integer)]
            if names:
                raise ValueError(f"X is an array without column names, but {names[0]!r} is a name; pass a data frame")
            known = list(range(self.n_features_in_))
        _check_there(wanted, known)
        chosen = set(wanted)
        self.descriptors_ = [each for each in known if each in chosen]
        return self

    def transform(self, X: Any) -> Any:
        """The selected columns of ``X``, (N, Q), values and types as they are.

        Raises
        ------
        ValueError : a data frame without some of the selected columns, named; an array of another width.
        """
        check_is_fitted(self, "descriptors_")
        if self._columns() is not None and _is_frame(X):
            _check_there(self.descriptors_, list(X.columns))
            return X[self.descriptors_]
        if _is_frame(X):
            validate_data(self, X, reset=False, skip_check_array=True)
            return X[[X.columns[place] for place in self.descriptors_]]
        return self._array(X, reset=False)[:, self.get_support(indices=True)]

    def _get_support_mask(self) -> np.ndarray:
        """(P,) bool, which columns of the table that it was fitted on stay; scikit-learn makes the rest of it."""
        check_is_fitted(self, "descriptors_")
        chosen = set(self.descriptors_)
        return np.array([each in chosen for each in self._columns() or range(self.n_features_in_)])

    def _columns(self) -> list[Any] | None:
        names = getattr(self, "feature_names_in_", None)
        return None if names is None else names.tolist()

    def _array(self, X: Any, reset: bool) -> Any:
        return validate_data(self, X, reset=reset, dtype=None, accept_sparse=("csr", "csc"), ensure_all_finite=False)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = True
        tags.input_tags.string = True  # values pass through as they are
        return tags


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") and hasattr(X, "__getitem__")


def _read(descriptors: Any) -> list[Any]:
    if isinstance(descriptors, str | os.PathLike):
        text = Path(descriptors).read_text(encoding="utf-8")
        # str.splitlines would also cut a name that has U+2028 or the like
        return text.removesuffix("\n").split("\n") if text else []
    return list(descriptors)


def _check_there(wanted: list[Any], known: list[Any]) -> None:
    """One line that names what is missing or ambiguous."""
    if not wanted:
        raise ValueError("the list of descriptors is empty")
    listed, there = Counter(wanted), Counter(known)
    for what, faulty in (
        ("twice in the list of descriptors", [each for each, count in listed.items() if count > 1]),
        ("missing in X", [each for each in wanted if not there[each]]),
        ("twice in X", [each for each in wanted if there[each] > 1]),
    ):
        if faulty:
            more = " and more" if len(faulty) > 5 else ""
            raise ValueError(
                f"{len(faulty)} of {len(wanted)} descriptors {what}: {', '.join(map(str, faulty[:5]))}{more}"
            )
