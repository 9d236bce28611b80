"""Rows of one's own to label, as they come: columns of any name, of any library, earlier outputs; nothing is lost."""

import csv
import io
import json
import logging
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_describe_table import write
from tests.test_predict import read_csv, read_jsonl, run
from tests.test_train import folder
from tfew.config import compose
from tfew.data.fewshot import save_few_shot
from tfew.errors import UserError
from tfew.evaluate import evaluate, with_run_settings
from tfew.files.partial_file import PartialFile
from tfew.prediction.loaded_task import Prepared, numbered
from tfew.prediction.predictor import Predictor
from tfew.prediction.result_rows import ResultRows, input_columns, output_columns
from tfew.prediction.task_predictor import Labelled
from tfew.schema import Example
from tfew.train import train

WORDS = ["the lemon is good", "ben likes the lake", "sara has a red box", "the box is bad", "no one came", "it rains"]
ROWS = [
    {"id": n, "title": f"title {n}", "review": f"{WORDS[n % 6]} {n}", "label": ("praise", "blame")[n % 3 == 0]}
    for n in range(12)
]
TEXTS = ("review", "[title,review]")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that read one column, and two."""
    root = tmp_path_factory.mktemp("own_rows")
    data = write(root / "rows.csv", ROWS)
    common = ("+experiment=local_mini", "model=tiny", "trainer=cpu", "steps=2", "batch_size=4", "folds=null",
              "validation=null", "baselines=false", f"data={data}", "label=label")  # fmt: skip
    made = {text: folder(train(compose(*common, f"text={text}", f"runs={root}/runs"))) for text in TEXTS}
    return {**made, "data": data}


def shown(predictor: Predictor, row: dict[str, Any]) -> str:
    """The prompt of one row."""
    (prepared,) = predictor.prepare(numbered([row], None))
    assert isinstance(prepared, Prepared), prepared
    (prompt,) = predictor.inputs(prepared)
    return prompt


def accuracy(runs: dict[str, Path], data: Path, target: Path, *overrides: str) -> float:
    given = [f"adapter={runs['review']}", f"data={data}", "trainer=cpu", f"run_dir={target}", *overrides]
    return evaluate(with_run_settings(compose(*given, config_name="evaluate"), given)).metrics["accuracy"]


def test_what_is_left_out_and_which_rows_are_joined_is_said(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The one before the rows are read, the other after."""
    caplog.set_level(logging.INFO, "tfew")
    new = tmp_path / "new.csv"
    new.write_text(',review\n1,"the box is\n2,it rains\n3,it snows\n4,it ends"\n5,no one came\n')
    run(f"adapter={runs['review']}", f"input={new}", f"output={tmp_path}/out.csv")
    reviews = [row["review"] for row in read_csv(tmp_path / "out.csv")]
    assert reviews == ["the box is\n2,it rains\n3,it snows\n4,it ends", "no one came"]
    first, second = (message for message in caplog.messages if message.startswith(str(new)))
    assert first == f"{new}: column 1, which has no name in the header, is left out."
    assert second.startswith(f"{new}: row 1 is lines 2 to 5, joined by quotation marks, though each has 2 cells")


def test_a_column_named_on_the_command_line_wins_over_one_of_the_trained_name(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    """An output of `tfew predict` has the given label as input_label, and the predicted one as label."""
    run(f"adapter={runs['review']}", f"input={runs['data']}", f"output={tmp_path / 'out.csv'}")
    labelled = read_csv(tmp_path / "out.csv")
    right = sum(row["label"] == row["input_label"] for row in labelled) / len(labelled)
    assert right < 1, "else both columns are the same"
    found = accuracy(runs, tmp_path / "out.csv", tmp_path / "run", "text=review", "label=input_label")
    assert found == pytest.approx(right)
    predictor = Predictor.load(runs["review"], "trainer=cpu", "text=title")
    for row in ({"title": "TITLE", "review": "OTHER"}, {"review": "OTHER", "title": "TITLE"}):
        assert "TITLE" in shown(predictor, row)
        assert "OTHER" not in shown(predictor, row)


def test_text_for_a_finished_run_in_python_and_for_several_tasks(runs: dict[str, Path], tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.json"
    tasks.write_text(json.dumps({"a": str(runs["review"])}))
    rows = write(tmp_path / "rows.csv", [{"task": "a", "body": row["review"]} for row in ROWS])
    run(f"adapters={tasks}", f"input={rows}", f"output={tmp_path / 'out.csv'}", "text=body")
    expected = Predictor.load(runs["review"], "trainer=cpu")([row["review"] for row in ROWS])
    assert [row["label"] for row in read_csv(tmp_path / "out.csv")] == [row.label for row in expected]


def test_a_column_called_idx_is_a_column(runs: dict[str, Path], tmp_path: Path) -> None:
    data = write(tmp_path / "idx.csv", [{"idx": f"a{row['id'] % 3}", **row} for row in ROWS])
    expected = accuracy(runs, runs["data"], tmp_path / "plain")
    assert accuracy(runs, data, tmp_path / "run") == expected


def test_data_frames_are_their_rows(runs: dict[str, Path]) -> None:
    pandas, pyarrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    predictor = Predictor.load(runs["[title,review]"], "trainer=cpu")
    expected = predictor(ROWS)
    frame = pandas.DataFrame(ROWS, index=range(50, 50 + len(ROWS)))
    assert [row.probabilities for row in predictor(frame)] == [row.probabilities for row in expected]
    assert [row.label for row in predictor(pyarrow.Table.from_pylist(ROWS))] == [row.label for row in expected]
    single = Predictor.load(runs["review"], "trainer=cpu")
    texts = frame["review"]
    assert [row.label for row in single(texts)] == [row.label for row in single(list(texts))]


def test_a_missing_cell_of_a_data_frame_changes_no_other(runs: dict[str, Path]) -> None:
    """pandas makes floats of whole numbers then, which a file does not."""
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"title": [2001, None], "review": ["the box"] * 2, "share": [0.5, None]})
    (_, _, row), (_, _, other) = numbered(frame, None)
    assert row == {"title": 2001, "review": "the box", "share": 0.5}
    assert other == {"title": None, "review": "the box", "share": None}
    assert "2001.0" not in shown(Predictor.load(runs["[title,review]"], "trainer=cpu"), dict(row))


def test_missing_cells_of_any_library_are_as_in_training(runs: dict[str, Path]) -> None:
    numpy, pandas = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    predictor = Predictor.load(runs["[title,review]"], "trainer=cpu")
    expected = shown(predictor, {"title": "", "review": "the box"})
    for missing in (None, float("nan"), numpy.float32("nan"), pandas.NA, pandas.NaT, numpy.ma.masked):
        assert shown(predictor, {"title": missing, "review": "the box"}) == expected, missing
    with pytest.raises(UserError, match="all of 'title', 'review' are empty"):
        predictor([{"title": missing, "review": " "}])
    with pytest.raises(UserError, match="'title' holds a list"):
        predictor([{"title": numpy.array(["a", "b"]), "review": "the box"}])


def test_list_cells_of_pandas_are_lists(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    from tfew.estimator.frame import as_frame

    labels = [["x"], ["x", "y"], [], None]
    pandas.DataFrame({"labels": labels}).to_parquet(tmp_path / "rows.parquet")
    assert as_frame(pandas.read_parquet(tmp_path / "rows.parquet")).columns["labels"] == labels


def test_an_output_can_be_labelled_again(runs: dict[str, Path], tmp_path: Path) -> None:
    """Each column is kept, under a name of its own, and `suggest=` still finds which of them was the label."""
    rows = [{"review": row["review"], "input_label": f"gold {n}", "label": f"old {n}"} for n, row in enumerate(ROWS)]
    for ending, read in (("csv", read_csv), ("jsonl", read_jsonl)):
        source, target = write(tmp_path / f"in.{ending}", rows), tmp_path / f"out.{ending}"
        run(f"adapter={runs['review']}", f"input={source}", f"output={target}", "suggest=3")
        assert [(row["input_label"], row["input_input_label"]) for row in read(target)] == [
            (row["input_label"], row["label"]) for row in rows
        ]
        assert not target.with_name(f"out.suggest.{ending}").exists(), "all have a label"


def labelled(kind: str, row: dict[str, Any]) -> str:
    results = ResultRows(kind, list(row), ["a", "b"])
    return results.text([row], [Labelled("t", "a", 0.75, {"a": 0.75, "b": 0.25})], first=True)


def test_cells_of_a_table_are_what_they_were() -> None:
    words = "my lemon\rlooks\ngood"
    row = {"at": date(2024, 1, 2), "price": Decimal("1.50"), "tags": ["x", "ü"], "text": words, "no": None}
    text = labelled("csv", row)
    (found,) = csv.DictReader(io.StringIO(text, newline=""))
    assert {name: found[name] for name in row} == {
        "at": "2024-01-02", "price": "1.50", "tags": '["x", "ü"]', "text": words, "no": "",
    }  # fmt: skip
    assert f'"{words}"' in text
    assert text.endswith(",a,0.75,0.75,0.25\n")
    assert "\r\n" not in text


def test_what_a_person_wrote_beside_an_output_is_not_replaced(runs: dict[str, Path], tmp_path: Path) -> None:
    target, review = tmp_path / "out.csv", tmp_path / "out.csv.review.csv"
    given = (f"adapter={runs['review']}", f"input={runs['data']}", f"output={target}")
    run(*given, "threshold=0.999")
    review.write_text(filled := review.read_text() + "by hand\n")
    target.unlink()
    for more in ((), ("threshold=0.999",)):
        with pytest.raises(UserError, match=r"out.csv.review.csv already exists, perhaps with labels .*overwrite=true"):
            run(*given, *more)
        assert (review.read_text(), target.exists()) == (filled, False)
        assert not list(tmp_path.glob("*.partial*"))
    run(*given, "overwrite=true")
    assert not review.exists()


def test_a_disk_that_is_full_at_the_last_rows(runs: dict[str, Path], tmp_path: Path) -> None:
    """Less than a buffer is left to write, so that closing the file tries it again."""
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limited += " resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600));"
    code = f"{limited} from pathlib import Path; from tfew.files.partial_file import PartialFile;"
    code += f" file = PartialFile(Path({str(tmp_path / 'out')!r}), [], {{}}, False, False);\n"
    code += "try:\n    file.write('x' * 1000, [], {})\nfinally:\n    file.close()"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stderr.strip().splitlines()[-1].startswith("tfew.errors.UserError: output=")
    assert "During handling" not in ended.stderr


def test_what_was_written_is_complete_after_a_failed_write(tmp_path: Path) -> None:
    file = PartialFile(tmp_path / "out", [], {}, resume=True, overwrite=False)
    file.write("one\n", [], {"rows": 1})
    file.close()
    again = PartialFile(tmp_path / "out", [], {}, resume=True, overwrite=False)
    assert again.state == {"rows": 1}
    again.finish()
    assert (tmp_path / "out").read_text() == "one\n"


def test_drawn_rows_with_dates_can_be_saved(tmp_path: Path) -> None:
    save_few_shot([Example(3, {"at": date(2024, 1, 2), "text": "a"}, 0)], tmp_path / "rows.jsonl")
    assert read_jsonl(tmp_path / "rows.jsonl") == [{"at": "2024-01-02", "text": "a", "idx": 3}]


def test_scores_that_are_no_numbers_are_no_labels(runs: dict[str, Path]) -> None:
    """The best of NaN would be the first label, for every row."""
    predictor = Predictor.load(runs["review"], "trainer=cpu")
    next(iter(predictor.model.parameters())).data.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN as the score of a choice, in a row of rows: its weights"):
        predictor(["the box"])


def test_choices_of_rows_are_not_kept(tmp_path: Path) -> None:
    """There may be any number of them, and each would be kept for as long as the predictor is there."""
    data = write(
        tmp_path / "rows.csv",
        [{**row, "a": f"a {n}", "b": f"b {n}", "label": "ab"[n % 2]} for n, row in enumerate(ROWS)],
    )
    config = compose("+experiment=local_mini", "model=tiny", "trainer=cpu", "steps=2", "batch_size=4", "folds=null",
                     "validation=null", "baselines=false", f"data={data}", "text=review", "label=label",
                     "choices=[a,b]", f"runs={tmp_path}/runs")  # fmt: skip
    predictor = Predictor.load(folder(train(config)), "trainer=cpu", "score.norm=pmi")
    rows = [{"review": "the box", "a": f"a {n}", "b": f"b {n}"} for n in range(30)]
    together, apart = predictor(rows), [predictor([row])[0] for row in rows]
    assert [row.probabilities for row in apart] == [pytest.approx(row.probabilities, abs=1e-5) for row in together]
    (task,) = predictor._tasks.values()
    assert task.unconditional == {}


def test_a_text_may_be_in_a_column_called_as_the_label_was(runs: dict[str, Path]) -> None:
    predictor = Predictor.load(runs["review"], "trainer=cpu", "text=label")
    assert "the box" in shown(predictor, {"label": "the box", "review": "OTHER"})
    assert [row.label for row in predictor([{"label": "the box"}])] == [
        row.label for row in Predictor.load(runs["review"], "trainer=cpu")(["the box"])
    ]


@pytest.mark.parametrize(
    "columns", [["text"], ["label"], ["input_label", "label"], ["label", "input_input_label"], ["p_a", "input_p_a"]]
)
def test_added_columns_are_told_from_the_inputs(columns: list[str]) -> None:
    own = ["label", "probability", "p_a"]
    written = [*output_columns(columns, own), *own]
    assert len(set(written)) == len(written)
    assert list(input_columns(written, own).values()) == columns or "label" not in columns
