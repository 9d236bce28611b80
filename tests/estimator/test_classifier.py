"""`tfew.fit` and `TfewClassifier`: the command's own numbers, scikit-learn's conventions, sentences for mistakes."""

import copy
import gc
import json
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.utils import get_tags

import tfew
from tfew import TfewClassifier
from tfew.config import compose
from tfew.environment.verbosity import bar_options, quiet
from tfew.errors import UserError
from tfew.prediction.predictor import Predictor
from tfew.train import train

TEXTS = [
    f"my {thing} by the beach looks {word}, tom."
    for thing in ("apple", "hat", "lemon", "shirt")
    for word in ("lovely", "nasty", "great", "awful")
]
LABELS = ["praise", "complaint"] * 8
NEW = ["my hat looks nasty, tom.", "my hat, it looks great.", "tom has an apple."]
FRAME = pd.DataFrame({"review": TEXTS, "id": range(16), "mood": LABELS})
QUICK: dict[str, Any] = {
    "experiment": "local_mini", "steps": 2, "batch_size": 4, "settings": {"trainer": "cpu"}, "verbose": 0,
}  # fmt: skip


def quick(**parameters: Any) -> TfewClassifier:
    return TfewClassifier(**{**QUICK, **parameters})


@pytest.fixture(scope="module")
def fitted() -> TfewClassifier:
    return quick().fit(TEXTS, LABELS)


@pytest.mark.ci
def test_the_numbers_are_those_of_the_command(tmp_path: Path) -> None:
    """Bit for bit: adapter, held-out predictions and probabilities of new rows."""
    FRAME.to_csv(tmp_path / "rows.csv", index=False)
    common = ("+experiment=local_mini", "trainer=cpu", "steps=2", "batch_size=4", "folds=2", "few_shot_seed=3")
    theirs = train(compose(*common, f"data={tmp_path}/rows.csv", f"runs={tmp_path}", "text=review", "label=mood"))
    ours = tfew.fit(FRAME, "mood", text="review", folds=2, random_state=3, **QUICK)
    for key in ("accuracy", "classes", "calibration", "folds"):
        assert ours.record.metrics[key] == theirs.metrics[key]
    assert ours.record.files["adapter.safetensors"] == theirs.files["adapter.safetensors"]
    labelled = Predictor.load(theirs.folder)(NEW)
    assert ours.predict(NEW).tolist() == [row.label for row in labelled]
    expected = [[row.probabilities[name] for name in ("complaint", "praise")] for row in labelled]
    assert ours.predict_proba(NEW).tolist() == expected


@pytest.mark.parametrize(
    ("pair", "dtype"), [((10, 9), "i"), ((True, False), "b"), (("no", "a b"), "U"), ((2.0, 1.0), "f")], ids=str
)  # fmt: skip
def test_labels_come_back_as_they_were_given(pair: tuple[Any, Any], dtype: str) -> None:
    y = list(pair) * 8
    classifier = quick().fit(TEXTS, y)
    assert classifier.classes_.tolist() == sorted(pair), (
        "as numpy sorts: the run, by its own order, says '9' after '10'"
    )
    assert classifier.classes_.dtype.kind == classifier.predict(TEXTS).dtype.kind == dtype
    predicted, probabilities = classifier.predict(TEXTS), classifier.predict_proba(TEXTS)
    assert {type(label) for label in predicted.tolist()} == {type(pair[0])}
    assert predicted.tolist() == classifier.classes_[probabilities.argmax(axis=1)].tolist()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    names = {
        json.dumps(label) if isinstance(label, bool) else f"{label:g}" if dtype == "f" else str(label) for label in pair
    }
    assert set(classifier.record.config["dataset"]["label"]["names"]) == names


def test_labels_without_rows_are_classes_too() -> None:
    classifier = quick(choices={0: "bad", np.int64(1): "good", 2: "so so"}).fit(TEXTS, np.array([0, 1] * 8))
    assert classifier.classes_.tolist() == [0, 1, 2]
    assert classifier.predict_proba(NEW).shape == (3, 3)
    assert classifier.record.config["dataset"]["prompts"][0]["answer_choices"] == ["bad", "good", "so so"]


def test_rows_are_held_out_as_the_experiment_has_it() -> None:
    classifier = tfew.fit(TEXTS, LABELS, **QUICK)
    assert (classifier.folds, classifier.validation) == (5, None)
    assert (classifier.record.split, classifier.record.counts["rows"]) == ("folds", 16)
    assert quick().fit(TEXTS, LABELS).record.counts == {}, "the estimator leaves that to cross_validate"


def test_without_an_experiment_the_model_is_small() -> None:
    config = compose(f"+experiment={TfewClassifier().experiment}")
    assert config.dataset.name == "local"
    assert config.model.package is not None, "one that can be had without the Hub"


def test_parameters_are_scikit_learns() -> None:
    classifier = quick(lr=0.01)
    assert classifier.get_params()["lr"] == 0.01
    copied = clone(classifier.set_params(steps=3))
    assert copied.get_params() == classifier.get_params()
    assert get_tags(classifier).input_tags.string
    assert not hasattr(classifier, "classes_")


def test_cross_validation_and_grid_search(capsys: pytest.CaptureFixture[str]) -> None:
    scores = cross_validate(quick(), TEXTS, LABELS, cv=2, error_score="raise", return_estimator=True)
    first = scores["estimator"][0]
    assert scores["test_score"].shape == (2,)
    assert first.score(TEXTS, LABELS) == np.mean(first.predict(TEXTS) == np.array(LABELS))
    search = GridSearchCV(
        quick(), {"lr": [0.1], "settings": [{"trainer": "cpu", "loss": "lm"}]}, cv=2, error_score="raise"
    )
    search.fit(FRAME[["review"]], [1, 0] * 8)
    assert search.best_estimator_.record.loss == "lm"
    assert search.best_estimator_.record.config["optimizer"]["lr"] == 0.1
    assert search.predict(FRAME[["review"]]).tolist() == search.best_estimator_.predict(TEXTS).tolist()
    assert capsys.readouterr() == ("", ""), "verbose=0"


def test_doubtful_rows_have_no_label() -> None:
    classifier = quick(validation=0.5).fit(TEXTS, LABELS)
    sure = classifier.predict_proba(NEW).max(axis=1)
    plain = classifier.predict(NEW)
    found = classifier.predict(NEW, threshold=float(np.median(sure)))
    assert found.dtype == object
    assert [label is None for label in found] == (sure < np.median(sure)).tolist()
    assert [label for label in found if label is not None] == plain[sure >= np.median(sure)].tolist()
    assert classifier.predict(NEW, threshold=0.01).tolist() == plain.tolist()
    assert [label is None for label in classifier.predict(NEW, coverage=0.99)].count(False) >= 1
    with pytest.raises(UserError, match=r"risk=0\.01 cannot be guaranteed with 90 % confidence by 8 held-out rows"):
        classifier.predict(NEW, risk=0.01)
    with pytest.raises(UserError, match="threshold= and coverage= each set the threshold"):
        classifier.predict(NEW, threshold=0.8, coverage=0.9)


def test_sets_of_labels(fitted: TfewClassifier) -> None:
    classifier = quick(folds=2).fit(TEXTS, LABELS)
    found = classifier.predict_set(NEW, share=0.8)
    assert (found.shape, found.dtype) == ((3, 2), bool)
    for row, label in zip(found, classifier.predict(NEW), strict=True):
        assert row[classifier.classes_.tolist().index(label)], "the likeliest label is in it"
    assert classifier.predict_set(NEW, share=0.99).all(), "too few held-out rows to leave any out"
    with pytest.raises(UserError, match="held no rows out: train with folds=5"):
        fitted.predict_set(NEW)


def test_what_is_not_fitted_says_so() -> None:
    for use in (lambda c: c.predict(NEW), lambda c: c.predict_proba(NEW), lambda c: c.report, lambda c: c.save("x")):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            use(quick())


def test_a_pickle_is_small_and_labels_as_before(fitted: TfewClassifier) -> None:
    expected = fitted.predict_proba(NEW)
    data = pickle.dumps(fitted)
    adapter_bytes = (fitted.record.folder / "adapter.safetensors").stat().st_size
    assert adapter_bytes < len(data) < adapter_bytes + 50_000, "the base model has 7 MB"
    for again in (pickle.loads(data), copy.deepcopy(fitted)):
        assert again.record.folder != fitted.record.folder
        assert again.predict_proba(NEW).tolist() == expected.tolist()
    assert pickle.loads(pickle.dumps(quick())).get_params() == quick().get_params()


def test_the_folder_goes_with_the_last_that_refers_to_it() -> None:
    classifier = quick().fit(TEXTS, LABELS)
    root, report = classifier.record.folder.parent, classifier.report
    del classifier
    gc.collect()
    assert str(report).startswith("texts: ia3 on mini_t0")
    del report
    gc.collect()
    assert not root.exists()


def test_what_is_saved_is_a_run(fitted: TfewClassifier, tmp_path: Path) -> None:
    fitted.save(tmp_path / "new" / "mine")
    found = Predictor.load(tmp_path / "new" / "mine")(NEW)
    assert [row.label for row in found] == fitted.predict(NEW).tolist()
    assert (
        tfew.api.evaluate(
            adapter=tmp_path / "new" / "mine", data=_file(tmp_path), label="mood", text="review", runs=tmp_path / "runs"
        ).counts["rows"]
        == 16
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]
    settings = (tmp_path / "new" / "mine" / "config.yaml").read_text()
    assert f"run_dir: {tmp_path}/new/mine" in settings
    with pytest.raises(UserError, match="mine already exists and is not empty: choose another folder"):
        fitted.save(tmp_path / "new" / "mine")


def _file(folder: Path) -> Path:
    FRAME.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def test_the_report_is_the_page_where_there_is_one() -> None:
    classifier = quick(validation=0.25).fit(TEXTS, LABELS)
    page = classifier.record.folder / "report.html"
    assert classifier.report.path == page
    accuracy = f"{100 * classifier.record.metrics['accuracy']:.1f} %"
    assert accuracy in repr(classifier.report)
    assert accuracy in classifier.report._repr_html_()
    page.write_text('<p title="x">All is well.</p>')
    assert "&lt;p title=&quot;x&quot;&gt;All is well." in classifier.report._repr_html_()
    assert page.name in pickle.loads(pickle.dumps(classifier)).report.path.name
    page.unlink()
    assert classifier.report.path is None
    assert f"<td>{accuracy}" in classifier.report._repr_html_()


def test_several_columns_are_several_texts() -> None:
    frame = FRAME.assign(title="hello")
    classifier = quick().fit(frame[["title", "review"]], frame["mood"])
    assert classifier.feature_names_in_.tolist() == ["title", "review"]
    assert classifier.n_features_in_ == 2
    assert "title: {{ title }}\nreview: {{ review }}\nmood:" in str(
        classifier.record.config["dataset"]["prompts"][0]["jinja"]
    )
    in_order = classifier.predict_proba(frame[["title", "review"]])
    assert classifier.predict_proba(frame).tolist() == in_order.tolist(), "other columns and another order do no harm"
    assert classifier.predict_proba(frame[["title", "review"]].to_numpy()).tolist() == in_order.tolist()
    with pytest.raises(UserError, match=r"Unknown column 'title' \(of the data\)"):
        classifier.predict(FRAME)
    with pytest.raises(UserError, match=r"Each row needs 2 texts \(title, review\), but these have 1\."):
        classifier.predict(TEXTS)
    classifier.fit(TEXTS, LABELS)
    assert not hasattr(classifier, "n_features_in_")


def test_a_row_is_shown_as_alone_and_as_beside_others() -> None:
    """pandas makes floats of a column in which one cell is missing; a row may lack its text."""
    frame = pd.DataFrame({"title": TEXTS, "year": [2000 + n for n in range(16)]})
    fitted = quick().fit(frame, LABELS)
    expected = fitted.predict_proba(frame)
    assert np.array_equal(fitted.predict_proba(frame.astype({"year": float})), expected)
    lacking = frame.astype({"year": object})
    lacking.loc[3, "year"] = None
    assert np.allclose(np.delete(fitted.predict_proba(lacking), 3, 0), np.delete(expected, 3, 0), atol=1e-6)
    textless = pd.DataFrame({"title": [None, "x"], "year": [2001, 2002]})
    assert fitted.predict_proba(textless[:1]) == pytest.approx(fitted.predict_proba(textless)[:1], abs=1e-5)


def test_a_column_of_texts_is_found(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "tfew"):
        classifier = tfew.fit(FRAME, labels="mood", validation=0.25, **{**QUICK, "verbose": 1})
    assert "text=review (inferred of review, id)" in caplog.text
    assert classifier.record.config["text"] == ["review"]
    assert classifier.record.counts["rows"] == 4


@pytest.mark.parametrize(
    ("data", "labels", "parameters", "sentence"),
    [
        ("abc", LABELS, {}, r"A list of texts is needed, but 'abc' is a single one: pass \['abc'\]\."),
        ([], [], {}, "The data hold no rows"),
        (TEXTS, LABELS[:-1], {}, "There are 16 rows but 15 labels: one per row is needed"),
        (TEXTS, ["praise"] * 16, {}, "Every row has the label 'praise', so there is nothing to learn"),
        (TEXTS, [*LABELS[:-1], float("nan")], {}, r"rows counted from 1\), row 16: the label 'label' is empty"),
        (TEXTS, pd.Series([*LABELS[:-2], None, pd.NA], name="mood"), {}, "rows 15, 16: the label 'mood' is empty"),
        ([*TEXTS[:-1], None], LABELS, {}, "row 16: 'text' is empty"),
        (np.eye(16), LABELS, {}, r"hold no text, only values such as 1:"),
        (TEXTS, [1, "a"] * 8, {}, r"Labels are of several types \(int, str\): choose one"),
        (TEXTS, [1, True] * 8, {}, r"Labels are of several types \(bool, int\)"),
        (TEXTS, ["a", " a", "b", "b"] * 4, {}, "The labels 'a' and ' a' differ only in blanks"),
        (TEXTS, [pd.Timestamp(2020, 1, 1), pd.Timestamp(2020, 1, 2)] * 8, {}, "is of the type Timestamp"),
        (TEXTS, np.array(["2020-01-01", "2020-01-02"] * 8, "datetime64[ns]"), {}, "is of the type datetime64"),
        (TEXTS, np.array(["2020-01-01", "NaT"] * 8, "datetime64[ns]"), {}, "rows 2, 4.*: the label 'label' is empty"),
        (TEXTS, ["Good", "good", "bad", "bad"] * 4, {}, "labels that are alike but for upper case"),
        (TEXTS, [f"label {number}" for number in range(16)], {}, r"^The data \(rows.*no value in 'label' occurs twice"),
        (FRAME, "modd", {}, r"Unknown column 'modd' \(of the data\)\. Did you mean 'mood'\?"),
        (FRAME, "mood", {"text": "mood"}, "'mood' is the label column"),
        (TEXTS, LABELS, {"model": "mini_t"}, r"Unknown model 'mini_t' .* Did you mean 'mini_t0'\?"),
        (TEXTS, LABELS, {"experiment": "lokal"}, r"Unknown experiment 'lokal' .* Did you mean 'local'\?"),
        (TEXTS, LABELS, {"method": "ia4"}, r"Unknown method 'ia4' .* Did you mean 'ia3'\?"),
        (TEXTS, LABELS, {"settings": {"loss": "lmm"}}, r"Unknown loss 'lmm' \(loss=\)"),
        (TEXTS, LABELS, {"settings": {"stepz": 2}}, r"stepz= is not a setting\. Did you mean steps=\?"),
        (TEXTS, LABELS, {"settings": {"steps": 2}}, "settings= names steps, which is also given as a parameter"),
        (TEXTS, LABELS, {"settings": {"data": "x"}}, "settings= names data, which a classifier sets itself"),
        (TEXTS, LABELS, {"choices": "options"}, "choices='options': a classifier has the same labels for all rows"),
        (TEXTS, LABELS, {"choices": {"good": "fine", "bad": None}}, "no words for the label 'bad'"),
        (TEXTS, LABELS, {"choices": {"good": "fine", "bad": pd.NA}}, "no words for the label 'bad'"),
        (TEXTS, LABELS, {"choices": ["good", None]}, "holds an empty one: give each label words"),
        (np.ma.array(TEXTS, mask=[1] + [0] * 15), LABELS, {}, "row 1: 'text' is empty"),
        (
            TEXTS,
            [0, 1] * 8,
            {"choices": {0: "a", 1: "b", "many": "c"}},
            "'many' has no row, and is not of the rows' label type, int",
        ),
        (
            TEXTS,
            [0, 1] * 8,
            {"settings": {"labels": ["0", "1", "many"]}},
            "'many' has no row, and is not of the rows' label type, int",
        ),
        (TEXTS, LABELS, {"random_state": "x"}, "random_state='x' is neither a whole number"),
        (TEXTS, LABELS, {"folds": 99}, "folds=99, but there are only 16 rows"),
    ],
)
def test_mistakes_are_sentences(data: Any, labels: Any, parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tfew.fit(data, labels, **{**QUICK, **parameters})


def test_a_single_text_is_no_list_of_texts(fitted: TfewClassifier) -> None:
    with pytest.raises(UserError, match=r"A list of texts is needed, but 'refund' is a single one: pass \['refund'\]"):
        fitted.predict("refund")
    with pytest.raises(UserError, match=r"A list of rows is needed, but 'refund' is a single text: pass \['refund'\]"):
        fitted.predictor("refund")
    assert fitted.predictor({"text": "refund"}) == fitted.predictor(["refund"])


def test_threads_share_a_classifier(fitted: TfewClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a web service: the first requests come at once, and the model is loaded for all of them."""
    loads: list[str] = []
    load = Predictor.load

    def counted(folder: str) -> Predictor:
        loads.append(folder)
        return load(folder)

    monkeypatch.setattr(Predictor, "load", counted)
    expected = fitted.predict_proba(NEW).tolist()
    classifier = pickle.loads(pickle.dumps(fitted))
    loads.clear()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: classifier.predict_proba(NEW).tolist(), range(8)))
    assert found == [expected] * 8
    assert len(loads) == 1
    assert bar_options() == {}, "messages are back"


def test_what_is_not_supported_is_not_taken() -> None:
    with pytest.raises(TypeError, match="sample_weight"):
        quick().fit(TEXTS, LABELS, sample_weight=[1] * 16)


def test_bars_messages_and_summary_are_seen_unless_verbose_is_0(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """That nothing is with verbose=0 stands above, of cross-validation."""
    quick(verbose=1).fit(TEXTS, LABELS)
    out, err = capsys.readouterr()
    assert out.startswith("\ntexts: ia3 on mini_t0")
    assert "Training: 100%" in err
    assert "16 rows to train on" in caplog.text
    caplog.clear()
    quick(verbose=0).fit(TEXTS, LABELS)
    assert caplog.text == ""
    assert bar_options() == {}
    with quiet():
        assert bar_options() == {"disable": True}
