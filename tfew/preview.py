"""What the model is shown: `python -m tfew.preview +experiment=rte n=3`."""

import json
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tfew.cli import command
from tfew.config import checked
from tfew.errors import UserError, unknown
from tfew.schema import Prompt
from tfew.task import eval_task, train_task

if TYPE_CHECKING:
    from tfew.data.loader import Encoded


def preview(config: DictConfig) -> list[dict[str, Any]]:
    """Prints, for the first n rows and every template, text, choices, token ids, lengths, and what was cut."""
    config = checked(config)
    if config.split not in ("train", "eval"):
        raise unknown("split", config.split, ("train", "eval"), "split=")
    if not isinstance(config.n, int) or config.n < 1:
        raise UserError(f"n={config.n} is not a whole number of at least 1.")
    task = train_task(config) if config.split == "train" else eval_task(config)
    if task is None:
        raise UserError("dataset.evaluate=false: there is no evaluation split to show; split=train shows the mixture.")

    from tfew.build import build_encoder

    encoder = build_encoder(config)
    shown = []
    for number, row in enumerate(task.prompts[: config.n], start=1):
        if not config.json:
            print(f"==== {task.name} {config.split}, row {row[0].idx} ({number} of {task.rows}) ====")
        for prompt in row:
            description = _describe(prompt, encoder(prompt))
            print(json.dumps(description, ensure_ascii=False) if config.json else _as_text(description))
            shown.append(description)
    if not config.json:
        print(f"{task.empty_renders} renders of all {task.rows} rows are empty and skipped.")
    return shown


def _describe(prompt: Prompt, encoded: "Encoded") -> dict[str, Any]:
    return {
        "template": prompt.template,
        "idx": prompt.idx,
        "input": prompt.input,
        "choices": list(prompt.choices),
        "label": prompt.label,
        "input_ids": encoded.input_ids,
        "choice_ids": encoded.choice_ids,
        "cut_tokens": encoded.cut_tokens,
        "cut_choice_tokens": encoded.cut_choice_tokens,
    }


def _as_text(description: dict[str, Any]) -> str:
    cut, cut_choices = description["cut_tokens"], description["cut_choice_tokens"]
    lines = [
        f"-- template {description['template']!r}: {len(description['input_ids'])} tokens"
        + (f", {cut} CUT OFF" if cut else "")
        + (f"; {cut_choices} tokens CUT OFF from choices" if cut_choices else ""),
        description["input"],
        f"   ids {_short(description['input_ids'])}",
    ]
    for number, (choice, ids) in enumerate(zip(description["choices"], description["choice_ids"], strict=True)):
        mark = "*" if number == description["label"] else " "
        lines.append(f" {mark} {choice!r}: {len(ids)} tokens {_short(ids)}")
    return "\n".join(lines) + "\n"


def _short(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 16 else f"[{', '.join(map(str, ids[:12]))}, ... {ids[-1]}]"


main = command("preview")(preview)

if __name__ == "__main__":
    main()
