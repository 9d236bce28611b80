"""The paper's tables from records alone: `python -m tfew.paper table=4 runs=runs`. No torch."""

import json
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from tfew.cli import command
from tfew.errors import UserError
from tfew.paper.render import as_csv, as_latex, as_markdown
from tfew.paper.table import Table, make_table
from tfew.records import RECORD_FILE, RunRecord, load_record, write_atomically

ENDINGS = {"md": as_markdown, "csv": as_csv, "tex": as_latex}


def paper(config: DictConfig) -> Table:
    """Prints the table, and writes it in all forms where `output=` says."""
    table = make_table(str(config.table), finished_runs(Path(config.runs)), config.model)
    if config.json:
        print(json.dumps(asdict(table), indent=1, ensure_ascii=False))
    else:
        print(as_markdown(table))
    if config.output is not None:
        for ending, render in ENDINGS.items():
            write_atomically(Path(config.output) / f"table_{table.number}.{ending}", render(table))
        print(f"written: {config.output}/table_{table.number}.{{{','.join(ENDINGS)}}}")
    return table


def finished_runs(runs: Path) -> list[RunRecord]:
    """The records of all finished runs in a folder; raises UserError where there is none."""
    folders = sorted(path.parent for path in runs.glob(f"*/{RECORD_FILE}"))
    if not folders:
        raise UserError(f"runs={runs} has no finished run: train some first, or say where they are.")
    return [load_record(folder) for folder in tqdm(folders, desc="Records", unit="run", leave=False, mininterval=0.5)]


main = command("paper")(paper)

if __name__ == "__main__":
    main()
