"""Makes mini-T0 from nothing: its vocabulary, its pre-training, its checkpoint. `make mini_t0` runs this.

    python scripts/make_mini_t0.py [OUTPUT_FOLDER] [OVERRIDES of +experiment=pretrain_mini_t0 ...]

A run that was stopped continues. The checkpoint goes to tfew/mini_t0/checkpoint, where model=mini_t0 finds it, or to
OUTPUT_FOLDER: model.path=OUTPUT_FOLDER.
"""

import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfew.adapters_io import load_weights
from tfew.backbone import check_head, load_model, load_tokenizer, random_model
from tfew.config import compose, local_path, resolved
from tfew.data.members import load_mixture
from tfew.data.mixture import MixtureSpec
from tfew.mini_t0.tokenizer import learn_tokenizer
from tfew.output import replacing
from tfew.records import RunRecord
from tfew.train import train

if TYPE_CHECKING:
    from torch import nn

RUNS = Path("runs")
TOKENIZER_PROMPTS = 100_000  # prompts of pre-training that the vocabulary is learnt on
MOST_BYTES = 6_000_000


def main(arguments: list[str]) -> Path:
    output = Path(local_path(compose("model=mini_t0").model.path))
    if arguments and "=" not in arguments[0]:
        output = Path(arguments.pop(0))
    common = ("+experiment=pretrain_mini_t0", f"runs={RUNS}", "resume=true", *arguments)
    vocabulary = RUNS / "mini_t0_vocabulary"
    if not vocabulary.is_dir():
        with replacing(vocabulary) as folder:
            learn_tokenizer(vocabulary_texts(compose(*common)), compose(*common).model.arch.vocab_size).save_pretrained(
                folder
            )
    config = compose(*common, f"model.tokenizer={vocabulary}")
    record = train(config)
    with replacing(output) as folder:
        _save(config, record, vocabulary, folder)
    size = sum(path.stat().st_size for path in output.iterdir())
    assert size <= MOST_BYTES, f"{output} has {size:,} bytes"
    print(f"{output}: {size:,} bytes; trained in {record.seconds['train'] / 60:.1f} minutes.")
    return output


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


def _card(config: Any, record: RunRecord) -> str:
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
