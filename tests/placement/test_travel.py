"""(IA)³ and LoRA on every architecture: no change at the start, gradients everywhere, 16 bits, merging, HF peft."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as PEFT_DEFAULTS
from torch import Tensor, nn

from tests.architectures import DECODERS, NAMES, decoder, one_of_each_kind, tiny
from tests.placement.test_architectures import HYBRID, NEEDS_IMAGES, REFUSED
from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters, attach, merge
from tfew.methods.ia3 import IA3
from tfew.methods.lora import LoRA
from tfew.models.foreign_adapters import read_peft, write_peft

RUN = one_of_each_kind(name for name in NAMES if name not in {*REFUSED, *NEEDS_IMAGES})
PEFT_OWN = {
    n for n in NAMES if n.split("-")[0] in PEFT_DEFAULTS and n not in {*REFUSED, *NEEDS_IMAGES, "bert-generation"}
}
PEFT_RENAMES = {"beam"}
# peft 0.21 asks a transformers 5 model for an attribute by its old name
pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning", "ignore:.*:RuntimeWarning")


def logits(model: Any) -> Tensor:
    ids = torch.randint(3, 100, (2, 8), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :5]
    return model(**inputs).logits  # type: ignore[no-any-return]


def ia3(name: str) -> IA3:
    return IA3(partial=name in HYBRID)


def lora(name: str) -> LoRA:
    return LoRA(2, 0.1, layer_norms=False, partial=name in HYBRID)


def stirred(model: nn.Module, spread: float) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("method", [ia3, lora])
def test_nothing_changes_at_the_start_and_gradients_reach_everything(
    method: Callable[[str], Method], name: str
) -> None:
    plain, model = tiny(name), tiny(name)
    attach(method(name), model)
    with torch.no_grad():
        torch.testing.assert_close(logits(model), logits(plain), rtol=1e-4, atol=2e-5)
    stirred(model, 0.05)
    logits(model).float().log_softmax(-1)[..., 3].sum().backward()
    without = [n for n, p in adapter_parameters(model).items() if p.grad is None or not (p.grad != 0).any()]
    assert not [n for n in without if ".experts." not in n], "an expert may have had no token"


@pytest.mark.parametrize("name", RUN)
def test_in_16_bits_vectors_and_pairs_stay_float32(name: str) -> None:
    for method in (ia3(name), lora(name)):
        model = tiny(name).to(torch.bfloat16)
        attach(method, model)
        stirred(model, 0.05)
        output = logits(model)
        assert output.isfinite().all()
        output.float().sum().backward()
        assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float32}


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("method", [ia3, lora])
def test_merged_into_a_plain_model(method: Callable[[str], Method], name: str) -> None:
    model, made = tiny(name), method(name)
    attach(made, model)
    expected = logits(stirred(model, 0.1)).detach()
    assert (expected - logits(tiny(name))).abs().max() > 1e-4
    if method is ia3 and any("heads" in place.scales for place in ia3(name).places(tiny(name))):
        with pytest.raises(UserError, match="cannot be merged"):
            merge(made, model)
        return
    merge(made, model)
    assert type(model) is type(tiny(name))
    torch.testing.assert_close(logits(model), expected, rtol=1e-3, atol=1e-3)


SHARED = {"layers_block_type": ["hybrid", "mamba", "hybrid"], "hybrid_layer_ids": [0, 2], "num_hidden_layers": 3}


@pytest.mark.parametrize(
    ("name", "changes", "method", "weight"),
    [
        ("zamba2", {**DECODERS["zamba2"], **SHARED}, IA3(partial=True), r"\.layers\.2\.shared_transformer\."),
        ("zamba2", {**DECODERS["zamba2"], **SHARED}, LoRA(2, 0.1, False, partial=True), r"\.layers\.2\.shared_tran"),
        ("llama", {"tie_word_embeddings": True}, LoRA(2, 0.1, False, targets=["lm_head"]), r"model\.embed_tokens\.w"),
    ],
)
def test_a_shared_weight_is_not_merged(name: str, changes: dict[str, Any], method: Method, weight: str) -> None:
    """Refused before anything changes: the output afterwards is that of the unmerged adapter."""
    model = decoder(name, changes)
    attach(method, model)
    expected = logits(stirred(model, 0.1)).detach()
    with pytest.raises(
        UserError, match=rf"cannot be merged .* has one weight for .*{weight}.* Use the adapter unmerged"
    ):
        merge(method, model)
    assert torch.equal(logits(model), expected)


def test_a_tied_head_beside_the_adapter_is_merged() -> None:
    model, method = decoder("llama", {"tie_word_embeddings": True}), lora("llama")
    attach(method, model)
    expected = logits(stirred(model, 0.1)).detach()
    merge(method, model)
    torch.testing.assert_close(logits(model), expected, rtol=1e-3, atol=1e-3)


def through_us(kind: type[Method], arguments: dict[str, Any], folder: Path, name: str, queries: str) -> nn.Module:
    model = tiny(name)
    arguments, weights = kind.from_peft(arguments, read_peft(folder), model, queries)
    method = kind(**arguments)
    attach(method, model)
    method.restore(model, weights)
    return model


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("method", [ia3, lora])
def test_our_files_in_peft_and_back(method: Callable[[str], Method], name: str, tmp_path: Path) -> None:
    if name in PEFT_RENAMES and method is lora:
        pytest.skip("peft 0.21 takes gate_proj, up_proj and down_proj of this model type for experts that are not here")
    model, made = tiny(name), method(name)
    attach(made, model)
    stirred(model, 0.1)
    kinds = {place.scales for place in ia3(name).places(tiny(name))}
    if kinds & {"experts", "batched", "split"} or (method is ia3 and any("heads" in kind for kind in kinds)):
        with pytest.raises(UserError, match="HF peft"):
            made.to_peft(model)
        return
    write_peft(tmp_path, made.to_peft(model), None)
    theirs = peft.PeftModel.from_pretrained(tiny(name), tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(logits(theirs), logits(model), rtol=1e-4, atol=1e-4)
        start = {"partial": name in HYBRID}
        arguments = {**start, "rank": 2, "init_scale": 0.1, "layer_norms": False} if method is lora else start
        back = through_us(type(made), arguments, tmp_path, name, "refuse")
        torch.testing.assert_close(logits(back), logits(model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(PEFT_OWN))
def test_pefts_own_default_places_are_taken_as_the_file_names_them(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    task = "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
    theirs = peft.get_peft_model(copy.deepcopy(model), peft.IA3Config(task_type=task))
    stirred(theirs, 0.2)
    theirs.save_pretrained(tmp_path)
    ours = through_us(IA3, {"partial": name in HYBRID}, tmp_path, name, "keep")
    with torch.no_grad():
        torch.testing.assert_close(logits(ours), logits(theirs), rtol=1e-4, atol=1e-4)
        assert (logits(ours) - logits(model)).abs().max() > 1e-3
