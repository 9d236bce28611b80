"""The check of placement can fail: it does without a family's rules, and with the placement before 0.3."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from tests.architectures import NAMES, tiny
from tests.placement.test_architectures import HYBRID, check_attention, check_feed_forward
from tfew.config import CONFIGS
from tfew.errors import UserError
from tfew.methods.base import attach
from tfew.methods.ia3 import IA3
from tfew.methods.lora import LoRA
from tfew.models.backbone import window_tokens
from tfew.placement import backbone_rules
from tfew.placement.position_table import position_tables
from tfew.placement.report import whole_layers
from tfew.placement.structure import layers

# a file of configs/backbone -> an architecture that needs it
NEEDED = {
    "apertus": "apertus", "bloom": "bloom", "codegen": "codegen", "ctrl": "ctrl", "doge": "doge",
    "exaone4": "exaone4", "falcon": "falcon-7b", "gemma3": "gemma3_text", "gpt2": "gpt2",
    "gpt_bigcode": "gpt_bigcode", "gpt_neox": "gpt_neox", "hunyuan": "hunyuan_v1_dense", "jetmoe": "jetmoe",
    "llama4": "llama4_text", "longt5": "longt5-global", "longformer": "led", "mllama": "mllama", "mpt": "mpt",
    "nanochat": "nanochat", "persimmon": "persimmon", "phi3": "phi3", "prophetnet": "prophetnet",
    "stablelm": "stablelm-parallel",
}  # fmt: skip
BEFORE: dict[str, Any] = {"keys_values": ["k", "v", "k_proj", "v_proj"]}  # the other lists of then are defaults


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Takes a file of rules out."""
    rules = backbone_rules._rules()

    def take_out(family: str) -> None:
        gone = OmegaConf.load(CONFIGS / "backbone" / f"{family}.yaml").keys()
        monkeypatch.setattr(backbone_rules, "_rules", lambda: {k: v for k, v in rules.items() if k not in gone})

    return take_out


@pytest.mark.parametrize("family", NEEDED)
def test_without_its_rules_a_family_is_refused(family: str, without: Callable[[str], None]) -> None:
    name = NEEDED[family]
    IA3().places(tiny(name))
    without(family)
    with pytest.raises(UserError, match=r"method.targets=|heads_first"):
        check_attention(name, IA3())


def test_every_file_of_rules_is_for_something_that_is_there() -> None:
    untried = {"kolibri1", "muse", "phi"}  # these have no tiny model here, or none with a norm of keys
    files = {path.stem for path in (CONFIGS / "backbone").glob("*.yaml")}
    assert files == NEEDED.keys() | untried
    assert set(NEEDED.values()) <= set(NAMES)


@pytest.mark.parametrize("name", ["falcon-7b", "gpt_bigcode", "gpt_bigcode-mha"])
def test_placement_of_before_scaled_queries(name: str) -> None:
    with pytest.raises(AssertionError):
        check_attention(name, IA3(**BEFORE))
    check_attention(name, IA3())


@pytest.mark.parametrize("name", ["qwen3", "olmo2", "gemma3_text"])
def test_placement_of_before_was_cancelled_by_a_norm_of_keys(name: str) -> None:
    with pytest.raises(AssertionError, match="keys"):
        check_attention(name, IA3(**BEFORE))
    check_attention(name, IA3())


def test_placement_of_before_stood_in_front_of_a_squared_relu() -> None:
    with pytest.raises(AssertionError):
        check_feed_forward("nemotron", IA3(**BEFORE))
    check_feed_forward("nemotron", IA3())


@pytest.mark.parametrize(
    "name", ["t5", "t5-gated", "mt5", "bart", "gpt2", "gpt_neox", "llama", "mistral", "opt", "qwen2"]
)
def test_where_placement_was_right_it_is_what_it_was(name: str) -> None:
    """Of saved sections `method:` with the lists of then, and of none."""
    before, now = IA3(**BEFORE), IA3()
    assert {p.module: p.size for p in before.places(tiny(name))} == {p.module: p.size for p in now.places(tiny(name))}
    scaled = [{(p.module, p.scales, p.groups, p.first_of_group) for p in m.places(tiny(name))} for m in (before, now)]
    assert scaled[0] == scaled[1]


@pytest.mark.parametrize("name", sorted(HYBRID))
def test_a_layer_without_its_share_is_an_error_that_names_the_option(name: str) -> None:
    model = tiny(name)
    with pytest.raises(UserError, match=r"have no place for the method: (no|not known).* method.partial=true accepts"):
        IA3().places(model)
    with pytest.raises(UserError, match=r"method.partial=true"):
        LoRA(2, 0.1, layer_norms=False).choice.names(model)
    line = IA3(partial=True).placement(model).line
    lacking = [layer for layer in layers(model) if not layer.has_keys or not layer.feed_forwards or layer.unknown]
    assert lacking
    assert f"of {len(layers(model))} layers" in line
    assert "keys, values and feed-forward in" not in line or str(len(layers(model)) - len(lacking)) in line


def test_what_is_said_of_a_whole_placement() -> None:
    model = tiny("qwen3_moe")
    placement = IA3().placement(model)
    assert placement.line == "keys, values and feed-forward in 2 of 2 layers"
    assert ("keys of attention", "model.layers.*.self_attn.k_norm", "heads", 2) in placement.rows
    assert ("feed-forward", "model.layers.*.mlp.experts", "experts", 2) in placement.rows
    assert "    2 x model.layers.*.self_attn.v_proj" in placement.as_text()
    assert len(whole_layers(model, partial=False)) == 2


def test_layers_of_the_users_own_choice() -> None:
    model = tiny("qwen3")
    method = IA3({"outputs": ["model.layers.0.*.k_proj", "v_proj"], "inputs": ["*.down_proj"]})
    places = {place.module: place.scales for place in method.places(model)}
    assert places == {
        "model.layers.0.self_attn.k_proj": "outputs", "model.layers.0.self_attn.v_proj": "outputs",
        "model.layers.1.self_attn.v_proj": "outputs", "model.layers.0.mlp.down_proj": "inputs",
        "model.layers.1.mlp.down_proj": "inputs",
    }  # fmt: skip
    attach(method, model)
    assert method.placement(tiny("qwen3")).line == "5 layers that method= names"
    with pytest.raises(UserError, match=r"method.targets= names .*v_proj for both outputs and inputs"):
        IA3({"outputs": ["v_proj"], "inputs": ["v_proj"]}).places(tiny("qwen3"))


def test_the_vision_part_of_a_model_gets_nothing() -> None:
    names = {place.module for place in IA3().places(tiny("gemma3"))}
    assert names
    assert not [name for name in names if "vision" in name]
    text = tiny("gemma3_text")
    own = sum(torch.ones(place.size).numel() for place in IA3().places(text))
    assert sum(torch.ones(place.size).numel() for place in IA3().places(tiny("gemma3"))) == own


def test_a_part_that_is_not_known_stays_in_the_line(without: Callable[[str], None]) -> None:
    without("prophetnet")
    assert ", without prophetnet.decoder.layers.0.self_attn" in IA3(partial=True).placement(tiny("prophetnet")).line


@pytest.mark.parametrize(
    "name", ["gpt2", "gptj", "ctrl", "opt", "roberta", "marian", "bart", "fsmt", "llama", "gemma3"]
)
def test_a_table_of_positions_ends_where_the_model_does(name: str) -> None:
    """A text as long as the table runs, a longer one does not; without a table no length is too long."""
    model: Any = tiny(name)
    tables = position_tables(model)
    for part, table in enumerate(tables):

        def runs(length: int, key: str = ("input_ids", "decoder_input_ids")[part]) -> bool:
            ids = torch.full((1, 9), 5)
            inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if len(tables) == 2 else {})}
            try:
                model(**{**inputs, key: torch.full((1, length), 5)}, use_cache=False)
            except (IndexError, RuntimeError):
                return False
            return True

        assert runs(300) if table is None else [runs(table), runs(table + 1)] == [True, False]
    assert (tables[0] is None) == (name in {"fsmt", "llama", "gemma3"})
    assert window_tokens(model) == (127 if name == "roberta" else 128)
