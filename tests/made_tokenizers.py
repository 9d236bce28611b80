"""Small tokenizers of the kinds that models have, trained in process on a few lines."""

from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "A man bought 12 apples.\n\n\nQuestion: he has fruit. True or False? True\n\n\n",
    "The sky is blue. Grass is green!\n\nAnswer: yes\n\n\n\nAnswer: no, never.\n\n",
    "Premise: it rained all day.\n\n\nHypothesis: the street is wet.\nTrue, False, or Neither?",
    "  two  spaces, and\ttabs; a river bank, by the bank  ",
] * 20
# as in Llama 3 and Qwen 2: punctuation takes the line breaks behind it
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% for m in messages %}"
    "{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (  # as in Llama 2 and Mistral: start-of-text in the template, a space before an answer, end-of-text behind it
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
THOUGHT = CHATML.replace(  # as in Qwen 3: a finished answer has an empty thought before it
    "{{ m.content | trim }}",
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content | trim }}",
)
KINDS = ("gpt2", "llama3", "llama2", "gemma", "opt", "metaspace")


@cache
def make_tokenizer(kind: str, chat: str | None = None) -> Any:
    """`gpt2`: byte-level BPE; `llama3`: with another split and start-of-text; `llama2`, `gemma`: BPE over whole texts,
    with and without a space in front; `opt`: one token for start and end; `metaspace`: Unigram over words; `t5`: the
    same with end-of-text behind. All but `gpt2` and `t5` put start-of-text before a text."""
    inner = {"metaspace": _unigram, "t5": _unigram}.get(kind, _byte_level if kind in BYTE_LEVEL else _sentencepiece)(
        kind
    )
    start = "</s>" if kind == "opt" else "<s>"
    template = {"gpt2": None, "t5": "$A </s>"}.get(kind, f"{start} $A")
    if template is not None:
        pieces = [(piece, inner.token_to_id(piece)) for piece in {start, "</s>"}]
        processor = processors.TemplateProcessing(single=template, special_tokens=pieces)
        inner.post_processor = processor
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    if kind != "t5":
        names["bos_token"] = start
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **names)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = chat
    return made


BYTE_LEVEL = ("gpt2", "llama3", "opt")
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]


def _byte_level(kind: str) -> Tokenizer:
    inner = Tokenizer(models.BPE())
    if kind == "llama3":
        split = pre_tokenizers.Split(Regex(CL100K), "isolated")
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(LINES, trainer)
    return inner


def _sentencepiece(kind: str) -> Tokenizer:
    """Trained on words; in use it sees a text as one long word, as sentencepiece's BPE does."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    inner.train_from_iterator(LINES, trainer)
    spaces = normalizers.Replace(" ", "▁")
    inner.normalizer = spaces if kind == "gemma" else normalizers.Sequence([normalizers.Prepend("▁"), spaces])
    inner.pre_tokenizer = None
    inner.decoder = decoders.Replace("▁", " ")
    return inner


def _unigram(kind: str) -> Tokenizer:
    inner = Tokenizer(models.Unigram())
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    inner.normalizer = normalizers.Sequence([spaces, normalizers.Strip()]) if kind == "t5" else spaces
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    inner.train_from_iterator(LINES, trainer)
    return inner
