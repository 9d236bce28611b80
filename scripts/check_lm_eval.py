"""Compares scores of a decoder-only model with lm-evaluation-harness' on the same model, tokenizer and texts.

    pip install --target FOLDER lm_eval==0.4.13
    PYTHONPATH=FOLDER python -m scripts.check_lm_eval data_dir=../shared/data model.path=CHECKPOINT [output=FILE.md]

Uses the first 40 rows of RTE, COPA and WiC, with no shots and with four. Arguments are settings of `tfew.evaluate`.
Exits with 1 if a choice's log-probability differs by more than 1e-4, with either engine, in float32. Also prints how
many predictions change if the end-of-text token of a choice is scored as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tfew.cli import run_script
from tfew.config import checked, compose
from tfew.dataset_config import complete
from tfew.errors import UserError
from tfew.models.build import build_for_scoring, build_tokenizer
from tfew.models.loaded_model import LoadedModel
from tfew.ranking.evaluation import rank
from tfew.ranking.icl import Answer
from tfew.schema import Prompt
from tfew.scoring.score import ENGINES
from tfew.settings import EvaluationSettings, settings
from tfew.task import eval_task, in_context

VERSION = "0.4.13"
EXPERIMENTS = {  # each row in a template drawn for it; of COPA's some are for one type of question alone
    "rte": ("templates.eval=random",),
    "copa": ("templates=single", "templates.name=exercise"),
    "wic": ("templates.eval=random",),
}
SHOTS = (0, 4)
ROWS = 40
TOLERANCE = 1e-4  # of a choice's log-probability
OPTIONS = ("few_shot=files", "score.norm=sum", "max_tokens=2048", "model.dtype=float32")


@dataclass(frozen=True)
class Row:
    """What one data set shows; `differences`: by engine, the largest of all choices."""

    experiment: str
    shots: int
    rows: int
    choices: int
    tokens: int
    differences: dict[str, float]
    changed: int
    accuracies: dict[str, float]

    def line(self) -> str:
        differences = " | ".join(f"{value:.1e}" for value in self.differences.values())
        accuracies = " | ".join(f"{100 * value:.1f}" for value in self.accuracies.values())
        return (
            f"| {self.experiment} | {self.shots} | {self.choices} | {self.tokens:,} | {differences} |"
            f" {self.changed} of {self.rows} | {accuracies} |"
        )


HEADER = [
    "| task | shots | choices | tokens | fast | plain | other prediction with end-of-text | accuracy without | with |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
]


def main(arguments: Sequence[str]) -> int:
    output = [argument.partition("=")[2] for argument in arguments if argument.startswith("output=")]
    overrides = [argument for argument in arguments if not argument.startswith("output=")]
    first = complete(checked(_compose("rte", 0, overrides)))
    loaded = build_for_scoring(first, build_tokenizer(first, trains=False))
    if not loaded.prompt_tokenizer.decoder_only:
        raise UserError(f"{first.model.path} is no decoder-only model (model.path=).")
    harness = _harness(loaded)
    rows = []
    for name in EXPERIMENTS:
        for shots in SHOTS:
            rows.append(compare(name, shots, overrides, loaded, harness))
            print(rows[-1].line(), flush=True)
    worst = max(value for row in rows for value in row.differences.values())
    verdict = f"The largest difference is {worst:.1e} (allowed: {TOLERANCE:.0e})."
    print(verdict)
    if output:
        Path(output[0]).write_text(report(rows, verdict, overrides), encoding="utf-8")
    return int(worst > TOLERANCE)


def compare(name: str, shots: int, overrides: Sequence[str], loaded: LoadedModel, harness: Any) -> Row:
    config = complete(checked(_compose(name, shots, overrides)))
    task, context = eval_task(config), in_context(config)
    assert task is not None
    options = settings(EvaluationSettings, config)
    ranked = {
        engine: rank(replace(loaded, execution=replace(loaded.execution, engine=engine)), task, options, context)
        for engine in ENGINES
    }
    with_eos = replace(loaded, prompt_tokenizer=replace(loaded.prompt_tokenizer, eos=True))
    ended = rank(with_eos, task, options, context).answers
    prompts = [prompt for (prompt,) in task.prompts]
    behind = {} if context is None else context.shots
    pairs = [
        (_text(behind.get(prompt.template, ()), prompt), _separator(prompt.input) + choice)
        for prompt in prompts
        for choice in prompt.choices
    ]
    theirs = _loglikelihoods(harness, pairs)
    answers = ranked[ENGINES[0]].answers
    return Row(
        name,
        shots,
        len(prompts),
        len(pairs),
        sum(item.length + sum(map(len, item.choice_ids)) for item in ranked[ENGINES[0]].encoded),
        {
            engine: max(abs(ours - their) for ours, their in zip(_scores(found.answers), theirs, strict=True))
            for engine, found in ranked.items()
        },
        sum(
            one.under("sum").predicted != other.under("sum").predicted
            for one, other in zip(answers, ended, strict=True)
        ),
        {"without": _accuracy(answers), "with": _accuracy(ended)},
    )


def _compose(name: str, shots: int, overrides: Sequence[str]) -> Any:
    learning = (f"icl.mode={'concat' if shots else 'none'}", f"icl.shots={shots or 'null'}")
    told = (f"+experiment={name}", *OPTIONS, *EXPERIMENTS[name], f"eval_rows={ROWS}", *learning, *overrides)
    return compose(*told, config_name="evaluate")


def _text(shots: Sequence[tuple[str, str]], prompt: Prompt) -> str:
    """What stands before a choice, put together here and not by the code that is compared."""
    return "".join(text + _separator(text) + answer + "\n\n" for text, answer in shots) + prompt.input


def _separator(text: str) -> str:
    return "" if text[-1] in " \n" else " "


def _scores(answers: Sequence[Answer]) -> list[float]:
    return [score for answer in answers for score in answer.under("sum").scores]


def _accuracy(answers: Sequence[Answer]) -> float:
    return sum(answer.under("sum").predicted == answer.label for answer in answers) / len(answers)


def _harness(loaded: LoadedModel) -> Any:
    """lm-evaluation-harness around the very same model and tokenizer."""
    try:
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise UserError(f"lm-evaluation-harness is not here ({error}): pip install lm_eval=={VERSION}.") from error
    model: Any = loaded.model
    return HFLM(pretrained=model, tokenizer=loaded.prompt_tokenizer.tokenizer, backend="causal", batch_size=8)


def _loglikelihoods(harness: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    from lm_eval.api.instance import Instance

    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number) for number, pair in enumerate(pairs)
    ]
    return [answer[0] for answer in harness.loglikelihood(requests, disable_tqdm=True)]


def report(rows: Sequence[Row], verdict: str, overrides: Sequence[str]) -> str:
    model = next((o.partition("=")[2] for o in overrides if o.startswith(("model=", "model.path="))), "the default")
    return f"""# Scores of a decoder-only model, beside lm-evaluation-harness

`python -m scripts.check_lm_eval data_dir=DIR model.path=FOLDER`: the model {Path(model).name} in float32 on a CPU, and
lm-evaluation-harness {VERSION} (`HFLM.loglikelihood`) on the same model object, tokenizer and texts. The first {ROWS}
validation rows of each task, each in one of its original templates, drawn for it (COPA: one for all); shots are the
official ones, all four in one context.

`fast` and `plain`: by that engine, the largest difference of a choice's log-probability, over all choices. Predictions
and accuracies (percent) rank by sums; "with" end-of-text is `score.eos=include`, without it the default.

{chr(10).join([*HEADER, *(row.line() for row in rows)])}

{verdict}
"""


if __name__ == "__main__":
    run_script(main)
