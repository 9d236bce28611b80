"""`model.path=FILE.gguf`: the model has the file's content; any error in the file is one sentence."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from tests.gguf_files import CHAT_TEMPLATE, HEADS, KEY_HEADS, gguf_name, interleaved, write_llama
from tfew.config import checked, compose
from tfew.environment import versions
from tfew.environment.package_files import package_file
from tfew.errors import UserError
from tfew.files.checksums import file_sha256
from tfew.models import gguf_checkpoint
from tfew.models.backbone import load_model, load_tokenizer
from tfew.models.build import base_of, build_backbone, build_shape, build_tokenizer
from tfew.models.gguf_checkpoint import converted
from tfew.runs.identity import WEIGHT_HASHES, model_name, resolved_with_hashes, settings_hash

MIXED = {
    "token_embd": "Q8_0",
    "attn_q": "Q4_0",
    "attn_k": "Q5_1",
    "attn_v": "F16",
    "ffn_up": "BF16",
    "ffn_gate": "Q5_0",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty one."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    gguf_checkpoint._converted.cache_clear()
    yield gguf_checkpoint.cache_folder()
    gguf_checkpoint._converted.cache_clear()


def mixed(name: str) -> str:
    return next((kind for part, kind in MIXED.items() if part in name), "Q4_1")


def convert(file: Path) -> Path:
    return converted(file, file_sha256(file))


def config_for(file: Path | str, *overrides: str) -> DictConfig:
    return checked(compose("+experiment=demo", f"model.path={file}", "trainer=cpu", *overrides))


def test_a_file_in_full_precision_is_the_model_that_was_written(tmp_path: Path) -> None:
    """Its logits, too, so that the rows of queries and keys are in the order that transformers rotates."""
    written = write_llama(tmp_path / "small.gguf")
    read: Any = load_model(str(convert(tmp_path / "small.gguf")), "main", torch.float32)
    for name, weight in written.named_parameters():
        torch.testing.assert_close(read.get_parameter(name), weight, rtol=0, atol=0)
    ids = torch.randint(3, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, written(ids).logits, rtol=0, atol=1e-6)
    assert read.lm_head.weight is read.model.embed_tokens.weight


def test_tensors_equal_the_dequantisation_of_the_package_gguf(tmp_path: Path) -> None:
    write_llama(tmp_path / "small.gguf", mixed)
    import gguf

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "small.gguf").tensors}
    assert {tensor.tensor_type.name for tensor in tensors.values()} == {"F32", "Q4_1", *MIXED.values()}
    read = load_model(str(convert(tmp_path / "small.gguf")), "main", torch.float32)
    for name, weight in read.named_parameters():
        tensor = tensors.pop(gguf_name(name))
        ours = weight.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            ours = interleaved(ours, HEADS if "q_proj" in name else KEY_HEADS)
        np.testing.assert_array_equal(ours, gguf.dequantize(tensor.data, tensor.tensor_type))
    assert not tensors


def test_the_tokenizer_is_the_file_s(tmp_path: Path) -> None:
    write_llama(tmp_path / "small.gguf")
    tokenizer = load_tokenizer(str(convert(tmp_path / "small.gguf")), "main", decoder_only=True)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    ids = tokenizer("hello  1 a<|im_end|>")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["hell", "o", "ĠĠ", "1", "Ġa", "<|im_end|>"]  # no start-of-text
    assert tokenizer.decode(ids) == "hello  1 a<|im_end|>"


@pytest.mark.parametrize(
    ("pre", "tokens"),
    [
        ("smollm", ["ĠĠ", "1", "2"]),  # each digit apart, so two spaces are left: llama.cpp's \p{N} before GPT-2's
        ("gpt-2", ["Ġ", "Ġ", "1", "2"]),  # GPT-2's: the second space belongs to the number
    ],
)
def test_text_is_split_as_the_file_says(pre: str, tokens: list[str], tmp_path: Path) -> None:
    write_llama(tmp_path / "small.gguf", pre=pre)
    tokenizer = load_tokenizer(str(convert(tmp_path / "small.gguf")), "main", decoder_only=True)
    assert tokenizer.tokenize("  12") == tokens


@pytest.mark.parametrize(
    ("pre", "reason"), [("of-my-own", r"uses a pre-tokenizer \(of-my-own\)"), (None, "has no tokenizer")]
)
def test_a_tokenizer_that_would_be_guessed_is_asked_for(pre: str | None, reason: str, tmp_path: Path) -> None:
    write_llama(tmp_path / "small.gguf", pre=pre)
    with pytest.raises(UserError, match=rf"small\.gguf {reason}.*model\.tokenizer="):
        build_tokenizer(config_for(tmp_path / "small.gguf"))
    assert build_tokenizer(config_for(tmp_path / "small.gguf", "model.tokenizer=pkg://mini_t0/checkpoint")).decoder_only


def test_what_is_not_read_is_refused(tmp_path: Path) -> None:
    """Llama 3's factors of its positions, which transformers 5.24 leaves out."""
    write_llama(tmp_path / "small.gguf", extra={"rope_freqs.weight": np.ones(8, np.float32)})
    with pytest.raises(UserError, match=r"left out: rope_freqs\.weight\): scores would be wrong"):
        convert(tmp_path / "small.gguf")


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_llama(tmp_path / "small.gguf")
    first = convert(tmp_path / "small.gguf")
    shutil.copy(tmp_path / "small.gguf", tmp_path / "copy.gguf")
    monkeypatch.setattr(gguf_checkpoint, "_convert", None)
    assert convert(tmp_path / "copy.gguf") == first


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "converted.json", None])
def test_a_damaged_cache_is_made_again(name: str | None, tmp_path: Path, cache: Path) -> None:
    write_llama(tmp_path / "small.gguf")
    folder = convert(tmp_path / "small.gguf")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    if name is None:
        (folder / "config.json").unlink()
    else:
        data = bytearray(whole[name])
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
    (cache / f".{folder.name}.dead.tmp").mkdir()  # of a process that was killed
    gguf_checkpoint._converted.cache_clear()
    assert {path.name: path.read_bytes() for path in convert(tmp_path / "small.gguf").iterdir()} == whole
    assert [path for path in cache.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("share", [0.0, 0.00001, 0.05, 0.5, 0.9999])
def test_a_truncated_file(share: float, tmp_path: Path, cache: Path) -> None:
    write_llama(tmp_path / "small.gguf")
    data = (tmp_path / "small.gguf").read_bytes()
    (tmp_path / "small.gguf").write_bytes(data[: int(share * len(data))])
    with pytest.raises(UserError, match=r"small\.gguf is damaged, or no GGUF file of a model that transformers reads"):
        convert(tmp_path / "small.gguf")
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_a_foreign_file(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    shutil.copy(Path(__file__), tmp_path / "python.gguf")
    with pytest.raises(UserError, match=r"python\.gguf is damaged, or no GGUF"):
        convert(tmp_path / "python.gguf")


def test_damaged_bytes_are_sentences(tmp_path: Path) -> None:
    """Bits of the header, one at a time: a sentence, or a model that has every number of the file."""
    write_llama(tmp_path / "small.gguf")
    data = (tmp_path / "small.gguf").read_bytes()
    said = []
    for seed in range(12):
        damaged, place = bytearray(data), int(np.random.default_rng(seed).integers(0, 600))
        damaged[place] ^= 1 << seed % 8
        file = tmp_path / f"{seed}.gguf"
        file.write_bytes(damaged)
        try:
            load_model(str(convert(file)), "main", torch.float32)
        except UserError as error:
            said.append(str(error))
    assert len(said) >= 6
    assert all(".gguf " in sentence for sentence in said)


def test_numbers_that_are_none(tmp_path: Path) -> None:
    write_llama(tmp_path / "small.gguf")
    data = bytearray((tmp_path / "small.gguf").read_bytes())
    data[-4096:-4092] = np.float32(np.nan).tobytes()
    (tmp_path / "small.gguf").write_bytes(data)
    with pytest.raises(UserError, match=r"small\.gguf is damaged: NaN or infinite weights in "):
        convert(tmp_path / "small.gguf")


def test_a_run_is_named_after_the_file_and_knows_its_content(tmp_path: Path) -> None:
    write_llama(tmp_path / "small.Q4.gguf")
    config = config_for(tmp_path / "small.Q4.gguf")
    sha256 = file_sha256(tmp_path / "small.Q4.gguf")
    assert model_name(config) == "small.Q4"
    assert resolved_with_hashes(config)[WEIGHT_HASHES]["model.path"] == sha256
    assert base_of(config) == {"name": "small.Q4", "path": None, "sha256": sha256}
    before = settings_hash(config)
    write_llama(tmp_path / "small.Q4.gguf", "Q8_0")
    assert settings_hash(config) != before


def test_a_file_in_a_folder(tmp_path: Path) -> None:
    write_llama(tmp_path / "small.gguf", "Q8_0")
    write_llama(tmp_path / "other.gguf")
    config = config_for(tmp_path, "model.gguf_file=small.gguf")
    assert model_name(config) == "small"
    tokenizer = build_tokenizer(config)
    assert tokenizer.decoder_only
    model = build_backbone(config, tokenizer.tokenizer, torch.device("cpu"))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in build_shape(config).parameters())
    with pytest.raises(UserError, match=r"model\.gguf_file=smal\.gguf is not in .*; there: other\.gguf, small\.gguf"):
        config_for(tmp_path, "model.gguf_file=smal.gguf")


def test_a_file_in_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Hub's cache holds it, and where it does not."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    write_llama(repository / "snapshots" / "abc" / "small.gguf")
    config = config_for("owner/name", "model.gguf_file=small.gguf")
    assert model_name(config) == "small"
    assert build_tokenizer(config).decoder_only
    with pytest.raises(
        UserError,
        match=r"^model\.path=owner/name model\.gguf_file=no\.gguf: no\.gguf of owner/name cannot be .* no cached copy",
    ):
        build_tokenizer(config_for("owner/name", "model.gguf_file=no.gguf"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.path=no.gguf"], r"no\.gguf: there is no such file .*model\.path=OWNER/NAME model\.gguf_file=no\.gguf"),
        (["model.path=owner/no.gguf"], r"owner/no\.gguf: there is no such file"),
        (["model=tiny", "model.gguf_file=a.gguf"], r"model\.gguf_file=a\.gguf needs model\.path="),
    ],
)
def test_a_file_that_is_not_there(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        checked(compose("+experiment=demo", *overrides))


def test_without_the_package_a_sentence_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.gguf").touch()
    monkeypatch.setattr(versions, "installed", lambda name: None if name == "gguf" else "1")
    with pytest.raises(
        UserError, match=r'small\.gguf needs gguf, not installed here: pip install "gguf>=0\.10".*\[gguf\]'
    ):
        config_for(tmp_path / "small.gguf")


@pytest.mark.slow  # half a minute, and only where `make english` was run
def test_the_real_model_that_a_package_brings() -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed (make english)")
    package = compose("model=smollm2_135m").model.package
    file = package_file(package.name, package.file)
    if file is None:
        pytest.skip(f"{package.name} is not installed ({package.install})")
    config = checked(compose("+experiment=demo", "model=smollm2_135m", "trainer=cpu"))
    assert model_name(config) == "smollm2_135m"
    tokenizer = build_tokenizer(config).tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token, len(tokenizer)) == ("<|im_start|>", "<|im_end|>", 49152)
    assert "You are a helpful AI assistant named SmolLM" in tokenizer.chat_template
    model = build_backbone(config, tokenizer, torch.device("cpu"))
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    for name, weight in model.named_parameters():
        tensor, ours = tensors.pop(gguf_name(name)), weight.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            ours = interleaved(ours, 9 if "q_proj" in name else 3)
        np.testing.assert_array_equal(ours, gguf.dequantize(tensor.data, tensor.tensor_type))
    assert not tensors
