"""The selector for scikit-learn: by name, in the table's order, and as scikit-learn wants its estimators."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from conftest import ROOT
from winnow_selector import WinnowSelector

# whose result depends on how SciPy was imported
NOT_HERE = {"check_array_api_input"}


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"id": ["a", "b"], "x": [1.0, np.nan], "y": [1, 2], "z": [True, False]})


@pytest.fixture
def listed(write) -> str:
    return write("final_descriptors.txt", "z\nx\n")


def test_it_passes_the_checks_of_scikit_learn():
    results = check_estimator(WinnowSelector([0]), on_skip=None)
    assert {each["check_name"] for each in results if each["status"] != "passed"} <= NOT_HERE
    assert len(results) > 30


def test_names_are_taken_in_the_order_of_the_table_with_their_types(frame, listed):
    selector = WinnowSelector(listed).fit(frame)
    pd.testing.assert_frame_equal(selector.transform(frame), frame[["x", "z"]])
    assert selector.get_feature_names_out().tolist() == ["x", "z"]
    assert selector.get_support().tolist() == [False, True, False, True]
    assert selector.get_support(indices=True).tolist() == [1, 3]


def test_a_new_table_needs_the_selected_columns_alone_in_any_order(frame, listed):
    selector = WinnowSelector(listed).fit(frame)
    pd.testing.assert_frame_equal(selector.transform(frame[["z", "x"]]), frame[["x", "z"]])


def test_a_name_may_have_what_ends_a_line_elsewhere(write):
    frame = pd.DataFrame({"x\u2028y": [1.0], "z\x85": [2.0]})
    assert WinnowSelector(write("final_descriptors.txt", "x\u2028y\nz\x85\n")).fit_transform(frame).equals(frame)


def test_what_is_missing_is_named_in_one_line(frame):
    with pytest.raises(ValueError, match=r"^2 of 3 descriptors missing in X: v, w$"):
        WinnowSelector(["v", "x", "w"]).fit(frame)
    selector = WinnowSelector(["x", "z"]).fit(frame)
    with pytest.raises(ValueError, match=r"^1 of 2 descriptors missing in X: z$"):
        selector.transform(frame.drop(columns="z"))


@pytest.mark.parametrize(
    ("descriptors", "columns", "message"),
    [
        ([], ["x"], "the list of descriptors is empty"),
        (["x", "x"], ["x"], "1 of 2 descriptors twice in the list of descriptors: x"),
        (["x"], ["x", "x"], "1 of 1 descriptors twice in X: x"),
    ],
)
def test_what_has_two_meanings_is_refused(descriptors, columns, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        WinnowSelector(descriptors).fit(pd.DataFrame(np.ones((2, len(columns))), columns=columns))


def test_arrays_have_positions_and_names_do_not_fit_them():
    values = np.arange(6.0).reshape(2, 3)
    assert WinnowSelector([2, 0]).fit_transform(values).tolist() == [[0, 2], [3, 5]]
    with pytest.raises(ValueError, match="'x' is a name; pass a data frame"):
        WinnowSelector(["x"]).fit(values)
    with pytest.raises(ValueError, match="1 of 1 descriptors missing in X: 3"):
        WinnowSelector([3]).fit(values)


def test_it_is_a_step_of_a_pipeline_and_outlives_the_file(frame, listed):
    whole = make_pipeline(WinnowSelector(listed), Ridge()).fit(frame.fillna(0), [0.0, 1.0])
    with open(listed, "w") as handle:
        handle.write("nothing\n")
    again = pickle.loads(pickle.dumps(whole))
    assert np.array_equal(again.predict(frame.fillna(0)), whole.predict(frame.fillna(0)))


def test_it_needs_nothing_else_of_winnow():
    code = "import sys, winnow_selector; print(sorted(set(sys.modules) & {'common', 'descriptors', 'torch'}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
