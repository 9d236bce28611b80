"""The benchmark's models, of real shapes with random weights, and texts, of chosen lengths in made-up words.

Speed does not depend on the weights and words. The vocabulary is mini-T0's, so that another library can read the same
texts; the model's embeddings and head still have T5's 32,128 rows (SmolLM2's 49,152).
"""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.bench.limit import COMMON, DECODER_ONLY, ROWS, SHAPES
from tfew.config import compose, local_path
from tfew.data.tokenization import PromptTokenizer, TokenizedPrompt
from tfew.models.backbone import load_tokenizer, random_model
from tfew.schema import Prompt

LONGEST = {2: 1, 4: 31, 20: 3, 77: 6}  # words of a choice: yes/no, endings of a story, topics, intents


@dataclass(frozen=True)
class Workload:
    """`even`: all inputs have `length` tokens; else they have a quarter to seven quarters of it, as real texts do.

    `shots`: solved examples of such lengths before each input, the same for all.
    """

    choices: int
    length: int
    even: bool
    examples: int
    shots: int = 0

    def __str__(self) -> str:
        length = f"{self.length} tokens{' each' if self.even else ' on average'}"
        return f"{self.choices} choices, {length}" + (f", {self.shots} shots" if self.shots else "")


def make_model(shape: str) -> nn.Module:
    if shape not in DECODER_ONLY:
        return random_model({**COMMON, **SHAPES[shape], "init_seed": 0}, ROWS)
    torch.manual_seed(0)
    with torch.random.fork_rng():
        return LlamaForCausalLM(LlamaConfig(**DECODER_ONLY[shape], tie_word_embeddings=True, rope_theta=1e5)).eval()


def make_encoder(shape: str = "") -> PromptTokenizer:
    tokenizer = load_tokenizer(str(checkpoint()), "main")
    return PromptTokenizer(tokenizer, max_tokens=512, decoder_only=shape in DECODER_ONLY)


def checkpoint() -> Path:
    return Path(local_path(compose("model=mini_t0").model.path))


def make_prompts(workload: Workload, prompt_tokenizer: PromptTokenizer) -> list[Prompt]:
    """Seeded; endings of a story are each example's own, all other choices the same for all examples."""
    source = random.Random(f"{workload}")
    words = _whole_words(prompt_tokenizer)
    count, longest = workload.choices, LONGEST[workload.choices]
    labels = _labels(source, words, count, longest)
    prompts = []
    for idx in range(workload.shots + workload.examples):
        low, high = (workload.length,) * 2 if workload.even else (workload.length // 4, workload.length * 7 // 4)
        text = " ".join(source.choices(words, k=source.randint(low, high) - 1))
        choices = labels if longest < 10 else _labels(source, words, count, longest)
        prompts.append(Prompt("bench", "words", idx, text, choices, source.randrange(count)))
    shots = tuple((prompt.input, prompt.choices[prompt.label or 0]) for prompt in prompts[: workload.shots])
    return [replace(prompt, shots=shots) for prompt in prompts[workload.shots :]]


def encode(prompts: list[Prompt], prompt_tokenizer: PromptTokenizer) -> list[TokenizedPrompt]:
    return prompt_tokenizer.tokenize(prompts)


def _labels(source: random.Random, words: list[str], count: int, longest: int) -> tuple[str, ...]:
    """Different ones; many labels share their first word, as the names of intents do."""
    first = source.sample(words, count if count < 50 else count // 3)
    shortest = 4 if longest > 10 else 1
    labels: set[str] = set()
    while len(labels) < count:
        rest = source.choices(words, k=source.randint(shortest, longest) - 1)
        labels.add(" ".join([source.choice(first), *rest]))
    return tuple(sorted(labels))


def _whole_words(prompt_tokenizer: PromptTokenizer) -> list[str]:
    """Words that are one token each: a text has as many tokens as words, and the end-of-text token."""
    tokenizer = prompt_tokenizer.tokenizer
    words = sorted({tokenizer.decode([i]).strip() for i in range(len(tokenizer))})
    ids = tokenizer(words)["input_ids"] if words else []
    found = [word for word, word_ids in zip(words, ids, strict=True) if word.isalpha() and len(word_ids) == 2]
    assert len(found) > 300, f"only {len(found)} whole words"
    return found
