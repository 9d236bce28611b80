"""Which tokens of a choice decoder-only models score, and what decides it; a slow reference, lm-evaluation-harness.

The bare model leaves end-of-text out; an adapter ranks as its loss scored, which is saved with it.
"""

import csv
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tests.made_tokenizers import CHATML, make_tokenizer
from tests.models import tiny_t5, with_ia3
from tests.scoring.test_fast_decoder_only import make
from tfew.config import compose
from tfew.data.tokenization import TokenizedPrompt, collate
from tfew.errors import UserError
from tfew.evaluate import evaluate
from tfew.models.adapters_io import CONFIG_FILE, adapter_scoring, load_weights
from tfew.prediction.predictor import Predictor
from tfew.preview import preview
from tfew.runs.card import describe_scoring
from tfew.runs.records import RunRecord, load_record
from tfew.schema import Prediction
from tfew.scoring.score import plain_token_logprob, scoring_mode, token_logprob
from tfew.task import eval_task, in_context
from tfew.together import settings_of_each, train_together
from tfew.train import train

SIZE: dict[str, Any] = {"vocab_size": 384, "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 1}
TASK = (
    "+experiment=cb",
    "templates=single",
    "templates.name='can we infer'",
    "few_shot=draw",
    "shots=8",
    "trainer=cpu",
)
TRAINING = ("steps=2", "batch_size=8", "eval_rows=8")


def make_model(kind: str) -> Any:
    """Weights so large that what stands before a token matters."""
    torch.manual_seed(0)
    if kind == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=4, n_layer=2, n_positions=1024, **SIZE))
    else:
        shape = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 48}
        model = LlamaForCausalLM(LlamaConfig(**shape, **SIZE))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter *= 8
    return model.eval()


TOKENIZERS = {"gpt2": "gpt2", "llama": "llama3", "chat": "gpt2"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A GPT-2 and a Llama with byte-level tokenizers, the Llama's with start-of-text; a Llama with a chat template."""
    found = {kind: tmp_path_factory.mktemp("models") / kind for kind in TOKENIZERS}
    for kind, folder in found.items():
        make_model(kind).save_pretrained(folder)
        make_tokenizer(TOKENIZERS[kind], CHATML if kind == "chat" else None).save_pretrained(folder)
    return found


@pytest.fixture
def told(made_data: Path, tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    def told(checkpoint: Path, *overrides: str) -> tuple[str, ...]:
        return (*TASK, f"model.path={checkpoint}", f"data_dir={made_data}", f"runs={tmp_path}/runs", *overrides)

    return told


def evaluated(*overrides: str) -> tuple[RunRecord, list[Prediction]]:
    record = evaluate(compose(*overrides, config_name="evaluate"))
    lines = (record.folder / "predictions.jsonl").read_text().splitlines()
    return record, [Prediction.from_json(line) for line in lines]


def pairs_of(*overrides: str) -> list[list[tuple[str, str]]]:
    """Of each prompt, with each of its choices: what stands before the choice, and the choice with its separator."""
    config = compose(*overrides, config_name="evaluate")
    task, context = eval_task(config), in_context(config)
    assert task is not None
    found = []
    for (prompt,) in task.prompts:
        shots = context.shots[prompt.template] if context else ()
        text = "".join(f"{text} {answer}\n\n" for text, answer in shots) + prompt.input
        assert not text[-1].isspace()
        found.append([(text, f" {choice}") for choice in prompt.choices])
    return found


@torch.no_grad()
def slow_sum(model: Any, tokenizer: Any, context: str, continuation: str, eos: bool) -> tuple[float, int]:
    """log p(continuation | context) from one unpadded sequence, and of how many tokens."""
    start = len(tokenizer(context)["input_ids"])
    ids = tokenizer(context + continuation)["input_ids"] + [tokenizer.eos_token_id] * eos
    logprob = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logprob[at - 1, ids[at]] for at in range(start, len(ids)))), len(ids) - start


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("learning", [(), ("icl.mode=concat", "icl.shots=4")], ids=["zero_shot", "four_shot"])
@pytest.mark.parametrize(
    ("eos", "norm"), [("auto", "sum"), ("auto", "token"), ("include", "sum"), ("include", "token")]
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_scores_equal_one_sequence_at_a_time(
    kind: str, eos: str, norm: str, learning: Any, engine: str, checkpoints: dict[str, Path], told: Any
) -> None:
    overrides = told(checkpoints[kind], *learning, "eval_rows=4", f"score.norm={norm}", f"score.eos={eos}")
    record, predictions = evaluated(*overrides, f"engine={engine}")
    assert record.scoring == {"eos": "exclude" if eos == "auto" else "include", "chat": False}
    model, tokenizer = make_model(kind), make_tokenizer(TOKENIZERS[kind])
    for prediction, pairs in zip(predictions, pairs_of(*overrides), strict=True):
        found = [slow_sum(model, tokenizer, *pair, eos == "include") for pair in pairs]
        expected = [total / tokens if norm == "token" else total for total, tokens in found]
        assert prediction.scores == pytest.approx(expected, abs=1e-4)
        assert prediction.tokens == tuple(tokens for _, tokens in found)
        assert max(expected) - min(expected) > 0.01, "scores that do not differ show nothing"


@pytest.mark.parametrize("learning", [(), ("icl.mode=concat", "icl.shots=4")], ids=["zero_shot", "four_shot"])
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_scores_equal_lm_evaluation_harness(kind: str, learning: Any, checkpoints: dict[str, Path], told: Any) -> None:
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason="lm-evaluation-harness is not installed")
    from lm_eval.api.instance import Instance

    overrides = told(checkpoints[kind], *learning, "eval_rows=4", "score.norm=sum")
    scores = [score for prediction in evaluated(*overrides)[1] for score in prediction.scores]
    harness = huggingface.HFLM(
        pretrained=make_model(kind), tokenizer=make_tokenizer(TOKENIZERS[kind]), backend="causal", batch_size=4
    )
    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number)
        for number, pair in enumerate(pair for pairs in pairs_of(*overrides) for pair in pairs)
    ]
    theirs = [score for score, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    assert scores == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_engines_agree_where_one_choice_begins_another(kind: str) -> None:
    model: Any = with_ia3(make("llama") if kind == "llama" else tiny_t5(rows=384))
    choices = [[[7], [7, 8], [7, 8, 9], [5]], [[6, 6], [6]]]
    items = [TokenizedPrompt([3, 4, 5 + row], ids, 0, 0, 0) for row, ids in enumerate(choices)]
    with scoring_mode(model):
        fast, plain = (token_logprob(model, collate(items, 0), engine) for engine in ("fast", "plain"))
        torch.testing.assert_close(fast, plain, atol=1e-5, rtol=1e-5)
        alone = plain_token_logprob(model, collate([TokenizedPrompt([3, 4, 5], [[7, 8]], 0, 0, 0)], 0))
    torch.testing.assert_close(plain[0, 1, :2], alone[0, 0], atol=1e-5, rtol=1e-5)
    assert plain[0, 0, 1:].tolist() == [0, 0]


def test_a_loss_has_the_tokens_that_are_ranked_by(checkpoints: dict[str, Path], told: Any) -> None:
    """All shots are one batch, and the first step sees the bare model: the mean over the right answers' tokens."""
    model, tokenizer = make_model("llama"), make_tokenizer(TOKENIZERS["llama"])
    losses = []
    for eos in ("exclude", "include", "auto"):
        record = train(compose(*told(checkpoints["llama"], *TRAINING, "loss=lm", f"score.eos={eos}")))
        config = compose(*told(checkpoints["llama"], "icl.mode=concat", "icl.shots=8"), config_name="evaluate")
        context = in_context(config)
        assert context is not None
        (shots,) = context.shots.values()
        found = [slow_sum(model, tokenizer, text, f" {answer}", eos != "exclude") for text, answer in shots]
        with (record.folder / "metrics.csv").open() as file:
            losses.append(float(next(csv.DictReader(file))["lm_loss"]))
        assert losses[-1] == pytest.approx(-sum(s for s, _ in found) / sum(n for _, n in found), rel=1e-4)
        rule = {"eos": "exclude" if eos == "exclude" else "include", "chat": False}
        assert record.scoring == load_record(record.folder).scoring == adapter_scoring(record.folder) == rule
        assert json.loads((record.folder / CONFIG_FILE).read_text())["scoring"] == rule
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)
    assert losses[1] == losses[2]


@pytest.fixture
def adapters(checkpoints: dict[str, Path], told: Any) -> dict[str, Path]:
    """One trained without end-of-text, one with."""
    rules = ("exclude", "include")
    overrides = told(checkpoints["llama"], *TRAINING, "optimizer.lr=0.1", "score.norm=sum")
    return {eos: train(compose(*overrides, f"score.eos={eos}")).folder for eos in rules}


def again(folder: Path, tmp_path: Path, *overrides: str) -> tuple[RunRecord, list[Prediction]]:
    from tfew.cli import with_run_settings

    told = [f"adapter={folder}", "trainer=cpu", f"runs={tmp_path}/again", *overrides]
    record = evaluate(with_run_settings(compose(*told, config_name="evaluate"), told))
    lines = (record.folder / "predictions.jsonl").read_text().splitlines()
    return record, [Prediction.from_json(line) for line in lines]


def read(folder: Path) -> list[Prediction]:
    return [Prediction.from_json(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def same_scores(one: Sequence[Prediction], other: Sequence[Prediction]) -> bool:
    return all(a.scores == pytest.approx(b.scores, abs=1e-4) for a, b in zip(one, other, strict=True))


def test_an_adapter_ranks_by_its_loss_rule(adapters: dict[str, Path], tmp_path: Path) -> None:
    for eos, folder in adapters.items():
        for told in ((), ("score.eos=auto",)):
            record, predictions = again(folder, tmp_path, *told)
            assert record.scoring["eos"] == eos
            assert same_scores(predictions, read(folder))
        other = "include" if eos == "exclude" else "exclude"
        record, predictions = again(folder, tmp_path, f"score.eos={other}")
        assert record.scoring["eos"] == other
        assert not same_scores(predictions, read(folder))


def test_an_adapter_alone_brings_its_rule(
    adapters: dict[str, Path], checkpoints: dict[str, Path], told: Any, tmp_path: Path
) -> None:
    """Without its run's settings; and one of before, which says nothing, counts end-of-text."""
    folder = adapters["exclude"]
    for file in ("adapter.safetensors", "adapter.json"):
        (tmp_path / "alone").mkdir(exist_ok=True)
        shutil.copy(folder / file, tmp_path / "alone")
    overrides = told(checkpoints["llama"], "eval_rows=8", "score.norm=sum", f"adapter={tmp_path}/alone")
    record, predictions = evaluated(*overrides)
    assert record.scoring["eos"] == "exclude"
    assert same_scores(predictions, read(folder))
    path = tmp_path / "alone" / CONFIG_FILE
    description = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in description.items() if key not in ("scoring", "sha256")}))
    assert adapter_scoring(tmp_path / "alone") == {"eos": "include", "chat": False}
    assert evaluated(*overrides, "overwrite=true")[0].scoring["eos"] == "include"
    path.write_text(json.dumps({**description, "scoring": {"eos": "perhaps"}} | {"sha256": None}))
    with pytest.raises(UserError, match="does not say how its adapter scores choices"):
        adapter_scoring(tmp_path / "alone")


def test_predictions_keep_the_rule_and_tasks_of_both_share_batches(adapters: dict[str, Path], made_data: Path) -> None:
    rows = [{"premise": f"A man bought {n} apples.", "hypothesis": "he has fruit"} for n in range(4)]
    both = Predictor.load({eos: str(folder) for eos, folder in adapters.items()}, "trainer=cpu")
    for eos, folder in adapters.items():
        alone = Predictor.load(folder, "trainer=cpu")
        assert alone.fingerprint()["tasks"]["cb"]["eos"] == both.fingerprint()["tasks"][eos]["eos"] == eos
        for one, other in zip(alone(rows), both(rows, task=eos), strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        other_rule = "include" if eos == "exclude" else "exclude"
        changed = Predictor.load(folder, "trainer=cpu", f"score.eos={other_rule}")
        assert changed.fingerprint() != alone.fingerprint()
        assert changed(rows)[0].probabilities != pytest.approx(alone(rows)[0].probabilities, abs=1e-3)


def test_a_temperature_holds_for_its_rule(adapters: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = adapters["exclude"]
    path = folder / "temperature.json"
    saved = json.loads(path.read_text())
    assert saved["eos"] == "exclude"
    path.write_text(json.dumps({"norm": "sum", "eos": "exclude", "temperature": 2.5, "ece_calibrated": 0.1}))
    with caplog.at_level(logging.INFO, logger="tfew"):
        (task,) = Predictor.load(folder, "trainer=cpu").tasks.values()
        assert task.temperature == 2.5
        assert "not calibrated" not in caplog.text
        (task,) = Predictor.load(folder, "trainer=cpu", "score.eos=include").tasks.values()
    assert task.temperature == 1
    assert "(score.norm=sum, score.eos=include)" in caplog.text


def test_a_card_and_a_summary_say_what_is_not_t_fews_way() -> None:
    assert describe_scoring({"eos": "include", "chat": False}) == ""
    both = describe_scoring({"eos": "exclude", "chat": True})
    assert both == "scored without their end-of-text, as answers in the model's chat template"


def test_runs_that_are_trained_together_have_each_its_rule(
    adapters: dict[str, Path], checkpoints: dict[str, Path], told: Any, tmp_path: Path
) -> None:
    overrides = told(checkpoints["llama"], *TRAINING, "optimizer.lr=0.1", "score.norm=sum", f"runs={tmp_path}/together")
    records = train_together(settings_of_each(overrides, [f"score.eos={eos}" for eos in adapters]))
    for record, (eos, folder) in zip(records, adapters.items(), strict=True):
        assert (record.scoring["eos"], adapter_scoring(record.folder)["eos"]) == (eos, eos)
        for name, vector in load_weights(folder).items():
            torch.testing.assert_close(load_weights(record.folder)[name], vector, atol=1e-5, rtol=1e-4)
        assert same_scores(read(record.folder), read(folder))


def test_training_from_an_adapter_takes_its_rule(
    adapters: dict[str, Path], checkpoints: dict[str, Path], told: Any
) -> None:
    start = told(checkpoints["llama"], *TRAINING, f"init_adapter={adapters['exclude']}")
    assert train(compose(*start)).scoring["eos"] == "exclude"
    assert train(compose(*start, "score.eos=include")).scoring["eos"] == "include"


def test_an_encoder_decoder_counts_end_of_text_unless_told(made_data: Path, tmp_path: Path) -> None:
    common = (*TASK, "model=tiny", f"data_dir={made_data}", f"runs={tmp_path}", "eval_rows=4", "score.norm=sum")
    (auto, by_auto), (bare, without) = evaluated(*common), evaluated(*common, "score.eos=exclude")
    assert (auto.scoring["eos"], bare.scoring["eos"]) == ("include", "exclude")
    for one, other in zip(by_auto, without, strict=True):
        assert one.tokens == tuple(tokens + 1 for tokens in other.tokens)
        assert all(a < b for a, b in zip(one.scores, other.scores, strict=True)), "a token more costs something"


def test_a_tokenizer_without_end_of_text(checkpoints: dict[str, Path], told: Any, tmp_path: Path) -> None:
    make_model("llama").save_pretrained(tmp_path / "model")
    tokenizer = make_tokenizer("gpt2").__class__(tokenizer_object=make_tokenizer("gpt2").backend_tokenizer)
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"model has no end-of-text token that could be scored: set score\.eos=exclude"):
        train(compose(*told(tmp_path / "model", *TRAINING)))
    assert evaluated(*told(tmp_path / "model", "eval_rows=4"))[0].scoring["eos"] == "exclude"


# chats


def test_a_chat_is_recorded_and_goes_with_its_adapter(
    checkpoints: dict[str, Path], told: Any, tmp_path: Path, made_data: Path
) -> None:
    overrides = told(checkpoints["chat"], *TRAINING, "score.norm=sum", "prompt.chat=true")
    record = train(compose(*overrides))
    assert record.scoring == adapter_scoring(record.folder) == {"eos": "include", "chat": True}
    found, predictions = again(record.folder, tmp_path)
    assert found.scoring == record.scoring
    assert same_scores(predictions, read(record.folder))
    bare = evaluated(*told(checkpoints["chat"], "eval_rows=8", "score.norm=sum", f"adapter={record.folder}"))
    assert bare[0].scoring["chat"] is True, "whatever the command line's default"
    predictor = Predictor.load(record.folder, "trainer=cpu")
    (prepared,) = predictor.prepare([(1, None, {"premise": "It rained.", "hypothesis": "the street is wet"})])
    (shown,) = predictor.inputs(prepared)  # type: ignore[arg-type]
    assert shown.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    plain = train(compose(*told(checkpoints["chat"], *TRAINING, "score.norm=sum")))
    with pytest.raises(UserError, match=r"prompt\.chat=true, and .* was trained without the chat template"):
        evaluated(*told(checkpoints["chat"], f"adapter={plain.folder}", "prompt.chat=true"))
    with pytest.raises(UserError, match=r"prompt\.chat= belongs to training"):
        again(plain.folder, tmp_path, "prompt.chat=true")


@pytest.mark.parametrize("learning", [(), ("icl.mode=concat", "icl.shots=3")], ids=["zero_shot", "three_shot"])
def test_scores_of_a_chat_equal_one_conversation_at_a_time(
    learning: Any, checkpoints: dict[str, Path], told: Any
) -> None:
    overrides = told(checkpoints["chat"], *learning, "eval_rows=3", "score.norm=sum", "prompt.chat=true")
    record, predictions = evaluated(*overrides)
    assert record.scoring == {"eos": "exclude", "chat": True}
    config = compose(*overrides, config_name="evaluate")
    task, context = eval_task(config), in_context(config)
    assert task is not None
    model, tokenizer = make_model("chat"), make_tokenizer("gpt2", CHATML)
    for prediction, (prompt,) in zip(predictions, task.prompts, strict=True):
        shots = context.shots[prompt.template] if context else ()
        turns = [{"role": role, "content": said} for text, answer in (*shots, (prompt.input, ""))
                 for role, said in (("user", text), ("assistant", answer))]  # fmt: skip
        text = str(tokenizer.apply_chat_template(turns[:-1], tokenize=False, add_generation_prompt=True))
        pairs = [(text.rstrip(), f"\n{choice}") for choice in prompt.choices]
        expected = [slow_sum(model, tokenizer, *pair, eos=False)[0] for pair in pairs]
        assert prediction.scores == pytest.approx(expected, abs=1e-4)


def test_a_preview_shows_the_chat_and_what_is_scored(
    checkpoints: dict[str, Path], told: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = (*told(checkpoints["chat"], "n=1"), "prompt.chat=true", "score.eos=exclude")
    (shown,) = preview(compose(*overrides, config_name="preview"))
    assert shown["input"].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert shown["input"].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert (shown["chat"], shown["eos"]) == (True, "exclude")
    printed = capsys.readouterr().out
    assert "in the chat template; choices without end-of-text" in printed
    assert "<|im_start|>assistant" in printed


def test_a_chat_template_is_pointed_out_once(
    checkpoints: dict[str, Path], told: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    shutil.copytree(checkpoints["chat"], tmp_path / "pointed_out")
    overrides = told(tmp_path / "pointed_out", "eval_rows=2")
    with caplog.at_level(logging.INFO, logger="tfew"):
        evaluated(*overrides, "prompt.chat=true")
        assert "has a chat template" not in caplog.text
        evaluated(*overrides)
        evaluated(*overrides, "score.norm=sum")
    assert caplog.text.count("pointed_out has a chat template; prompt.chat=true uses it.") == 1


def test_a_chat_that_cannot_be_is_a_sentence(
    checkpoints: dict[str, Path], told: Any, made_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="the tokenizer of this model has no chat template"):
        evaluated(*told(checkpoints["gpt2"], "prompt.chat=true"))
    with pytest.raises(UserError, match=r"prompt\.chat=true is for decoder-only models, and tiny is none"):
        evaluated(*TASK, "model=tiny", f"data_dir={made_data}", "prompt.chat=true", f"runs={tmp_path}")
    with pytest.raises(UserError, match=r"prompt\.chat='perhaps' is neither true nor false"):
        evaluated(*told(checkpoints["gpt2"], "prompt.chat=perhaps"))
    with pytest.raises(UserError, match=r"score\.eos"):
        evaluated(*told(checkpoints["gpt2"], "score.eos=always"))
