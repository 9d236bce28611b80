"""Adapters that travel: through HF peft both ways, the authors' files, plain checkpoints, and what is refused.

peft itself is the independent truth: what we write it loads, what it makes we load, and the logits are compared.
"""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSeq2SeqLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from tests.commands import run_command
from tests.models import tiny_t5, with_ia3
from tfew.config import compose, resolved
from tfew.convert import convert, with_base_of_run
from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters, attach, merge
from tfew.methods.peft_format import PeftAdapter, target_names
from tfew.models.adapters_io import adapter_description
from tfew.models.build import attach_saved, build_shape, saved_method
from tfew.models.foreign_adapters import read_peft, read_tensors, write_peft, write_tensors
from tfew.models.method_builder import make_method

# peft 0.21 asks a transformers 5 model for an attribute by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

CLOSE = {"atol": 1e-5, "rtol": 0.0}
SMALL = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 1}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def gpt2() -> nn.Module:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=32, **SMALL)
    return seeded(lambda: GPT2LMHeadModel(config))


def gpt_neox() -> nn.Module:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return seeded(lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**shape, **SMALL)))


def llama() -> nn.Module:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return seeded(lambda: LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, **SMALL)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gated": tiny_t5,
    "relu": lambda: tiny_t5("relu"),
    "gpt2": gpt2,
    "gpt_neox": gpt_neox,
    "llama": llama,
}
IA3_PEFT: dict[str, dict[str, Any]] = {
    "gated": {},  # peft's own defaults for T5: k, v, wo
    "relu": {},
    "gpt2": {"fan_in_fan_out": True},
    "gpt_neox": {},
    "llama": {},
}


def logits(model: nn.Module) -> Tensor:
    """Of three ragged examples. `[3, T, V]`"""
    inputs = t5_inputs()
    if not model.config.is_encoder_decoder:  # type: ignore[union-attr]
        del inputs["labels"]
    with torch.no_grad():
        return model.eval()(**inputs).logits


def t5_inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(2, 90, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.randint(2, 90, (3, 5), generator=generator)}


def method_of(name: str, **arguments: Any) -> Method:
    return make_method(resolved(compose(f"method={name}").method) | arguments)


def stir(model: nn.Module, spread: float = 0.3) -> nn.Module:
    """Moves what is trainable away from its start."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += spread * torch.randn(parameter.shape, generator=generator)
    return model


def adapted(method: Method, make: Callable[[], nn.Module]) -> nn.Module:
    model = make()
    attach(method, model)
    return stir(model)


def written(method: Method, model: nn.Module, folder: Path) -> Path:
    folder.mkdir()
    write_peft(folder, method.to_peft(model), None)
    return folder


def through_peft(make: Callable[[], nn.Module], folder: Path) -> nn.Module:
    return peft.PeftModel.from_pretrained(make(), folder)


def imported(name: str, folder: Path, make: Callable[[], nn.Module], fused_queries: str = "refuse") -> nn.Module:
    recipe = resolved(compose(f"method={name}").method)
    arguments = {k: v for k, v in recipe.items() if k not in ("name", "_target_", "steps", "lr", "scale_parameter")}
    model = make()
    arguments, weights = make_method(recipe).from_peft(arguments, read_peft(folder), model, fused_queries)
    method = make_method(arguments | {"_target_": recipe["_target_"]})
    attach(method, model)
    method.restore(model, weights)
    return model


def assert_same_and_moved(ours: nn.Module, theirs: nn.Module, base: nn.Module) -> None:
    expected = logits(ours)
    torch.testing.assert_close(logits(theirs), expected, **CLOSE)
    assert (expected - logits(base)).abs().max() > 0.01


@pytest.mark.parametrize("name", MODELS)
def test_our_ia3_through_peft(name: str, tmp_path: Path) -> None:
    method, make = method_of("ia3"), MODELS[name]
    ours = adapted(method, make)
    assert_same_and_moved(ours, through_peft(make, written(method, ours, tmp_path / "peft")), make())


@pytest.mark.parametrize("name", MODELS)
def test_peft_ia3_through_us(name: str, tmp_path: Path) -> None:
    make = MODELS[name]
    task = "SEQ_2_SEQ_LM" if name in ("gated", "relu") else "CAUSAL_LM"
    theirs = stir(peft.get_peft_model(make(), peft.IA3Config(task_type=task, **IA3_PEFT[name])))
    theirs.save_pretrained(tmp_path)
    if name in ("gpt2", "gpt_neox"):
        with pytest.raises(UserError, match=r"scales queries, too .*fused_queries=keep"):
            imported("ia3", tmp_path, make)
    assert_same_and_moved(imported("ia3", tmp_path, make, "keep"), theirs, make())


def test_peft_ia3_on_the_linear_branch_through_us(tmp_path: Path) -> None:
    config = peft.IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wi_1"], feedforward_modules=[])
    theirs = stir(peft.get_peft_model(tiny_t5(), config))
    theirs.save_pretrained(tmp_path)
    assert_same_and_moved(imported("ia3", tmp_path, tiny_t5), theirs, tiny_t5())


@pytest.mark.parametrize(("name", "branch", "second"), [("gated", "wi_1", "wo"), ("llama", "up_proj", "down_proj")])
def test_peft_ia3_on_both_matrices_of_a_gated_feed_forward(name: str, branch: str, second: str, tmp_path: Path) -> None:
    keys = ["k", "v"] if name == "gated" else ["k_proj", "v_proj"]
    config = peft.IA3Config(target_modules=[*keys, branch, second], feedforward_modules=[second])
    theirs = stir(peft.get_peft_model(MODELS[name](), config))
    theirs.save_pretrained(tmp_path)
    assert_same_and_moved(imported("ia3", tmp_path, MODELS[name]), theirs, MODELS[name]())


@pytest.mark.parametrize("name", MODELS)
def test_ia3_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    method, make = method_of("ia3"), MODELS[name]
    ours = adapted(method, make)
    back = imported("ia3", written(method, ours, tmp_path / "peft"), make)
    assert_bits_equal(adapter_parameters(ours), adapter_parameters(back))


def test_kept_queries_travel_on(tmp_path: Path) -> None:
    theirs = stir(peft.get_peft_model(gpt2(), peft.IA3Config(task_type="CAUSAL_LM", fan_in_fan_out=True)))
    theirs.save_pretrained(tmp_path)
    ours = imported("ia3", tmp_path, gpt2, "keep")
    method = method_of("ia3", keys_values=["c_attn"], fused_keys_values={})
    assert_same_and_moved(ours, through_peft(gpt2, written(method, ours, tmp_path / "again")), gpt2())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layer_norms", [True, False])
def test_our_lora_through_peft_and_back(name: str, layer_norms: bool, tmp_path: Path) -> None:
    method, make = method_of("lora", layer_norms=layer_norms, rank=3), MODELS[name]
    ours = adapted(method, make)
    folder = written(method, ours, tmp_path / "peft")
    assert_same_and_moved(ours, through_peft(make, folder), make())
    assert_bits_equal(adapter_parameters(ours), adapter_parameters(imported("lora", folder, make)))


@pytest.mark.parametrize("name", ["gated", "relu", "gpt2"])
@pytest.mark.parametrize("rslora", [True, False])
def test_peft_lora_through_us(name: str, rslora: bool, tmp_path: Path) -> None:
    make = MODELS[name]
    layers: dict[str, Any] = {"target_modules": ["q", "wo"], "modules_to_save": ["final_layer_norm"]}
    if name == "gpt2":
        layers = {"target_modules": ["c_attn"], "fan_in_fan_out": True, "modules_to_save": ["ln_1"]}
    task = "CAUSAL_LM" if name == "gpt2" else "SEQ_2_SEQ_LM"
    config = peft.LoraConfig(task_type=task, r=5, lora_alpha=7, use_rslora=rslora, init_lora_weights=True, **layers)
    theirs = stir(peft.get_peft_model(make(), config), spread=0.05)  # well conditioned, so that rounding stays small
    theirs.save_pretrained(tmp_path)
    assert_same_and_moved(imported("lora", tmp_path, make), theirs, make())


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_a_peft_lora_that_changed_its_base_is_refused_until_peft_converts_it(start: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "v_proj"], init_lora_weights=start)
    theirs = peft.get_peft_model(llama(), config)
    theirs.peft_config["default"].init_lora_weights = True  # as peft's documentation has it for a later conversion
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = start
    stir(theirs, spread=0.05)
    theirs.save_pretrained(tmp_path / "changed")
    theirs.peft_config["default"].init_lora_weights = True
    expected = logits(theirs)
    with pytest.raises(UserError, match=rf"init_lora_weights={start}, for which peft changes .* save it with peft as"):
        imported("lora", tmp_path / "changed", llama)
    theirs.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    torch.testing.assert_close(logits(imported("lora", tmp_path / "plain", llama)), expected, **CLOSE)


@pytest.mark.parametrize("name", ["gated", "relu"])
def test_prompts_through_peft_both_ways(name: str, tmp_path: Path) -> None:
    method, make = method_of("prompt_10", length=4), MODELS[name]
    ours = adapted(method, make)
    folder = written(method, ours, tmp_path / "ours")
    expected = logits(ours)
    torch.testing.assert_close(multitask_logits(through_peft(make, folder), 4), expected, **CLOSE)
    assert (expected - logits(make())).abs().max() > 0.01
    assert_bits_equal(adapter_parameters(ours), adapter_parameters(imported("prompt_10", folder, make)))
    config = peft.MultitaskPromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=6, num_ranks=2, num_tasks=1)
    made = stir(peft.get_peft_model(make(), config), spread=1.0)
    made.save_pretrained(tmp_path / "theirs")
    theirs = logits(imported("prompt_10", tmp_path / "theirs", make))
    torch.testing.assert_close(theirs, multitask_logits(made, 6), **CLOSE)
    assert (theirs - logits(make())).abs().max() > 0.01


def multitask_logits(model: nn.Module, length: int) -> Tensor:
    """`logits` of peft's multitask prompts, without the decoder's states at the prompt, which peft leaves in."""
    inputs = t5_inputs() | {"task_ids": torch.zeros(3, dtype=torch.long)}
    with torch.no_grad():
        # peft adds to the labels, and the model would shift those: so the decoder's own inputs are given
        decoder_ids = model.get_base_model()._shift_right(inputs.pop("labels"))  # type: ignore[operator]
        embeds = model.get_input_embeddings()(decoder_ids)  # type: ignore[operator]
        return model.eval()(**inputs, decoder_inputs_embeds=embeds).logits[:, length:]


def test_target_names_are_short_only_where_they_are_exact() -> None:
    t5 = adapted(method_of("ia3"), tiny_t5)
    config = method_of("ia3").to_peft(t5).config
    assert sorted(config["target_modules"]) == ["k", "v", "wo"]  # as peft's own defaults for T5
    assert config["feedforward_modules"] == ["wo"]
    names = [f"transformer.h.{n}.mlp.c_proj" for n in (0, 1)]
    assert target_names(gpt2(), names) == names
    norms = [name for name, _ in tiny_t5().named_modules() if name.endswith(".layer_norm")]
    assert target_names(tiny_t5(), norms) == ["layer_norm"]
    assert target_names(tiny_t5(), norms, dotted=False) == sorted(norms)  # "final_layer_norm" ends so, too


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["ia3", "lora", "lora_scaling", "layernorm", "full", "said_20k"])
def test_merged_is_unmerged_and_plain(name: str, kind: str, tmp_path: Path) -> None:
    method, make = method_of(kind), MODELS[name]
    model = stir(adapted(method, make), 0.05) if kind == "full" else adapted(method, make)
    expected = logits(model)
    merge(method, model)
    assert {type(m) for m in model.modules()} == {type(m) for m in make().modules()}
    torch.testing.assert_close(logits(model), expected, **CLOSE)
    assert (logits(make()) - expected).abs().max() > 0.01
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    plain, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    torch.testing.assert_close(logits(plain), expected, **CLOSE)


@pytest.mark.parametrize("kind", ["prompt_10", "prefix", "bitfit", "adapter"])
def test_methods_that_cannot_merge_say_so(kind: str) -> None:
    method = method_of(kind) if kind != "adapter" else method_of(kind, reduction=8)
    model = adapted(method, tiny_t5)
    with pytest.raises(UserError, match=rf"{type(method).__name__} cannot be merged into a plain checkpoint"):
        merge(method, model)


def test_methods_without_a_form_say_so(tmp_path: Path) -> None:
    method, model = method_of("lora_scaling"), tiny_t5()
    attach(method, model)
    with pytest.raises(UserError, match=r"LoRAScaling has no form in HF peft \(to=peft\)"):
        method.to_peft(model)
    with pytest.raises(UserError, match=r"LoRAScaling has no form in the authors' files"):
        method.to_official(model)
    with pytest.raises(UserError, match=r"authors' files support vectors on whole outputs only .* use to=peft"):
        method_of("ia3").to_official(with_ia3(tiny_t5("relu")))


def test_official_file_there_and_back_bit_for_bit(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = run_folder(train_tiny)
    convert(request(f"adapter={run}", "to=official", f"output={tmp_path}/vectors.pt"))
    tensors = torch.load(tmp_path / "vectors.pt", weights_only=True)
    assert len(tensors) == 2 * 3 + 2 * 5
    assert tensors["encoder.block.0.layer.0.SelfAttention.k.multi_lora_b"].shape == (64, 1)
    assert tensors["decoder.block.1.layer.2.DenseReluDense.wi_1.multi_lora_b"].shape == (128, 1)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    back = convert(request(f"adapter={tmp_path}/vectors.pt", "to=tfew", f"output={tmp_path}/back", "model=tiny"))
    assert_bits_equal(load_file(run / "adapter.safetensors"), load_file(back / "adapter.safetensors"))
    convert(request(f"adapter={back}", "to=official", f"output={tmp_path}/again.pt", "model=tiny"))
    assert_bits_equal(tensors, torch.load(tmp_path / "again.pt", weights_only=True))
    assert "median (IQR)" in (tmp_path / "vectors.md").read_text()


def test_official_file_of_another_model_lists_both_sides(tmp_path: Path) -> None:
    write_tensors(tmp_path / "big.pt", method_of("ia3").to_official(with_ia3(tiny_t5())))
    with pytest.raises(UserError, match=r"Only in the file: decoder.*multi_lora_b.*; only in the model: .*\[64, 1\]"):
        convert(request(f"adapter={tmp_path}/big.pt", "to=tfew", f"output={tmp_path}/out", "model=tiny"))
    assert {path.name for path in tmp_path.iterdir()} == {"big.pt"}


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_hostile_pickle_is_refused_and_does_not_run(how: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "vectors.pt", tmp_path / "it ran"
    payload = {"encoder.block.0.layer.0.SelfAttention.k.multi_lora_b": Hostile(trace)}
    path.write_bytes(pickle.dumps(payload)) if how == "pickle" else torch.save(payload, path)
    with pytest.raises(UserError, match=r"is not a plain dictionary of tensors, so it was not loaded"):
        convert(request(f"adapter={path}", "to=tfew", f"output={tmp_path}/out", "model=tiny"))
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    (folder / "adapter_model.bin").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"adapter_model.bin is not a plain dictionary of tensors"):
        convert(request(f"adapter={folder}", "to=tfew", f"output={tmp_path}/out", "model=tiny"))
    assert not trace.exists()
    assert not (tmp_path / "out").exists()
    if how == "torch":  # it would have run
        torch.load(path, weights_only=False)
        assert trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "but list"),
        ({}, "its wrong entries: none"),
        ({"a": torch.ones(2), "b": 3}, "its wrong entries: b"),
        ({"a": torch.ones(2, dtype=torch.int64)}, "its wrong entries: a"),
        ({"a": {"b": torch.ones(2)}}, "its wrong entries: a"),
    ],
)
def test_other_pickles_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=message):
        read_tensors(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(b"no pickle at all")
    with pytest.raises(UserError, match="is not a plain dictionary of tensors"):
        read_tensors(tmp_path / "x.pt")


def test_peft_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def refused(adapter: PeftAdapter, message: str) -> None:
        write_peft(tmp_path, adapter, None)
        with pytest.raises(UserError, match=message):
            convert(request(f"adapter={tmp_path}", "to=tfew", f"output={tmp_path}/out", "model=tiny"))

    small = method_of("ia3").to_peft(with_ia3(tiny_t5()))
    refused(small, r"Only in the file: .*Attention.k \[32, 1\].*only in the model: .*Attention.k .*\[64, 1\]")
    refused(PeftAdapter({"peft_type": "LOHA"}, small.tensors), r"Unknown peft_type 'LOHA' .*Known: 'IA3', 'LORA'")
    refused(PeftAdapter({"peft_type": "LORA", "use_dora": True}, {}), r"LoRA of a kind that only peft has \(use_dora=")
    refused(PeftAdapter({"peft_type": "LORA", "r": "8"}, {}), r"adapter_config.json says r='8', which is not a number")
    refused(PeftAdapter({"peft_type": "PROMPT_TUNING"}, {}), r"peft uses the encoder's half only of a PROMPT_TUNING")
    refused(PeftAdapter({"peft_type": "MULTITASK_PROMPT_TUNING"}, {}), r"prompt tuning needs prompt_embeddings")


@pytest.mark.parametrize(
    ("base", "noted"), [("someone/other-135M", True), ("huggingfacetb/smollm2-135m", False), (None, False), (7, False)]
)
def test_another_base_in_a_peft_folder_is_noted(
    base: Any, noted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.device("meta"):
        model = build_shape(compose("model=smollm2_135m", config_name="convert"))
    method = method_of("ia3")
    attach(method, model)
    adapter = method.to_peft(model)
    ones = {key: torch.ones(tensor.shape) for key, tensor in adapter.tensors.items()}
    write_peft(tmp_path, PeftAdapter(adapter.config, ones), base)
    convert(request(f"adapter={tmp_path}", "to=tfew", f"output={tmp_path}/out", "model=smollm2_135m"))
    notes = [r.message for r in caplog.records if "says that it was trained on someone/other-135M" in r.message]
    assert len(notes) == noted


def test_merged_weights_have_the_models_dtype(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = run_folder(train_tiny, "steps=1")
    for given, dtype in (([], torch.float32), (["model.dtype=bfloat16"], torch.bfloat16)):
        folder = convert(request(f"adapter={run}", "to=merged", f"output={tmp_path}/{dtype}", *given))
        assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {dtype}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ia3", "lora", "prompt_10"])
def test_the_command_through_peft_and_back(name: str, train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = run_folder(train_tiny, f"method={name}", "optimizer.lr=0.1")
    folder = convert(request(f"adapter={run}", "to=peft", f"output={tmp_path}/peft"))
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    back = convert(request(f"adapter={folder}", "to=tfew", f"output={tmp_path}/back", "model=tiny"))
    assert_bits_equal(load_file(run / "adapter.safetensors"), load_file(back / "adapter.safetensors"))
    assert adapter_description(back)["base"] == {"name": "tiny", "path": None}
    model, _ = attach_to_tiny(back)
    expected, _ = attach_to_tiny(run)
    torch.testing.assert_close(logits(model), logits(expected), atol=0, rtol=0)


@pytest.mark.slow
def test_merged_checkpoint_scores_the_same_without_this_project(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = run_folder(train_tiny, "optimizer.lr=0.1")
    folder = convert(request(f"adapter={run}", "to=merged", f"output={tmp_path}/merged"))
    code = (
        "import sys, torch\n"
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n"
        "model, report = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert not any(report.values()), report\n"
        "inputs = AutoTokenizer.from_pretrained(sys.argv[1])('A cat sat.', return_tensors='pt')\n"
        "with torch.no_grad():\n"
        "    torch.save(model(**inputs, labels=inputs['input_ids']).logits, sys.argv[2])\n"
        "assert not any(name.startswith('tfew') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, folder, tmp_path / "l.pt"], check=True, cwd=tmp_path)
    ours, tokenizer = attach_to_tiny(run)
    inputs = tokenizer("A cat sat.", return_tensors="pt")
    with torch.no_grad():
        expected = ours(**inputs, labels=inputs["input_ids"]).logits
    torch.testing.assert_close(torch.load(tmp_path / "l.pt", weights_only=True), expected, **CLOSE)
    merged = AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert not torch.equal(merged.lm_head.weight, merged.shared.weight)
    keys = {key for path in folder.glob("*.safetensors") for key in load_file(path)}
    assert keys <= set(tiny_t5().state_dict())
    assert "lm_head.weight" in keys


def test_card(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = run_folder(train_tiny)
    path = convert(request(f"adapter={run}", "to=card"))
    assert path == run / "README.md"
    text = path.read_text()
    record = json.loads((run / "result.json").read_text())
    median, iqr = (100 * record["metrics"][key] for key in ("accuracy", "accuracy_iqr"))
    assert f"| median (IQR) | {median:.1f} ({iqr:.1f}) |" in text
    assert (
        f"| trained parameters | {record['parameters']['trainable']:,} of {record['parameters']['total']:,} |" in text
    )
    assert "| data set | commits, " in text
    assert "few-shot seed 0" in text
    assert "ia3" in text
    assert "PeftModel.from_pretrained" in text
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    with pytest.raises(UserError, match=r"README.md exists and is not empty: .* overwrite=true"):
        convert(request(f"adapter={run}", "to=card"))
    other = convert(request(f"adapter={run}", "to=card", f"output={tmp_path}/elsewhere"))
    assert other.read_text() == text
    plain = convert(request(f"adapter={run}", "to=official", f"output={tmp_path}/v.pt"))
    with pytest.raises(UserError, match=r"holds no result.json, whose numbers to=card needs"):
        convert(request(f"adapter={plain}", "to=card", f"output={tmp_path}/c", "model=tiny"))


def test_output_is_whole_or_not_there(
    train_tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, target = run_folder(train_tiny), tmp_path / "out"
    peft_request = (f"adapter={run}", "to=peft", f"output={target}")
    convert(request(*peft_request))
    with pytest.raises(UserError, match=r"out exists and is not empty: choose another, or set overwrite=true"):
        convert(request(*peft_request))
    (target / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"contains files that no conversion wrote \(thesis.txt\)"):
        convert(request(*peft_request, "overwrite=true"))
    (target / "thesis.txt").unlink()
    (target / "tokenizer_config.json").touch()  # of an earlier conversion to another form
    convert(request(*peft_request, "overwrite=true"))
    assert not (target / "tokenizer_config.json").exists()
    before = {path.name: path.read_bytes() for path in target.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfew.models.foreign_adapters.save_file", full)
    with pytest.raises(UserError, match=r"output=.*out cannot be written \(No space left on device\)"):
        convert(request(*peft_request, "overwrite=true"))
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert not list(tmp_path.glob(".*"))
    for inside in (run, run.parent):
        with pytest.raises(UserError, match=r"would overwrite .*, which is read here: choose another"):
            convert(request(f"adapter={run}", "to=peft", f"output={inside}", "overwrite=true"))
    assert (run / "result.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"adapter= is missing"),
        (("adapter=@", "to=pefd"), r"Unknown form 'pefd' \(to=\). Did you mean 'peft'\?"),
        (("adapter=@", "to=peft"), r"output= is missing: the folder to write"),
        (("adapter=@", "to=tfew", "output=x"), r"is in the form to=tfew already"),
        (("adapter=@", "to=official", "output=x.bin"), r"output=x.bin must end in .pt"),
        (("adapter=@", "to=peft", "output=x", "fused_queries=drop"), r"Unknown value 'drop' \(fused_queries=\)"),
        (("adapter=@/config.yaml", "to=tfew", "output=x"), r"is a file, but not one ending in .pt"),
        (("adapter=@/few_shot", "to=peft", "output=x"), r"holds neither adapter.json \(tfew\) nor adapter_config.json"),
        (("adapter=/nowhere", "to=peft", "output=x"), r"adapter=/nowhere does not exist"),
    ],
)
def test_requests_that_make_no_sense(
    arguments: tuple[str, ...], message: str, train_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    run = run_folder(train_tiny) if any("@" in a for a in arguments) else tmp_path
    with pytest.raises(UserError, match=message):
        convert(request(*(a.replace("@", str(run)) for a in arguments)))


@pytest.mark.slow
def test_from_the_command_line(train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    run = run_folder(train_tiny)
    command = ("tfew.convert", f"adapter={run}", f"output={tmp_path}/peft", "to=peft")
    result = run_command(*command, check=True)
    assert f"is now {tmp_path}/peft (peft)." in result.stderr
    again = run_command(*command)
    assert again.returncode == 1
    assert "exists and is not empty" in again.stderr
    assert "Traceback" not in again.stderr
    (run / "result.json").unlink()
    unfinished = run_command(*command)
    assert "the run did not finish; finish it with resume=true." in unfinished.stderr


def request(*overrides: str) -> Any:
    return with_base_of_run(compose(*overrides, config_name="convert"), overrides)


def run_folder(train_tiny: Callable[..., Any], *overrides: str) -> Path:
    record = train_tiny("dataset.generator.eval=4", *overrides)
    return Path(record.config["runs"]) / record.name


def attach_to_tiny(folder: Path) -> tuple[Any, Any]:
    from tfew.models.build import build_backbone, build_tokenizer

    config = compose("model=tiny")
    tokenizer = build_tokenizer(config).tokenizer
    model = build_backbone(config, tokenizer, torch.device("cpu"))
    attach_saved(folder, saved_method(folder, config)[1], model)
    return model.eval(), tokenizer


def assert_bits_equal(ours: Any, theirs: Any) -> None:
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name].view(torch.int32), theirs[name].view(torch.int32)) for name in ours)
