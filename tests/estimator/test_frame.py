"""Rows in memory, whatever library holds them, are the same columns of plain values."""

import datetime
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pytest

import tfew
from tests.estimator.test_classifier import QUICK, TEXTS
from tfew.errors import UserError
from tfew.estimator.frame import as_frame, as_texts, check_has_texts

COLUMNS = {"text": ["a café", "two"], "stars": [5, None]}
ARROW = pyarrow.table(COLUMNS)


class ArrowStream:
    """A data frame of a library that is not known here, but for Arrow's PyCapsule interface."""

    columns = ("text", "stars")

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return ARROW.__arrow_c_stream__(requested_schema)


class Interchanged:
    """The same, but for the older protocol of data frames."""

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> object:
        return ARROW.__dataframe__(nan_as_null, allow_copy)


class ArrowColumn:
    """A column of such a library."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return ARROW["text"].__arrow_c_stream__(requested_schema)


TABLES = {
    "mapping": COLUMNS,
    "rows": [{"text": "a café", "stars": np.int64(5)}, {"text": "two"}],
    "pandas": pd.DataFrame(COLUMNS),
    "pandas of nullable types": pd.DataFrame(COLUMNS).convert_dtypes(),
    "datasets": datasets.Dataset.from_dict(COLUMNS),
    "arrow": ARROW,
    "arrow stream": ArrowStream(),
    "interchange": Interchanged(),
}
COLUMNS_ALONE = {
    "list": COLUMNS["text"],
    "tuple": tuple(COLUMNS["text"]),
    "generator": (text for text in COLUMNS["text"]),
    "array": np.array(COLUMNS["text"]),
    "column vector": np.array(COLUMNS["text"], dtype=object)[:, None],
    "series": pd.Series(COLUMNS["text"], index=[7, 3]),
    "index": pd.Index(COLUMNS["text"]),
    "categories": pd.Series(COLUMNS["text"], dtype="category"),
    "column of datasets": datasets.Dataset.from_dict(COLUMNS)["text"],
    "chunked array": ARROW["text"],
    "arrow column": ArrowColumn(),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_its_columns(name: str) -> None:
    frame = as_frame(TABLES[name])
    assert frame.is_table
    assert frame.columns == COLUMNS
    assert {type(value) for value in frame.columns["text"]} == {str}


@pytest.mark.parametrize("name", COLUMNS_ALONE)
def test_a_column_alone_is_text(name: str) -> None:
    frame = as_frame(COLUMNS_ALONE[name])
    assert not frame.is_table
    assert frame.columns == {"text": COLUMNS["text"]}


def test_columns_without_names_have_numbers() -> None:
    for data in (np.array([["a", "b"], ["c", "d"]]), [["a", "b"], ("c", "d")]):
        assert as_frame(data).columns == {"text_1": ["a", "c"], "text_2": ["b", "d"]}
    assert list(as_frame(pd.Series(["a"], name="review")).columns) == ["review"]
    assert list(as_frame(pd.DataFrame({0: ["a"]})).columns) == ["0"]


def test_what_json_cannot_write_is_a_text() -> None:
    cells = [datetime.date(2020, 1, 2), float("inf"), True, 2.5, None]
    found = as_texts(as_frame({"text": ["a"] * 5, "other": cells})).columns["other"]
    assert found == ["2020-01-02", "inf", True, 2.5, None]


def numbers() -> Iterator[int]:
    yield 5


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (5, "A list of texts or a data frame is needed, but 5 is neither"),
        (b"abc", r"but b'abc' is a single one: pass \[b'abc'\]"),
        ({"b", "a"}, "A set has no order"),
        (np.zeros((2, 2, 2)), "one or two dimensions, but this one has 3"),
        ([["a", "b"], ["c"]], "different numbers of texts: 2 in the first of them"),
        ({"text": ["a"], "label": ["b", "c"]}, r"of different lengths: \{'text': 1, 'label': 2\}"),
        ({"text": "a"}, "'text' of the data is 'a', but must be a list"),
        (pd.DataFrame([["a", "b"]], columns=["x", "x"]), "several columns of the same name: x"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict(COLUMNS)}), r"several parts \(train\): give one"),
        (datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset(), "are a stream"),
        (pd.DataFrame({"text": []}), "hold no rows"),
        (numbers(), "no text, only values such as 5"),
        ([b"a"], r"row 1: 'text' holds binary data \(b'a'\)"),
        (["a", [["b"]]], r"row 2: 'text' holds a list"),
    ],
)  # fmt: skip
def test_other_data_are_refused(data: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_has_texts(as_texts(as_frame(data)))


def test_numbers_of_a_class_label_come_back_and_the_model_says_their_names() -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "mood": datasets.ClassLabel(names=["so_bad", "good"])}
    )
    data = datasets.Dataset.from_dict({"text": TEXTS, "mood": [1, 0] * 8}, features)
    classifier = tfew.fit(data, labels="mood", **{**QUICK, "folds": None})
    assert classifier.classes_.tolist() == [0, 1]
    assert classifier.record.config["dataset"]["prompts"][0]["answer_choices"] == ["so bad", "good"]
    assert set(classifier.predict(data).tolist()) <= {0, 1}
