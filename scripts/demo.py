"""Compares zero-shot, few-shot (IA)³ and others on mini-T0 and the held-out families of the synthetic world.

    python scripts/demo.py demo                  three families, 300 test rows each        (make demo)
    python scripts/demo.py full                  all eight                                 (make demo_full)
    python scripts/demo.py table                 all losses, all test rows; written beside the checkpoint
                                                                                           (make mini_t0_table)
    python scripts/demo.py table init_adapter=FOLDER     also (IA)³ that starts from these vectors
    python scripts/demo.py table records=FILE            the tables again from records.jsonl, without any run
    python scripts/demo.py demo model=tiny steps=2       other settings go to every run

Each run is an ordinary one of tfew.train or tfew.evaluate; finished ones are skipped, so an interrupted comparison
continues. `output=FOLDER` is where tables and figure go; a partial comparison, with `families= seeds=` or other options
or after a failure, goes to runs/NAME_part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from tfew.cli import run_script
from tfew.comparison.numbers import Comparison
from tfew.comparison.plots import draw_accuracies
from tfew.comparison.rows import Row, as_csv, as_json_lines, load_rows
from tfew.comparison.runs import PlannedRun, RunResults, Variant, plan_runs, run_all
from tfew.comparison.tables import accuracy_cells, as_text, report
from tfew.config import checked, compose, local_path
from tfew.errors import UserError, unknown_value_error
from tfew.evaluate import evaluate
from tfew.files.atomic import write_atomically
from tfew.runs.records import RunRecord
from tfew.train import train

SEEDS = (0, 1, 32, 42, 1024)  # the paper's
FAMILIES = ("entails", "commits", "consequence", "ending", "blank", "same_sense", "request", "complaint")
DEMO_FAMILIES = ("consequence", "blank", "complaint")

ZERO_SHOT = Variant("zero-shot", command="evaluate", seeded=False)
IA3 = Variant("(IA)³")
# settings that were chosen, like those of configs/experiment/mini_few_shot.yaml, on the validation families
FULL = Variant("full fine-tuning", ("method=full", "steps=100", "optimizer.lr=3e-4"))
LOSSES = tuple(
    Variant(name, (f"loss={loss}",))
    for name, loss in (("(IA)³ L_LM", "lm"), ("(IA)³ + L_UL", "lm_ul"), ("(IA)³ + L_LN", "lm_ln"))
)
PRETRAINED = "(IA)³ pre-trained"
FILES = ("records.jsonl", "runs.csv", "TABLE.md", "figure.png")


@dataclass(frozen=True)
class Job:
    """A comparison: its experiment (settings that all runs share), families, variants, and where its tables go."""

    title: str
    experiment: str
    families: tuple[str, ...]
    variants: tuple[Variant, ...]
    output: str


JOBS = {
    "demo": Job("mini-T0 on held-out families", "demo", DEMO_FAMILIES, (ZERO_SHOT, IA3, FULL), "runs/demo"),
    "full": Job("mini-T0 on held-out families", "demo", FAMILIES, (ZERO_SHOT, IA3, FULL), "runs/demo_full"),
    "table": Job(
        "mini-T0: losses of the recipe", "mini_few_shot", FAMILIES,
        (ZERO_SHOT, *LOSSES, replace(IA3, name="(IA)³ T-Few"), FULL), "pkg://mini_t0/checkpoint",
    ),
}  # fmt: skip
OWN_OPTIONS = ("output", "records", "init_adapter", "families", "seeds")


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, or 1 where a run failed; raises UserError."""
    if "--help" in arguments:
        print(__doc__)
        return 0
    if not arguments or arguments[0] not in JOBS:
        raise unknown_value_error("comparison", " ".join(arguments[:1]), JOBS, "the first argument of scripts/demo.py")
    own, overrides = _options(arguments[1:])
    job = JOBS[arguments[0]]
    if "records" in own:
        _write(job, load_rows(Path(own["records"])), _output(arguments[0], own, whole=True))
        return 0
    planned = _plan(job, own, overrides)
    checked(compose(*planned[0].overrides, config_name=planned[0].command))  # an error in all of them is reported once
    outcome = run_all(planned, {"train": composed(train, "train"), "evaluate": composed(evaluate, "evaluate")})
    whole = all(override.startswith("runs=") for override in overrides) and not outcome.failures
    if outcome.rows:
        _write(job, outcome.rows, _output(arguments[0], own, whole and not {"families", "seeds"} & own.keys()))
    return _say_failures(outcome, overrides)


def composed(
    command: Callable[[DictConfig], RunRecord], config_name: str
) -> Callable[[Sequence[str]], tuple[RunRecord, Path]]:
    """The command as a function of overrides; it returns the run's folder, too."""

    def run(overrides: Sequence[str]) -> tuple[RunRecord, Path]:
        config = compose(*overrides, config_name=config_name)
        record = command(config)
        return record, Path(config.runs) / record.name

    return run


def _output(name: str, own: dict[str, str], whole: bool) -> Path:
    """`output=`, else the comparison's own folder; one in part, or with other settings, does not take its place."""
    return Path(local_path(own.get("output", JOBS[name].output if whole else f"runs/{name}_part")))


def _options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The script's own KEY=VALUE, and those that go to the runs."""
    pairs = [argument.partition("=") for argument in arguments]
    own = {key: value for key, _, value in pairs if key in OWN_OPTIONS}
    return own, ["".join(pair) for pair in pairs if pair[0] not in OWN_OPTIONS]


def _plan(job: Job, own: dict[str, str], overrides: Sequence[str]) -> list[PlannedRun]:
    variants = job.variants
    if "init_adapter" in own:
        variants = (*variants, Variant(PRETRAINED, (f"init_adapter={own['init_adapter']}",)))
    families = own["families"].split(",") if "families" in own else job.families
    if bad := [family for family in families if family not in FAMILIES]:
        raise unknown_value_error("family", bad[0], FAMILIES, "families=")
    try:
        seeds = [int(seed) for seed in own["seeds"].split(",")] if "seeds" in own else list(SEEDS)
    except ValueError as error:
        raise UserError(f"seeds={own['seeds']} are not whole numbers with commas between, such as 0,1,32.") from error
    common = (f"+experiment={job.experiment}",)
    planned = plan_runs(variants, [f"mini/{family}" for family in families], seeds, common)
    return [replace(run, overrides=(*run.overrides, *overrides)) for run in planned]  # the command line's win


def _write(job: Job, rows: list[Row], output: Path) -> None:
    comparison = Comparison(rows)
    print(f"\n{job.title}: accuracy in percent, median (IQR) over {len(comparison.seeds)} few-shot seeds")
    print(as_text(accuracy_cells(comparison)))
    write_atomically(output / FILES[0], as_json_lines(rows))
    write_atomically(output / FILES[1], as_csv(rows))
    write_atomically(output / FILES[2], report(job.title, comparison))
    draw_accuracies(comparison, output / FILES[3], f"{job.title}: {len(comparison.seeds)} few-shot seeds")
    print(f"  tables and figure: {output}/ ({', '.join(FILES)})")


def _say_failures(outcome: RunResults, overrides: Sequence[str]) -> int:
    made = len(outcome.rows) - outcome.found
    runs = next((override.partition("=")[2] for override in overrides if override.startswith("runs=")), "runs")
    records = f"each run's record: {runs}/NAME/result.json"
    print(f"  {records}; {made} runs made in {outcome.seconds:.0f} s, {outcome.found} were finished before")
    for failure in outcome.failures:
        run = failure.run
        print(f"  FAILED: {run.variant}, {run.dataset}, seed {run.seed}: {failure.error}")
    if outcome.failures:
        print(f"  {len(outcome.failures)} runs failed; the same command tries them again.", flush=True)
    return int(bool(outcome.failures))


if __name__ == "__main__":
    run_script(main)
