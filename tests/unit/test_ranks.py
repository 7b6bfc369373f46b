from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import rankdata

from descriptors.ranks import centre, centre_filled, code_type, doubled_midranks, rerank

values = hnp.arrays(
    np.float64,
    st.integers(1, 40),
    elements=st.one_of(st.sampled_from([np.nan, -0.0, 0.0, 1.0, 2.0, 1e84, -1e84]), st.floats(-5, 5)),
)


@given(values)
def test_codes_are_twice_the_midranks_of_scipy(column):
    codes, ordered = doubled_midranks(column, code_type(len(column)))
    valid = ~np.isnan(column)
    assert (codes[~valid] == 0).all()
    assert np.array_equal(codes[valid], 2 * rankdata(column[valid]))
    assert np.array_equal(ordered, np.sort(column[valid]))


def test_the_code_type_holds_the_largest_code():
    for n in (1, 127, 128, 32_767, 32_768, 10**8):
        assert np.iinfo(code_type(n)).max >= 2 * n
    assert code_type(32_767).itemsize == 2


@given(values, st.integers(0, 2**32 - 1))
def test_reranking_codes_on_some_rows_equals_ranking_their_values(column, seed):
    codes, _ = doubled_midranks(column, code_type(len(column)))
    masks = np.random.default_rng(seed).random((3, len(column))) < [[0.3], [0.7], [1.0]]
    masks &= ~np.isnan(column)
    centred, norms = rerank(codes, masks)
    for row, mask in enumerate(masks):
        expected = np.zeros(len(column))
        expected[mask] = 2 * rankdata(column[mask]) - (mask.sum() + 1)
        assert np.array_equal(centred[row], expected)
        assert norms[row] == np.square(expected).sum()


@given(values)
def test_centred_ranks_sum_to_zero_and_missing_ones_are_zero(column):
    codes, ordered = doubled_midranks(column, code_type(len(column)))
    centred = centre(codes[None], np.array([len(ordered)]))[0]
    assert centred.sum() == 0
    assert (centred[np.isnan(column)] == 0).all()


@given(values)
def test_filling_with_the_mean_equals_filling_the_values_before_ranking(column):
    codes, ordered = doubled_midranks(column, code_type(len(column)))
    if not len(ordered):
        return
    mean = ordered.mean()
    below, equal = (ordered < mean).sum(), (ordered == mean).sum()
    filled = np.where(np.isnan(column), mean, column)
    ours = centre_filled(codes[None], *(np.array([x]) for x in (len(ordered), below, equal)), len(column))[0]
    assert np.array_equal(ours, 2 * rankdata(filled) - (len(column) + 1))
