"""Shows what the model will see: `python -m tfew.preview +experiment=rte n=3`."""

import json
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tfew.cli import command
from tfew.config import checked
from tfew.data.members import member_overview
from tfew.data.mixture import MixtureSpec
from tfew.dataset_config import complete
from tfew.errors import UserError, unknown_value_error
from tfew.ranking.tuning import settings_to_try
from tfew.runs.model_source import model_source
from tfew.schema import Prompt
from tfew.task import Task, data_folder, eval_task, load_mixture_spec, local_task, train_task

if TYPE_CHECKING:
    from tfew.data.tokenization import PromptTokenizer


def preview(config: DictConfig) -> list[dict[str, Any]]:
    """Prints, for the first n rows and every template, text, choices, token ids, lengths, and what was truncated."""
    config = complete(checked(config))
    if config.split not in ("train", "eval"):
        raise unknown_value_error("split", config.split, ("train", "eval"), "split=")
    if not isinstance(config.n, int) or config.n < 1:
        raise UserError(f"n={config.n} is not a whole number of at least 1.")
    mixture = load_mixture_spec(config)
    if mixture is not None and config.split == "train":
        return _preview_mixture(config, mixture)
    task = train_task(config) if config.split == "train" else eval_task(config)
    if task is None:
        raise UserError(f"{config.dataset.name} has no evaluation split to show; split=train shows what it trains on.")

    # heavy imports only now, after the configuration and the data were checked
    from tfew.checks.finding import report
    from tfew.checks.run_check import check_run, is_checked
    from tfew.costs.run_estimate import announce
    from tfew.models.build import build_blueprint, build_device, build_method, build_tokenizer
    from tfew.models.checkpoint_path import is_at_hand

    is_own = is_checked(config.dataset, task)
    if is_own and config.split == "train":
        announce(
            partial(build_blueprint, config, build_method(config), build_device(config)),
            partial(build_tokenizer, config),
            is_at_hand(model_source(config)),
            task,
            task if config.folds else eval_task(config),
            [setting.steps for setting in settings_to_try(config.steps, config.optimizer.lr, config.tune)],
            config.folds,
            config.max_tokens,
        )
    shown = _show(config, task, range(min(config.n, task.rows)))
    if not config.json:
        print(_empty_renders(task))
        print(_placement(config), flush=True)
    if is_own:
        labels_are_named, steps = config.get("labels") is not None, config.steps if config.split == "train" else None
        report(check_run(task, build_tokenizer(config), config.folds, labels_are_named, steps, config.batch_size))
    return shown


def _empty_renders(task: Task) -> str:
    if not task.empty_renders:
        return f"All {task.rows} rows give a prompt."
    prompts = sum(map(len, task.prompts))
    skipped = f"{task.empty_renders} times a template renders nothing, and is skipped"
    return f"{task.rows} rows give {prompts} prompts; {skipped}."


def _placement(config: DictConfig) -> str:
    """Where the method would be placed in the model; nothing is loaded."""
    from tfew.models.build import build_method, build_shape

    placement = build_method(config).placement(build_shape(config))
    return f"method={config.method.name}" + ("" if placement is None else f" is on {placement.as_text()}")


def _preview_mixture(config: DictConfig, spec: MixtureSpec) -> list[dict[str, Any]]:
    """Lists all members, available or not; then prompts from the available ones. Nothing is downloaded."""
    task = local_task(config, spec)
    known = {name: part["available"] for name, part in task.mixture["members"].items()} if task and task.mixture else {}
    members = member_overview(spec, config.templates.use, data_folder(config), known)
    if config.json:
        for member in members:
            print(json.dumps(member, ensure_ascii=False))
    else:
        print(_members_as_text(spec, members))
    if task is None:
        return members
    drawn = random.Random(f"{config.seed}/preview").sample(range(task.rows), min(config.n, task.rows))
    return members + _show(config, task, drawn)


def _show(config: DictConfig, task: Task, rows: Sequence[int]) -> list[dict[str, Any]]:
    from tfew.models.build import build_tokenizer

    prompt_tokenizer = build_tokenizer(config)
    shown = []
    for number, row in enumerate((task.prompts[row] for row in rows), start=1):
        if not config.json:
            own = row[0].idx + (config.dataset.get("table") is not None)  # rows of a user's table count from 1
            print(f"==== {row[0].dataset} {config.split}, row {own} ({number} of {task.rows}) ====")
        for prompt in row:
            description = _describe(prompt, prompt_tokenizer)
            print(json.dumps(description, ensure_ascii=False) if config.json else _as_text(description))
            shown.append(description)
    return shown


def _members_as_text(spec: MixtureSpec, members: Sequence[Mapping[str, Any]]) -> str:
    width = max(len(member["member"]) for member in members)
    absent = [member for member in members if member["source"] is None]
    unverified = sum(not member["verified"] for member in members if member["source"])
    lines = [
        f"{spec.name}: {len(members)} members, {sum(m['items'] for m in members):,} prompts per epoch;"
        f" {len(absent)} members missing, {unverified} from an untested source (*)",
        f"{'member':<{width}}  templates      rows   prompts   share  from",
    ]
    for member in members:
        source = "MISSING" if member["source"] is None else member["source"] + ("" if member["verified"] else " *")
        rows = "?" if member["rows"] is None else f"{member['rows']:,}"
        lines.append(
            f"{member['member']:<{width}}  {member['templates']:9d} {rows:>9} {member['items']:9,}"
            f" {100 * member['share']:6.2f}%  {source}"
        )
    if absent:
        lines.append("Files to supply under data_dir:")
        lines += [f"  {member['member']}: {member['bring'] or 'unknown'}" for member in absent]
    return "\n".join(lines) + "\n"


def _describe(prompt: Prompt, prompt_tokenizer: "PromptTokenizer") -> dict[str, Any]:
    encoded = prompt_tokenizer(prompt)
    return {
        "template": prompt.template,
        "idx": prompt.idx,
        "input": prompt_tokenizer.text(prompt),
        "choices": list(prompt.choices),
        "label": prompt.label,
        **({"questions": list(prompt.questions), "answers": prompt.answers} if prompt.questions else {}),
        "input_ids": encoded.input_ids,
        "choice_ids": encoded.choice_ids,
        "cut_tokens": encoded.cut_tokens,
        "cut_choice_tokens": encoded.cut_choice_tokens,
        **prompt_tokenizer.rule,
    }


def _as_text(description: dict[str, Any]) -> str:
    cut, cut_choices = description["cut_tokens"], description["cut_choice_tokens"]
    lines = [
        f"-- template {description['template']!r}: {len(description['input_ids'])} tokens"
        + (f", {cut} TRUNCATED" if cut else "")
        + (f"; {cut_choices} tokens of choices TRUNCATED" if cut_choices else "")
        + ("; in the chat template" if description["chat"] else "")
        + ("; choices without end-of-text" if description["eos"] == "exclude" else ""),
        description["input"],
        f"   ids {_short(description['input_ids'])}",
    ]
    right = {description["label"]}
    if answers := description.get("answers"):
        size = len(description["choices"]) // len(answers)
        right = {place * size + answer for place, answer in enumerate(answers)}
    for number, (choice, ids) in enumerate(zip(description["choices"], description["choice_ids"], strict=True)):
        mark = "*" if number in right else " "
        lines.append(f" {mark} {choice!r}: {len(ids)} tokens {_short(ids)}")
    return "\n".join(lines) + "\n"


def _short(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 16 else f"[{', '.join(map(str, ids[:12]))}, ... {ids[-1]}]"


main = command("preview")(preview)

if __name__ == "__main__":
    main()
