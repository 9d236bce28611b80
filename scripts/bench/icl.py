"""In-context learning with a fixed context, cached or computed for every query: `python -m scripts.bench.icl`.

A small decoder-only model (four layers of half GPT-2's width, seeded random weights), 32 shots, 64 queries of two
choices. All variants alternate in one run; the largest difference between their scores is printed.
"""

import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from scripts.bench.workload import Workload, encode, make_encoder, make_prompts
from tfew.data.tokenization import PromptTokenizer, collate
from tfew.schema import Batch
from tfew.scoring.context import Context
from tfew.scoring.score import scoring_mode, token_logprob

SHOTS, QUERIES, TOKENS, ROUNDS = 32, 64, 30, 3
BATCH = 16


def model_of(rows: int) -> nn.Module:
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 1}
    shape = GPT2Config(vocab_size=rows, n_embd=384, n_head=6, n_layer=4, n_positions=2048, **ends)
    return GPT2LMHeadModel(shape).eval()


def plain(model: nn.Module, batches: list[Batch]) -> list[Tensor]:
    """The context before every choice of every query."""
    return [token_logprob(model, batch, "plain") for batch in batches]


def shared_input(model: nn.Module, batches: list[Batch]) -> list[Tensor]:
    """The context before every query, once for its choices."""
    return [token_logprob(model, batch, "fast") for batch in batches]


def kept(model: nn.Module, batches: list[Batch]) -> list[Tensor]:
    """The context once for all queries."""
    context = Context()
    return [token_logprob(model, batch, "fast", context=context) for batch in batches]


WAYS: dict[str, Callable[[nn.Module, list[Batch]], list[Tensor]]] = {
    "plain": plain, "input shared by choices": shared_input, "context kept": kept,
}  # fmt: skip


def main() -> None:
    ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter).parse_args()
    prompt_tokenizer = PromptTokenizer(make_encoder().tokenizer, 512, decoder_only=True)
    examples = make_prompts(Workload(2, TOKENS, False, SHOTS + QUERIES), prompt_tokenizer)
    shots = tuple((prompt.input, prompt.choices[prompt.label or 0]) for prompt in examples[:SHOTS])
    queries = [replace(prompt, shots=shots) for prompt in examples[SHOTS:]]
    items = sorted(encode(queries, prompt_tokenizer), key=lambda item: -item.length)
    batches = [collate(items[start : start + BATCH], prompt_tokenizer.pad_id) for start in range(0, QUERIES, BATCH)]
    model = model_of(len(prompt_tokenizer.tokenizer))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    scores: dict[str, list[Tensor]] = {}
    with scoring_mode(model):
        kept(model, batches[:1])  # what is done once for a model
        for _ in tqdm(range(ROUNDS), desc="Rounds", unit="round"):
            for name, way in WAYS.items():
                started = time.perf_counter()
                scores[name] = way(model, batches)
                seconds[name].append(time.perf_counter() - started)
    print(
        f"{SHOTS} shots ({prompt_tokenizer.context_length(shots):,} tokens), {QUERIES} queries,"
        f" {torch.get_num_threads()} threads, median of {ROUNDS} rounds"
    )
    for name in WAYS:
        ratio = median(first / mine for first, mine in zip(seconds["plain"], seconds[name], strict=True))
        off = max((a - b).abs().max().item() for a, b in zip(scores["plain"], scores[name], strict=True))
        print(f"  {name:<24}{median(seconds[name]):8.2f} s   {ratio:6.1f} times faster   largest difference {off:.1e}")


if __name__ == "__main__":
    main()
