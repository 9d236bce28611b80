"""The Python API: the commands' own results, settings as Python values, messages in a program that has no logging."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tfew
from tfew import api
from tfew.config import compose
from tfew.errors import UserError
from tfew.train import train

TINY = ("+experiment=demo", "model=tiny", "trainer=cpu", "dataset.generator.eval=12")


def test_a_run_is_the_commands_own(tmp_path: Path) -> None:
    record = api.train(*TINY, steps=4, runs=tmp_path, optimizer__lr=0.002)
    assert record == train(compose(*TINY, "steps=4", f"runs={tmp_path}", "optimizer.lr=0.002"))
    assert record.folder == tmp_path / record.name
    again = api.evaluate(adapter=record.folder, runs=tmp_path)
    assert again.metrics["accuracy"] == record.metrics["accuracy"]
    zero_shot = api.evaluate(*TINY, runs=tmp_path)
    assert (again.method, zero_shot.method) == ("ia3", "zero_shot")
    predictor = api.Predictor.load(record.folder)
    (found,) = predictor([{"text": "Ann fed her dog.", "claim": "Ann has a dog."}])
    assert found.label == max(found.probabilities, key=lambda label: found.probabilities[label])
    assert sum(found.probabilities.values()) == pytest.approx(1)


def test_a_record_prints_as_a_summary_and_shows_in_a_notebook(tmp_path: Path) -> None:
    record = api.train(*TINY, steps=4, runs=tmp_path)
    accuracy = f"{100 * record.metrics['accuracy']:.1f} %"
    assert str(record).startswith("commits: ia3 on tiny, loss tfew, seed 0\n  accuracy ")
    assert accuracy in str(record)
    assert len(str(record).splitlines()) == 6
    assert f"<td>{accuracy}" in record._repr_html_()
    hostile = record.__class__(**{**vars(record), "dataset": "<script>"})
    assert "<script>" not in hostile._repr_html_()


TEXT = st.characters(exclude_characters="\0\r\n")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab_", min_size=1), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_any_value_means_itself(value: Any) -> None:
    (parsed,) = OverridesParser.create().parse_overrides(api._as_overrides({"some__key": value}))
    assert parsed.key_or_group == "some.key"
    assert parsed.value() == value
    assert type(parsed.value()) is type(value)


def test_a_wrong_setting_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"steps=0 is not a whole number of at least 1\."):
        api.train(*TINY, steps=0)
    with pytest.raises(ValueError, match="loss term 'kd'"):
        api.train(*TINY, **{"+loss__kd": 1})


PROGRAM = """
import tfew.api, sys
record = tfew.api.train("+experiment=demo", "model=tiny", "trainer=cpu", steps=2, runs=sys.argv[1])
tfew.api.train("+experiment=demo", "model=tiny", "trainer=cpu", steps=2, runs=sys.argv[1])
"""


def test_messages_are_seen_where_a_program_has_no_logging(tmp_path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=True)
    assert "rows to evaluate." in result.stderr
    assert "is finished; skipped" in result.stderr


def test_messages_go_where_a_program_sends_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = list(logging.getLogger("tfew").handlers)
    with caplog.at_level(logging.INFO):
        api.train(*TINY, steps=2, runs=tmp_path)
    assert "rows to evaluate." in caplog.text
    assert logging.getLogger("tfew").handlers == before


def test_the_package_exports_what_no_module_is_called() -> None:
    from tfew.prediction.predictor import Predictor

    assert tfew.Predictor is Predictor is api.Predictor
    modules = {path.stem for path in Path(tfew.__file__).parent.iterdir()}
    assert not modules & set(tfew.__all__)
    with pytest.raises(AttributeError, match="no attribute 'predictor_of'"):
        tfew.predictor_of  # noqa: B018
    heavy = "{'torch', 'hydra', 'transformers', 'sklearn', 'pandas', 'numpy'}"
    code = f"import sys, tfew, tfew.api; print({heavy} & sys.modules.keys() or 'light')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "light"
