"""An adapter without the run that it was trained in: its own description says which model it belongs to."""

import json
import shutil
from pathlib import Path

import pytest

from tests.test_predict import predictions, run, trained, unlabelled, write_jsonl
from tests.test_train import folder
from tfew.config import compose
from tfew.errors import UserError
from tfew.evaluate import evaluate, with_run_settings
from tfew.files.checksums import from_checked_json, to_checked_json
from tfew.prediction.predictor import Predictor


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(trained(tmp_path_factory.mktemp("runs"), "complaint", "steps=2", "shots=8"))


@pytest.fixture
def alone(whole: Path, tmp_path: Path) -> Path:
    """The adapter's two files, as they are passed on."""
    (tmp_path / "adapter").mkdir()
    for name in ("adapter.json", "adapter.safetensors"):
        shutil.copy(whole / name, tmp_path / "adapter" / name)
    return tmp_path / "adapter"


def test_it_is_used_on_the_model_that_it_names(alone: Path, whole: Path, tmp_path: Path) -> None:
    assert compose().model.name != "mini_t0", "it is not the default"
    overrides = ["+experiment=mini_few_shot", "dataset=mini/complaint", f"adapter={alone}", f"runs={tmp_path}",
                 "trainer=cpu", "model=mini_t0", "dataset.generator.eval=32"]  # fmt: skip
    found = []
    for given in (overrides, [override for override in overrides if not override.startswith("model=")]):
        config = with_run_settings(
            compose(*given, "run_dir=" + str(tmp_path / str(len(found))), config_name="evaluate"), given
        )
        assert config.model.name == "mini_t0"
        evaluate(config)
        found.append([p.scores for p in predictions(tmp_path / str(len(found)))])
    assert found[0] == found[1] == [p.scores for p in predictions(whole)]


def test_the_default_model_gives_way_to_it(alone: Path) -> None:
    given = [f"adapter={alone}"]
    assert with_run_settings(compose(*given, config_name="evaluate"), given).model.name == "mini_t0"
    given.append("model=tiny")
    assert with_run_settings(compose(*given, config_name="evaluate"), given).model.name == "tiny", "said by the user"


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"name": "mine", "path": None}, r"belongs to the model 'mine', .* set model.path="),
        ("x", "does not say which model it belongs to"),
    ],
)
def test_a_model_that_is_not_known_here(base: object, message: str, alone: Path) -> None:
    path = alone / "adapter.json"
    path.write_text(to_checked_json({**from_checked_json(path.read_text()), "base": base}))
    with pytest.raises(UserError, match=message):
        with_run_settings(compose(f"adapter={alone}", config_name="evaluate"), [f"adapter={alone}"])


def test_labels_need_to_be_named(alone: Path, tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "in.jsonl", unlabelled("complaint")[:4])
    with pytest.raises(UserError, match=r"is an adapter without its run .*take the whole run folder, or name the data"):
        run(f"adapter={alone}", f"input={rows}", f"output={tmp_path}/out.jsonl")
    run(f"adapter={alone}", "dataset=mini/complaint", f"input={rows}", f"output={tmp_path}/out.jsonl")
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert {json.loads(line)["label"] for line in lines} <= {"complaint", "no complaint"}


def test_one_text_alone_is_refused_and_one_row_is_a_list_of_one(whole: Path) -> None:
    predictor = Predictor.load(whole, "trainer=cpu")
    text = unlabelled("complaint")[0]["text"]
    with pytest.raises(UserError, match=r"A list of rows is needed, but .* is a single text"):
        predictor(text)
    assert predictor({"text": text}) == predictor([text])
    assert len(predictor([text])) == 1
