"""The program around a classifier: its random numbers, Hydra, logging and threads are left alone."""

import logging
import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.version import getbase
from transformers import PreTrainedModel

from tests.estimator.test_classifier import LABELS, NEW, TEXTS, quick
from tfew import TfewClassifier
from tfew.config import compose
from tfew.environment.verbosity import is_quiet, quiet
from tfew.errors import UserError
from tfew.prediction.predictor import Predictor

HALF = "broken \ud83d"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "classifier"
    quick().fit(TEXTS, LABELS).save(folder)
    return folder


def test_fitting_takes_no_random_numbers_from_the_program() -> None:
    torch.manual_seed(1)
    expected = torch.randn(3).tolist()
    torch.manual_seed(1)
    quick().fit(TEXTS, LABELS).predict(NEW)
    assert torch.randn(3).tolist() == expected


@pytest.fixture
def own_hydra(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.2"):
        yield


@pytest.mark.usefixtures("own_hydra")
def test_the_programs_own_hydra_is_as_before() -> None:
    before = GlobalHydra.instance(), getbase()
    assert compose("steps=3").steps == 3
    assert (GlobalHydra.instance(), getbase()) == before
    assert hydra.compose("mine").a == 1


def test_threads_compose_at_once() -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda steps: compose(f"steps={steps}").steps, range(1, 17)))
    assert found == list(range(1, 17))


def test_threads_load_at_once(saved: Path) -> None:
    """Two loads at once left the process with a `tie_weights` that does nothing."""
    before = PreTrainedModel.tie_weights
    expected = Predictor.load(saved)(NEW)
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda _: Predictor.load(saved), range(8)))
    assert PreTrainedModel.tie_weights is before
    assert [predictor(NEW) for predictor in loaded] == [expected] * 8


def test_quiet_contexts_of_threads_may_overlap() -> None:
    level, contexts = logging.getLogger("tfew").level, [quiet(), quiet()]
    for context in contexts:
        context.__enter__()
    contexts[0].__exit__(None, None, None)
    assert is_quiet()
    contexts[1].__exit__(None, None, None)
    assert logging.getLogger("tfew").level == level


def test_a_temporary_folder_that_was_removed() -> None:
    classifier = quick().fit(TEXTS, LABELS)
    expected = classifier.predict(NEW).tolist()
    shutil.rmtree(classifier._run.root)
    assert classifier.predict(NEW).tolist() == expected, "the model is in memory"
    for use in (pickle.dumps, lambda one: one.save("elsewhere"), lambda one: one.record):
        with pytest.raises(UserError, match=r"^/.* the temporary folder of this classifier, has been removed .* fit"):
            use(classifier)


@pytest.mark.parametrize(
    "given",
    [
        {"template": "Dear ${name}, {{ text }}"},
        {"template": "Price ${{ text }}:"},
        {"choices": {"praise": "a ${x}", "complaint": "bad"}},
        {"choices": ["${x}", "bad"]},
    ],
)
def test_references_to_settings_are_no_text(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"holds '\$\{', which refers to another setting"):
        quick(**given).fit(TEXTS, LABELS)
    quick(template="Price {{ '$' }}{{ text }}:").fit(TEXTS, LABELS)


def test_columns_are_known_by_name_where_they_had_one() -> None:
    named = quick().fit(pd.DataFrame({"review": TEXTS}), LABELS)
    with pytest.raises(UserError, match=r"Unknown column 'review' \(of the data\)\. Known: 'author'"):
        named.predict(pd.DataFrame({"author": NEW}))
    expected = named.predict(pd.DataFrame({"review": NEW})).tolist()
    assert named.predict(NEW).tolist() == named.predict(pd.Series(NEW, name="author")).tolist() == expected


def test_a_column_of_texts_may_be_named_idx() -> None:
    frame = pd.DataFrame({"title": NEW, "idx": [text[::-1] for text in NEW]})
    classifier = quick().fit(pd.concat([frame] * 4), ["a", "b", "c"] * 4)
    assert len(classifier.predict(frame)) == len(NEW)


def test_half_a_character_is_refused_with_its_row(saved: Path) -> None:
    predictor = Predictor.load(saved)
    for use in (lambda: quick().fit([*TEXTS[:-1], HALF], LABELS), lambda: predictor(["fine", HALF])):
        with pytest.raises(UserError, match=r"row (16|2): 'text' holds half a character .*replace it"):
            use()
    with pytest.raises(UserError, match=r"row 1: 'text' holds half a character"):
        TfewClassifier.predict(quick().fit(TEXTS, LABELS), [HALF])


@pytest.mark.parametrize(
    ("rows", "task", "message"),
    [
        ([None], None, "Row 1, None, is neither a text nor a mapping of columns to values"),
        (["a", 5], None, "Row 2, 5, is neither"),
        (None, None, "A list of rows is needed, but None is none"),
        (["a", "b"], ["texts"], "task= names 1 tasks for 2 rows"),
    ],
)
def test_rows_of_other_types(rows: Any, task: Any, message: str, saved: Path) -> None:
    with pytest.raises(UserError, match=message):
        Predictor.load(saved)(rows, task)


def test_a_model_is_a_name_or_a_path() -> None:
    with pytest.raises(UserError, match=r"^model=5 is neither a name nor a path"):
        quick(model=5).fit(TEXTS, LABELS)
