"""Makes mini-T0 from scratch: its vocabulary, its pre-training, its checkpoint. `make mini_t0` runs this.

    python scripts/make_mini_t0.py [OUTPUT_FOLDER] [OVERRIDES of +experiment=pretrain_mini_t0 ...]

An interrupted run is resumed. The checkpoint goes to tfew/mini_t0/checkpoint, where model=mini_t0 finds it, or to
OUTPUT_FOLDER: model.path=OUTPUT_FOLDER.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfew.cli import run_script
from tfew.config import compose, local_path, resolved
from tfew.costs.formulas import training_flops
from tfew.data.members import load_mixture
from tfew.data.mixture import MixtureSpec
from tfew.files.atomic_output import atomic_replacement
from tfew.mini_t0.tokenizer import train_tokenizer
from tfew.models.adapters_io import load_weights
from tfew.models.backbone import check_head, load_model, load_tokenizer, random_model
from tfew.runs.records import RunRecord
from tfew.train import train

if TYPE_CHECKING:
    from torch import nn

RUNS = Path("runs")
TOKENIZER_PROMPTS = 100_000  # prompts of pre-training that the vocabulary is learnt on
MOST_BYTES = 6_000_000


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments:
        print(__doc__)
        return 0
    output = Path(local_path(compose("model=mini_t0").model.path))
    if arguments and "=" not in arguments[0]:
        output, arguments = Path(arguments[0]), arguments[1:]
    common = ("+experiment=pretrain_mini_t0", f"runs={RUNS}", "resume=true", *arguments)
    vocabulary = RUNS / "mini_t0_vocabulary"
    if not vocabulary.is_dir():
        with atomic_replacement(vocabulary) as folder:
            train_tokenizer(vocabulary_texts(compose(*common)), compose(*common).model.arch.vocab_size).save_pretrained(
                folder
            )
    config = compose(*common, f"model.tokenizer={vocabulary}")
    record = train(config)
    with atomic_replacement(output) as folder:
        _save(config, record, vocabulary, folder)
    size = sum(path.stat().st_size for path in output.iterdir())
    assert size <= MOST_BYTES, f"{output} has {size:,} bytes"
    print(f"{output}: {size:,} bytes; trained in {record.seconds['train'] / 60:.1f} minutes.")
    return 0


def vocabulary_texts(config: Any) -> Iterator[str]:
    """Inputs and targets of randomly drawn prompts of the mixture."""
    mixture = load_mixture(MixtureSpec.from_config(resolved(config.dataset)), config.templates.use, None).mixture
    source = random.Random(config.seed)
    for _ in range(TOKENIZER_PROMPTS):
        (prompt,) = mixture[source.randrange(len(mixture))]
        yield from (prompt.input, *prompt.choices)


def _save(config: Any, record: RunRecord, vocabulary: Path, folder: Path) -> None:
    """The trained weights in bfloat16 beside config and tokenizer, loaded again and compared."""
    import torch

    tokenizer = load_tokenizer(str(vocabulary), "main")
    model: Any = random_model(resolved(config.model.arch), len(tokenizer))
    state = load_weights(RUNS / record.name)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    again: nn.Module = load_model(str(folder), "main", torch.bfloat16)
    check_head(again, str(folder))
    expected = dict(model.named_parameters())
    assert all(torch.equal(parameter, expected[name]) for name, parameter in again.named_parameters())
    (folder / "README.md").write_text(_card(config, record), encoding="utf-8")
    shutil.copy(RUNS / record.name / "result.json", folder / "pretraining.json")


CARD = """# mini-T0

A T5 v1.1 of {parameters:,} parameters ({layers}, width {width}, vocabulary of {vocabulary:,} byte-level pieces), made from
nothing by `make mini_t0`: to a small synthetic world what T0 is to English. It exists so that everything in this project
runs offline in minutes. Weights in bfloat16, `model.safetensors`; the run's record is `pretraining.json`.

| | |
|---|---|
| data | {prompts:,} prompts drawn from {families} training families (`configs/dataset/mini_mixture.yaml`), no example twice |
| training | {steps:,} steps of {batch}, L_LM alone, Adafactor {lr:g} with linear decay, seed {seed}; {minutes:.0f} minutes on a CPU |
| tokens | {tokens} |
| code | commit {commit}, torch {torch}, transformers {transformers} |

## What it can do

Zero-shot, few-shot and every other result on the held-out families, with seeds and spread: `TABLE.md` and
`records.jsonl` beside this file (`make demo_full`, `make mini_t0_table`). Training families, ranked on rows that were not trained on
({rows} a family, every wording):

| family | accuracy | chance |
|---|---:|---:|
{accuracies}

## What it cannot do

English. It knows about eleven hundred lower-case words and what the generators in `tfew/mini_t0` say with them; other
words are pieces without meaning to it. It reads texts of up to about fifty tokens and answers in a few words. Numbers
beyond five, negation and anything that takes two steps of thought it has not learnt. Whether a word means the same in two
sentences (`same_sense`) stays at chance with 32 shots whatever is trained: with 2,000 shots and all weights trained (1,500
steps of 32, learning rate 1e-3) accuracy on unseen word pairs was 100 %, so the network can do it, and 32 examples do not
tell it. It says nothing about how methods compare on real models: it shows that the path works.
"""  # noqa: E501


def _card(config: Any, record: RunRecord) -> str:
    members = record.metrics["members"]
    accuracies = [
        f"| {name} | {100 * member['accuracy']:.1f} | {100 * member['chance']:.1f} |"
        for name, member in {**members, "mean": record.metrics}.items()
    ]
    tokens = record.flops["training"] / training_flops(record.parameters["total"], 1, encoder_decoder=True)
    arch = config.model.arch
    return CARD.format(
        parameters=record.parameters["total"],
        layers=f"{arch.num_layers} encoder and {arch.num_decoder_layers} decoder layers",
        width=arch.d_model,
        vocabulary=arch.vocab_size,
        prompts=config.steps * config.batch_size,
        families=len(members),
        steps=config.steps,
        batch=config.batch_size,
        lr=config.optimizer.lr,
        seed=config.seed,
        minutes=record.seconds["train"] / 60,
        tokens=f"{tokens / 1e6:.1f} million, of inputs and answers",
        commit=record.git_commit or "unknown",
        torch=record.versions["torch"],
        transformers=record.versions["transformers"],
        rows=config.eval_rows,
        accuracies="\n".join(accuracies),
    )


if __name__ == "__main__":
    run_script(main)
