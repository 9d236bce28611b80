"""Costs of a run, a method or a table, before anything is loaded: `python -m tfew.cost +experiment=rte data_dir=DIR`.

`methods=all` counts what every method trains and stores; `table=1` is the paper's table of costs by its formulas.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from tfew.cli import command
from tfew.config import CONFIGS, checked, compose, resolved
from tfew.dataset_config import complete
from tfew.errors import UserError, unknown_value_error
from tfew.runs.identity import is_known_checkpoint, model_name
from tfew.task import tasks_at_hand

if TYPE_CHECKING:
    from tfew.data.tokenization import PromptTokenizer
    from tfew.paper.table_1 import CostLengths, CostRow


def cost(config: DictConfig) -> list[dict[str, Any]]:
    """One row for the run, per method, or per line of the table: counts, FLOPs, bytes and seconds by name."""
    config = checked(config)
    if config.table not in (None, 1):
        raise unknown_value_error("table", config.table, (1,), "table=")
    if config.methods not in (None, "all"):
        raise unknown_value_error("value", config.methods, ("all",), "methods=")
    if config.methods and config.method != compose().method:
        raise UserError("methods=all counts every file of configs/method as it is: leave method= out, or methods=.")
    if config.measure and (config.table or config.methods):
        raise UserError("measure=true runs the steps of one run: leave table= and methods= out.")
    if config.table:
        rows, text = _paper_table(config)
    elif config.methods:
        names = sorted(path.stem for path in CONFIGS.glob("method/*.yaml"))
        rows = [_count(config, compose(f"method={name}").method) for name in names]
        text = _counts_as_text(rows)
    else:
        rows, text = _one_run(config)
    print(json.dumps(rows, indent=1) if config.json else text)
    return rows


def _one_run(config: DictConfig) -> tuple[list[dict[str, Any]], str]:
    training, evaluation = tasks_at_hand(complete(config))

    from tfew.costs.cost_report import as_text, cost_report
    from tfew.models.build import build_blueprint, build_device, build_method, build_shape, build_trainable
    from tfew.paper.table_1 import paper_lengths

    device, method, prompt_tokenizer = build_device(config), build_method(config), None
    if config.model.path is None or training is not None or config.measure:
        prompt_tokenizer = _tokenizer(config)
    tokens = 0 if prompt_tokenizer is None else len(prompt_tokenizer.tokenizer)
    report = cost_report(
        build_blueprint(config, method, device, tokens),
        prompt_tokenizer,
        training,
        evaluation,
        assumed_tokens=int(paper_lengths().query_tokens),
        load=partial(build_trainable, config, prompt_tokenizer) if config.measure else None,
    )
    placement = method.placement(build_shape(config, tokens))
    where = {} if placement is None else {"placement": placement.to_json()}
    row = {"model": model_name(config), "method": config.method.name, **where, **report}
    table = "" if placement is None else f"\n\n{config.method.name} is on {placement.as_text()}"
    return [row], f"{_counts_as_text([row])}{table}\n\n{as_text(row)}"


def _tokenizer(config: DictConfig) -> "PromptTokenizer":
    """The tokenizer; the model type is not looked up on the Hub if configs/model has it."""
    from tfew.models.build import build_tokenizer
    from tfew.models.shapes import config_of

    decoder_only = None
    if is_known_checkpoint(config):
        values = resolved(config.model).get("config")
        decoder_only = values is not None and not config_of(values).is_encoder_decoder
    return build_tokenizer(config, decoder_only)


def _paper_table(config: DictConfig) -> tuple[list[dict[str, Any]], str]:
    """Table 1 with the paper's lengths and, if data are named, also with their median lengths."""
    from tfew.paper.table import specs
    from tfew.paper.table_1 import table_1

    table = table_1()
    rows = [{"row": name, **asdict(row)} for name, row in table.items()]
    lines = ["Table 1: FLOPs and storage by the paper's formulas, and as it prints them", "", *_cost_lines(table)]
    if (measured := _own_lengths(config)) is not None:
        lengths, measured_lines = measured
        own = table_1(lengths)
        for row in rows:
            costs = {key: value for key, value in asdict(own[row["row"]]).items() if key != "printed"}
            row["own"] = {"dataset": config.dataset.name, **asdict(lengths), **costs}
        lines += ["", f"With the median lengths of {config.dataset.name}, {lengths.shots} shots:", "", *measured_lines]
        lines += ["", *_cost_lines(own, printed=False)]
    notes = [f"Note: {note}" for note in specs()["costs"]["notes"]]
    return rows, "\n".join([*lines, "", *notes])


def _own_lengths(config: DictConfig) -> "tuple[CostLengths, list[str]] | None":
    """Lengths of the data: queries are evaluation prompts, else training prompts; shots are training prompts."""
    if config.dataset.get("members") is not None:
        raise UserError(f"table=1 covers one data set, but {config.dataset.name} is a mixture: name one with dataset=.")
    training, evaluation = tasks_at_hand(complete(config))
    if training is None:
        return None

    from tfew.costs.cost_report import lengths_as_text, measured_lengths
    from tfew.paper.table_1 import CostLengths

    lengths = measured_lengths(_tokenizer(config), training, evaluation)
    trained, query = lengths["training"], lengths.get("evaluation", lengths["training"])["query"]
    shots = training.rows if config.shots is None else config.shots
    own = CostLengths(query["median"], trained["shot"]["median"], shots, trained["query"]["median"])
    return own, lengths_as_text(lengths)


def _cost_lines(rows: "Mapping[str, CostRow]", printed: bool = True) -> list[str]:
    """Lines of the table; with the paper's lengths, the paper's number beside each of ours."""

    def beside(text: str, width: int) -> str:
        return f"{text:>{width}}" if printed else ""

    head = (
        f"{'':<12}{'inference':>12}{'without query':>15}{beside('printed', 10)}{'training':>11}{beside('printed', 10)}"
    )
    lines = [f"{head}{'disk':>12}{beside('printed', 10)}"]
    for name, row in rows.items():
        without_query = "" if row.context_flops is None else f"{row.context_flops:.3e}"
        inference, training, disk, _ = row.printed
        lines.append(
            f"{name:<12}{row.inference_flops:>12.3e}{without_query:>15}{beside(f'{inference:.1e}', 10)}"
            f"{row.training_flops:>11.3e}{beside(f'{training:.1e}', 10)}"
            f"{row.disk_bytes / 1e3:>9,.1f} kB{beside(disk, 10)}"
        )
    return lines


def _count(config: DictConfig, method_config: DictConfig) -> dict[str, Any]:
    from tfew.methods.base import attach
    from tfew.models.build import build_shape
    from tfew.models.loaded_model import parameter_count
    from tfew.models.method_builder import make_method

    model = build_shape(config)
    total = parameter_count(model)
    method = make_method(resolved(method_config))
    try:
        attach(method, model)
    except UserError as error:
        return {"model": model_name(config), "method": method_config.name, "total": total, "cannot": str(error)}
    return {
        "model": model_name(config),
        "method": method_config.name,
        "trainable": method.stored_count(model),
        "trained": method.trained_count(model),
        "total": total,
        "adapter_bytes": method.stored_bytes(model),
    }


def _counts_as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{rows[0]['model']}: {rows[0]['total']:,} parameters", ""]
    lines.append(f"{'method':<14}{'trainable':>16}{'% of model':>12}{'adapter MB':>12}")
    for row in rows:
        if "cannot" in row:
            lines.append(f"{row['method']:<14}{row['cannot']}")
            continue
        share, megabytes = 100 * row["trainable"] / row["total"], row["adapter_bytes"] / 1e6
        training = f"   {row['trained']:,} while training" if row["trained"] != row["trainable"] else ""
        lines.append(f"{row['method']:<14}{row['trainable']:>16,}{share:>12.4f}{megabytes:>12.2f}{training}")
    return "\n".join(lines)


main = command("cost")(cost)

if __name__ == "__main__":
    main()
