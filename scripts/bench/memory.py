"""Memory of one training step above the loaded model, in a process of its own: `python -m scripts.bench.memory`.

    python -m scripts.bench.memory NAME CHOICES     bytes; of a contender and a number of answer choices

Linux only (/proc).
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from scripts.bench.case import EXAMPLES, TRAINED
from scripts.bench.contenders import CONTENDERS, make_optimizer, prepared, training_step
from scripts.bench.workload import Workload, encode, make_encoder, make_prompts
from tfew.data.tokenization import collate


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("choices", type=int, choices=EXAMPLES)
    options = parser.parse_args()
    print(training_bytes(options.name, options.choices))


def training_bytes(name: str, choices: int) -> int:
    """Peak of this process's memory during a training step, less what it had before: the model is loaded then."""
    prompt_tokenizer = make_encoder()
    batch = collate(
        encode(make_prompts(Workload(choices, 128, False, TRAINED), prompt_tokenizer), prompt_tokenizer),
        prompt_tokenizer.pad_id,
    )
    model = prepared(name, "small")
    optimizer = make_optimizer(model)
    small = collate(
        encode(make_prompts(Workload(2, 8, True, 1), prompt_tokenizer), prompt_tokenizer), prompt_tokenizer.pad_id
    )
    training_step(name, model, small, optimizer)  # one-time allocations of a first step
    reset_peak()
    before = status_bytes("VmRSS")
    training_step(name, model, batch, optimizer)
    return status_bytes("VmHWM") - before


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
