"""A text classifier with scikit-learn's interface, trained as by `tfew train +experiment=local_english`."""

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.errors import HydraException
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from tfew import api
from tfew.decisions.decision import Decision, decide
from tfew.decisions.request import DecisionSettings
from tfew.environment.verbosity import quiet
from tfew.errors import UserError
from tfew.estimator.classes import as_labels, check_as_many, check_labels, check_named, find_classes
from tfew.estimator.frame import WHERE, Frame, as_frame, as_texts, check_has_texts
from tfew.estimator.kept_run import KeptRun
from tfew.estimator.label_sets import SetsOut, as_lists, find_label_sets, sets_out, values_by_name
from tfew.estimator.overrides import as_settings
from tfew.estimator.report import Report
from tfew.runs.records import RunRecord

if TYPE_CHECKING:
    from tfew.prediction.predictor import Predictor
    from tfew.prediction.task_predictor import Labelled

EXPERIMENT = "local_english"  # a model that needs no GPU
TABLE_FILE = "texts.jsonl"  # its name becomes the task's


class TfewClassifier(ClassifierMixin, BaseEstimator):
    """Few-shot training of a language model with (IA)³, as a scikit-learn estimator.

    X is a list of texts, or a data frame whose columns are the texts of a row; y are texts, whole numbers or booleans.
    For rows with several labels, y are lists of texts, texts such as "x;y", or a 0/1 table with a column per label.

    model: a name of configs/model, a folder, or OWNER/NAME on the Hub. method, steps, lr, batch_size, max_tokens: as on
    the command line; None: the value of `experiment`, a file of configs/experiment. folds: cross-validate with this
    many folds before the final adapter is trained on all rows; validation: the share of rows to hold out instead.
    Either one calibrates the probabilities; with neither, the default, `fit` trains once on all rows, as
    `cross_validate` and `GridSearchCV` expect. template: Jinja, or promptsource's COLLECTION[/TEMPLATE]. choices:
    {label: words} for the model to score. random_state: a whole number, or a generator to draw it from; None: 0.
    settings: further ones of the command line, {"optimizer.lr": 1e-3}. verbose: 0 shows warnings only.

    After `fit`: `classes_`, sorted; `record` of the run; `report`; `predictor`, which labels rows of any form. For
    data frames also `feature_names_in_` and `n_features_in_`.
    """

    _lock = threading.Lock()  # of the class, so that pickles have none: classifiers take turns
    _sets: SetsOut | None = None  # a class attribute for old pickles, from before rows could have several labels

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        method: str | None = None,
        experiment: str = EXPERIMENT,
        steps: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        max_tokens: int | None = None,
        folds: int | None = None,
        validation: float | None = None,
        template: str | None = None,
        choices: Mapping[Any, str] | Sequence[str] | None = None,
        random_state: Any = None,
        settings: Mapping[str, Any] | None = None,
        verbose: int = 1,
    ) -> None:
        self.model = model
        self.method = method
        self.experiment = experiment
        self.steps = steps
        self.lr = lr
        self.batch_size = batch_size
        self.max_tokens = max_tokens
        self.folds = folds
        self.validation = validation
        self.template = template
        self.choices = choices
        self.random_state = random_state
        self.settings = settings
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> "TfewClassifier":
        """Trains on these texts and labels; raises UserError if they cannot be used for training."""
        given = as_settings(self.get_params(deep=False))
        texts, labels = as_texts(as_frame(X)), as_labels(y)
        check_has_texts(texts)
        check_as_many(labels, len(texts))
        sets = find_label_sets(labels, given)
        by_name, values, separator = {}, values_by_name(labels), given.get("separator")
        if sets is None:
            by_name = check_labels(labels)
            check_named(by_name, self.choices, given.get("labels"))
        else:
            labels, told = as_lists(sets, labels, given)
            given = {**given, **told}
        run = KeptRun()
        with self._heard():
            record = _train(run, texts, labels, f"+experiment={self.experiment}", given)
        run.keep(record)
        self._run = run
        self._predictor: Predictor | None = None
        self._columns = list(texts.columns)
        names = record.config["dataset"]["label"]["names"]
        self._sets = None if sets is None else sets_out(sets, names, separator, values)
        self._classes = find_classes(by_name, names) if self._sets is None else self._sets.classes
        self.classes_ = self._classes.values_C
        self._name_features(texts)
        return self

    def predict(
        self, X: Any, *, threshold: float | None = None, coverage: float | None = None, risk: float | None = None
    ) -> Any:
        """The label of each row, as `y` spelt it; if rows have several, a list of them, or columns of 0 and 1.

        threshold, coverage, risk: return an object array, with None for labels less probable than a threshold: the
        given one; one that answers this share of the held-out rows; or one whose answers are wrong for at most this
        share of rows, with 90 % confidence. The latter two need `folds=` or `validation=`.
        """
        decision = self._decision(DecisionSettings(threshold=threshold, coverage=coverage, risk=risk))
        labelled = self._labelled(X)
        if self._sets is not None:
            return self._sets.given_back([row.label_set or () for row in labelled])
        labels = self._classes.values([row.guess for row in labelled])
        if decision.threshold is None:
            return labels
        sure = labels.astype(object)
        sure[[not decision.answers(row.probability) for row in labelled]] = None
        return sure

    def predict_set(self, X: Any, share: float = 0.9) -> np.ndarray:
        """Label sets that hold the right label for this share of rows: a boolean array is_in_BC.

        Needs `folds=` or `validation=`. `tfew.decisions.conformal` has the method and its guarantee.
        """
        decision = self._decision(DecisionSettings(sets=share))
        sets = [decision.label_set(row.probabilities) or () for row in self._labelled(X)]
        return np.array([[name in found for name in self._classes.names] for found in sets])

    def predict_proba(self, X: Any) -> np.ndarray:
        """probability_BC, classes in the order of `classes_`; if rows have several labels, each has its own."""
        labelled = self._labelled(X)
        return np.array([[row.probabilities[name] for name in self._classes.names] for row in labelled])

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Accuracy; if rows have several labels, the share of rows with exactly the right set."""
        if (sets := self._sets) is None:
            return float(super().score(X, y, sample_weight))
        labels = as_labels(y)
        check_as_many(labels, len(as_frame(X)))
        right = [
            set(has) == set(row.label_set or ()) for has, row in zip(sets.read(labels), self._labelled(X), strict=True)
        ]
        return float(np.average(right, weights=sample_weight))

    @property
    def predictor(self) -> "Predictor":
        """Labels rows of any form, one at a time or many; the base model is loaded on first access."""
        check_is_fitted(self)
        with self._lock:
            if self._predictor is None:
                with self._heard():
                    self._predictor = api.Predictor.load(self._run.folder)
            return self._predictor

    @property
    def record(self) -> RunRecord:
        """The record of the run: metrics, settings, versions."""
        check_is_fitted(self)
        return self._run.record()

    @property
    def report(self) -> Report:
        """The evaluation: a few lines when printed, a page in a notebook (`report.path`)."""
        check_is_fitted(self)
        return Report(self._run)

    def save(self, folder: str | Path) -> None:
        """Writes an ordinary run folder, for `tfew predict adapter=folder`, `tfew serve` and `tfew.Predictor.load`."""
        check_is_fitted(self)
        self._run.copy_to(Path(folder))

    def _decision(self, request: DecisionSettings) -> Decision:
        request.check()
        if request == DecisionSettings():
            return Decision()
        ((name, task),) = self.predictor.tasks.items()
        if task.held_out is None:
            raise UserError(
                "threshold, coverage, risk and predict_set need one label per row, but rows may have several, each"
                " with a threshold of its own: leave them out."
            )
        return decide(request, name, task.held_out)

    def _labelled(self, X: Any) -> "list[Labelled]":
        check_is_fitted(self)
        texts = as_texts(_with_columns(as_frame(X), self._columns, hasattr(self, "feature_names_in_")))
        predictor = self.predictor
        with self._lock, self._heard():
            return predictor(texts.table().rows)

    def _heard(self) -> AbstractContextManager[None]:
        return nullcontext() if self.verbose else quiet()

    def _name_features(self, texts: Frame) -> None:
        """Sets `feature_names_in_` and `n_features_in_`, as scikit-learn does, for tables only."""
        for name in ("feature_names_in_", "n_features_in_"):
            self.__dict__.pop(name, None)
        if texts.is_table:
            self.feature_names_in_ = np.array(self._columns, dtype=object)
            self.n_features_in_ = len(self._columns)

    def __getstate__(self) -> dict[str, Any]:
        """With the adapter, without the base model's weights."""
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_predictor": None} if "_predictor" in state else state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        return tags


def _train(run: KeptRun, texts: Frame, labels: Frame, experiment: str, given: Mapping[str, Any]) -> RunRecord:
    """Trains on a file of these rows, as the command does."""
    ((label, values),) = labels.columns.items()
    while label in texts.columns:
        label += "_"
    path = run.root / TABLE_FILE
    rows = Frame({**texts.columns, label: values}).table().rows
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    own = {"data": path, "text": list(texts.columns), "label": label, "runs": run.root}
    try:
        return api.train(experiment, **own, **given)
    except UserError as error:
        raise UserError(str(error).replace(str(path), WHERE)) from error
    except HydraException as error:  # for an unknown option of a group
        raise UserError(f"{str(error).splitlines()[0]}.") from error


def _with_columns(frame: Frame, names: Sequence[str], were_named: bool) -> Frame:
    """The training columns: by name, or by position if these rows, or those of the training, have no names."""
    if frame.is_table and (were_named or len(frame.columns) > 1):
        return frame.only(names)
    if len(frame.columns) != len(names):
        raise UserError(f"Each row needs {len(names)} texts ({', '.join(names)}), but these have {len(frame.columns)}.")
    return Frame(dict(zip(names, frame.columns.values(), strict=True)))
