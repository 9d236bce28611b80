"""Models by name: each composes, is counted without a download, and has as many parameters as its publishers say."""

import pytest

from tests.commands import run_command
from tfew.config import CONFIGS, checked, compose
from tfew.cost import cost
from tfew.errors import UserError
from tfew.models.build import build_shape
from tfew.models.shapes import config_of
from tfew.runs.identity import is_known_checkpoint, model_name

# What the safetensors files on the Hub hold ("total" of their metadata), as public repositories quote it for these ids;
# for the last four no such number was found, and they are counted from the published number of a relative, or by hand.
PARAMETERS = {
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
    "smollm2_1.7b": 1_711_376_384,
    "qwen3_0.6b": 596_049_920,
    "qwen3_1.7b": 1_720_574_976,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "llama3.2_1b": 1_235_814_400,
    "llama3.2_3b": 3_212_749_824,
    "gemma3_270m": 268_098_176,
    "gemma3_1b": 999_885_952,
    "gemma3_4b": 4_300_079_472,
    "olmo2_1b": 1_484_916_736,
    "olmo2_7b": 7_298_617_344,
    "phi4_mini": 3_836_021_760,
    "mistral_7b": 7_248_023_552,
    "gpt_oss_20b": 20_914_757_184,
    "bart_base": 139_420_416,
    "bart_large": 406_291_456,
    "mt5_small": 300_176_768,
    # T5 v1.1 XL (2,849,757,184, as T0-3B), its two tables with 250,112 rows instead of 32,128
    "mt5_xl": 2_849_757_184 + 2 * (250_112 - 32_128) * 2048,
    # T5 v1.1 XXL (11,135,332,352) with 256,384 rows, and position biases (64 heads, 32 buckets) in each of 48 layers
    "umt5_xxl": 11_135_332_352 + 2 * (256_384 - 32_128) * 4096 + (48 - 2) * 64 * 32,
    # Gemma 2 2B (2,614,341,888) twice; in 26 decoder layers attention to the input (8 heads, 4 of keys) and two norms
    "t5gemma_2b_2b": 2 * 2_614_341_888 + 26 * (2304 * 256 * (8 + 4 + 4 + 8) + 2 * 2304),
    # by hand: 256,000 embeddings twice; 12 layers of 4 matrices of attention, 3 of feed-forward, 4 norms; 12 more that
    # also have attention to the input and 2 norms; two norms at the end
    "t5gemma_b_b": 2 * 256_000 * 768 + 12 * (12 * 768**2 + 6 * 768 * 2048 + 10 * 768) + 2 * 768,
}
NAMED = sorted(name for path in CONFIGS.glob("model/*.yaml") if compose(f"model={(name := path.stem)}").model.config)


def test_each_model_with_a_configuration_has_a_number_here() -> None:
    assert sorted(PARAMETERS) == NAMED


@pytest.mark.parametrize("name", NAMED)
def test_parameters(name: str) -> None:
    config = checked(compose(f"model={name}"))
    assert model_name(config) == name
    assert is_known_checkpoint(config)
    assert sum(parameter.numel() for parameter in build_shape(config).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMED)
def test_the_file_says_licence_and_source(name: str) -> None:
    comment = " ".join(
        line.removeprefix("# ") for line in (CONFIGS / "model" / f"{name}.yaml").read_text().splitlines()
        if line.startswith("#")
    )  # fmt: skip
    assert any(licence in comment for licence in ("Apache-2.0", "MIT", "Gemma terms of use", "Community License"))
    assert "Shape: " in comment


@pytest.mark.parametrize(
    "name",
    [
        "bart_base",
        *(
            pytest.param(name, marks=pytest.mark.slow)  # one of each kind; from 3 to 15 s
            for name in (
                "smollm2_135m", "qwen3_0.6b", "llama3.2_1b", "gemma3_270m", "gemma3_4b", "olmo2_1b", "phi4_mini",
                "mistral_7b", "t5gemma_b_b", "mt5_small", "umt5_xxl",
            )
        ),
    ],
)  # fmt: skip
def test_cost_without_a_download(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = cost(compose(f"model={name}", "method=full", config_name="cost"))
    assert (row["model"], row["total"], row["trainable"]) == (name, PARAMETERS[name], PARAMETERS[name])
    assert "unknown" not in capsys.readouterr().out  # a step of it was counted, too


@pytest.mark.slow
def test_experts_are_counted_in_what_they_hold(capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever expert a token goes to, it goes through one of a known size."""
    (row,) = cost(compose("model=gpt_oss_20b", "method=full", config_name="cost"))
    assert row["total"] == PARAMETERS["gpt_oss_20b"]
    said = capsys.readouterr()
    assert "unknown" not in said.out
    assert "Traceback" not in said.err


def test_a_name_with_a_dot_on_the_command_line() -> None:
    result = run_command("tfew.cost", "model=qwen3_0.6b", "--cfg", "job")
    assert "path: Qwen/Qwen3-0.6B" in result.stdout


def test_values_that_are_no_configuration() -> None:
    with pytest.raises(UserError, match=r"model\.config= is no configuration of transformers: .*lama"):
        config_of({"model_type": "lama", "hidden_size": 8})
    with pytest.raises(UserError, match=r"model\.config= is no configuration of transformers"):
        config_of({"model_type": "llama", "hidden_size": "wide"})
