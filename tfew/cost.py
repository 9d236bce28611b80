"""What methods train and store on a model's shape, without its weights: `python -m tfew.cost methods=all`.

`table=1` is the paper's table of costs instead, by its formulas.
"""

import json
from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig

from tfew.cli import command
from tfew.config import CONFIGS, checked, compose, resolved
from tfew.errors import UserError, unknown


def cost(config: DictConfig) -> list[dict[str, Any]]:
    """One row per method: `trainable` (what the adapter consists of), `trained` (what training moves), total, bytes."""
    config = checked(config)
    if config.table not in (None, 1):
        raise unknown("table", config.table, (1,), "table=")
    if config.table:
        return _paper_table(config.json)
    if config.methods not in (None, "all"):
        raise unknown("value", config.methods, ("all",), "methods=")
    if config.methods and config.method != compose().method:
        raise UserError("methods=all counts every file of configs/method as it is: leave method= out, or methods=.")
    if config.model.arch is None:
        raise UserError(f"model={config.model.name} has no model.arch to count on; choose a T5-like model=.")
    names = sorted(path.stem for path in CONFIGS.glob("method/*.yaml")) if config.methods else [None]
    rows = [_count(config, config.method if name is None else compose(f"method={name}").method) for name in names]
    if config.json:
        print(json.dumps(rows, indent=1))
    else:
        _print_table(config.model.name, rows)
    return rows


def _paper_table(as_json: bool) -> list[dict[str, Any]]:
    from tfew.paper.table import specs
    from tfew.paper.table_1 import table_1

    rows = table_1()
    found = [{"row": name, **asdict(row)} for name, row in rows.items()]
    if as_json:
        print(json.dumps(found, indent=1))
        return found
    print("Table 1: FLOPs and storage by the paper's formulas, and as it prints them\n")
    print(f"{'':<12}{'inference':>12}{'without query':>15}{'printed':>10}{'training':>11}{'printed':>10}"
          f"{'disk':>12}{'printed':>10}")  # fmt: skip
    for name, row in rows.items():
        alone = "" if row.context_alone_flops is None else f"{row.context_alone_flops:.3e}"
        inference, training, disk, _ = row.printed
        print(f"{name:<12}{row.inference_flops:>12.3e}{alone:>15}{inference:>10.1e}{row.training_flops:>11.3e}"
              f"{training:>10.1e}{row.disk_bytes / 1e3:>9,.1f} kB{disk:>10}")  # fmt: skip
    print("".join(f"\nNote: {note}" for note in specs()["costs"]["notes"]))
    return found


def _count(config: DictConfig, method_config: DictConfig) -> dict[str, Any]:
    from tfew.backbone import shape_of
    from tfew.build import make_method
    from tfew.methods.base import attach

    model = shape_of(resolved(config.model.arch))
    total = sum(parameter.numel() for parameter in model.parameters())
    method = make_method(resolved(method_config))
    try:
        attach(method, model)
    except UserError as error:
        if not config.methods:
            raise
        return {"model": config.model.name, "method": method_config.name, "total": total, "cannot": str(error)}
    return {
        "model": config.model.name,
        "method": method_config.name,
        "trainable": method.stored_count(model),
        "trained": method.trained_count(model),
        "total": total,
        "adapter_bytes": method.stored_bytes(model),
    }


def _print_table(model: str, rows: list[dict[str, Any]]) -> None:
    print(f"{model}: {rows[0]['total']:,} parameters\n")
    print(f"{'method':<14}{'trainable':>16}{'% of model':>12}{'adapter MB':>12}")
    for row in rows:
        if "cannot" in row:
            print(f"{row['method']:<14}{row['cannot']}")
            continue
        share, megabytes = 100 * row["trainable"] / row["total"], row["adapter_bytes"] / 1e6
        training = f"   {row['trained']:,} while training" if row["trained"] != row["trainable"] else ""
        print(f"{row['method']:<14}{row['trainable']:>16,}{share:>12.4f}{megabytes:>12.2f}{training}")


main = command("cost")(cost)

if __name__ == "__main__":
    main()
