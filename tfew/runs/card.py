"""The model card of a trained adapter: its run's record as a README.md that can be published unchanged.

Only selected fields of the record are included: the whole configuration contains paths of the machine.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfew.files.hub import hub_id
from tfew.runs.records import RunRecord

CARD_FILE = "README.md"
TAGS = "tags: [tfew, few-shot]"


def is_model_card(path: Path) -> bool:
    """Whether this file was written by `model_card`, and not by a user."""
    return path.is_file() and TAGS in path.read_text(encoding="utf-8", errors="replace").splitlines()[:4]


def model_card(record: RunRecord, in_peft: bool, merges: bool, place: str = "FOLDER") -> str:
    """Markdown; `in_peft`: HF peft has this method; `merges`: it can be merged; `place`: the adapter's location."""
    base = hub_id(record.config["model"]["path"])
    use = _use(record, base, in_peft, merges, place)
    return "\n".join([*_front_matter(base), *_body(record, base), *_numbers(record), *use])


def _front_matter(base: str | None) -> list[str]:
    return ["---", *([f"base_model: {base}"] if base else []), TAGS, "---", ""]


def _body(record: RunRecord, base: str | None) -> list[str]:
    return [
        f"# {record.method} for {record.dataset} on {base or record.model}",
        "",
        "A few-shot adapter made with tfew, an implementation of T-Few (Liu et al. 2022, arXiv 2205.05638).",
        "",
        "| | |",
        "|---|---|",
        f"| base model | {base or record.model + ' (no checkpoint of the Hub)'} |",
        *_noted(record),
        f"| method | {record.method} |",
        f"| trained parameters | {record.parameters['trainable']:,} of {record.parameters['total']:,} |",
        f"| data set | {_data(record)} |",
        f"| training | {record.config['steps']} steps of {record.config['batch_size']} examples,"
        f" loss {record.loss}, seed {record.seed}, {record.seconds['train']:.0f} s{_on(record.hardware)} |",
        f"| adapter | {record.adapter_bytes:,} bytes |",
        *([f"| answers | {scored} |"] if (scored := describe_scoring(record.scoring)) else []),
        f"| run | {record.name} |",
        f"| code | commit {record.git_commit or 'unknown'}, torch {record.versions['torch']},"
        f" transformers {record.versions['transformers']} |",
        "",
    ]


def _on(hardware: Mapping[str, str]) -> str:
    if not hardware:
        return ""
    of_each = {"world_size": "processes", "threads": "threads"}
    numbers = [f"{hardware[key]} {name}" for key, name in of_each.items() if hardware.get(key, "1") != "1"]
    return " on " + ", ".join([hardware["device"], *numbers])


def _noted(record: RunRecord) -> list[str]:
    """Lines on which commits and weights the run used."""
    model = record.config["model"]
    data = (record.config["dataset"].get("hub") or {}).get("commit")
    named = {
        "commit of the base": model.get("commit"),
        "commit of the tokenizer": model.get("tokenizer_commit"),
        "sample of the base's weights (SHA-256)": model.get("weights_sample_sha256"),
        "commit of the data": data,
    }
    return [f"| {name} | {value} |" for name, value in named.items() if value is not None]


def describe_scoring(scoring: Mapping[str, Any]) -> str:
    """How choices are scored (`RunRecord.scoring`), if it differs from T-Few's way; else empty."""
    ways = [
        *(["without their end-of-text"] if scoring.get("eos") == "exclude" else []),
        *(["as answers in the model's chat template"] if scoring.get("chat") else []),
    ]
    return f"scored {', '.join(ways)}" if ways else ""


def _data(record: RunRecord) -> str:
    if record.mixture is None and record.config["shots"] is None:
        return f"{record.dataset}, all {record.config['dataset']['rows']['train']} rows"
    if record.mixture is None:
        return f"{record.dataset}, {record.config['shots']} shots, few-shot seed {record.few_shot_seed}"
    return f"{record.dataset}, a mixture of {', '.join(record.mixture['members'])}"


def _numbers(record: RunRecord) -> list[str]:
    metrics = record.metrics
    if not record.counts:
        start = ": a starting point for few-shot training (`init_adapter=FOLDER`)" if record.mixture else ""
        return [f"Not evaluated{start}.", ""]
    if "label_sets" in metrics:
        return _of_label_sets(record)
    if "members" in metrics:
        rows = [
            f"| {name} | {100 * part['accuracy']:.1f} | {100 * part['chance']:.1f} |"
            for name, part in {**metrics["members"], "mean of members": metrics}.items()
        ]
        return [*_results(record), "| member | accuracy | chance |", "|---|---:|---:|", *rows, ""]
    rows = [
        f"| {name.replace('|', '/')} | {100 * template['accuracy']:.1f} | {template['rows']:,} |"
        for name, template in metrics["templates"].items()
    ]
    return [
        *_results(record),
        "| template | accuracy | rows |",
        "|---|---:|---:|",
        *rows,
        f"| median (IQR) | {100 * metrics['accuracy']:.1f} ({100 * metrics['accuracy_iqr']:.1f}) |"
        f" {record.counts['rows']:,} |",
        f"| chance | {100 * metrics['chance']:.1f} | |",
        *(
            f"| {name} | {100 * scores['accuracy']:.1f} | {record.counts['rows']:,} |"
            for name, scores in metrics.get("baselines", {}).items()
        ),
        "",
    ]


def _of_label_sets(record: RunRecord) -> list[str]:
    """Results for rows that may have several labels."""
    metrics = record.metrics
    where = "held-out folds of the training rows" if record.split == "folds" else f"the {record.split} split"
    others = {"this adapter": metrics, **metrics.get("baselines", {})}
    return [
        "## Results",
        "",
        f"A row may have several labels: a yes/no question for each, on {where}, {record.counts['rows']:,} rows, in"
        " percent. A label is given from its threshold on, chosen on the rows of the other folds.",
        "",
        "| | micro-F1 | macro-F1 | whole set right |",
        "|---|---:|---:|---:|",
        *(
            f"| {name} | {100 * of['f1_micro']:.1f} | {100 * of['f1_macro']:.1f} | {100 * of['accuracy']:.1f} |"
            for name, of in others.items()
        ),
        "",
        "| label | precision | recall | F1 | rows |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {name.replace('|', '/')} | {100 * of['precision']:.1f} | {100 * of['recall']:.1f} |"
            f" {100 * of['f1']:.1f} | {of['rows']:,} |"
            for name, of in metrics["classes"].items()
        ),
        "",
    ]


def _results(record: RunRecord) -> list[str]:
    where = "held-out folds of the training rows" if record.split == "folds" else f"the {record.split} split"
    what = f"Rank classification on {where}, {record.counts['rows']:,} rows, accuracy in percent."
    return ["## Results", "", what, ""]


def _use(record: RunRecord, base: str | None, in_peft: bool, merges: bool, place: str) -> list[str]:
    named = record.config["model"]["name"]
    model = f"model={named}" if named == record.model else f"model.path={base or 'BASE_MODEL'}"
    data = "data=FILE" if record.config["dataset"].get("table") else f"dataset={record.dataset}"
    lines = [
        "## Use",
        "",
        *(["FOLDER is the adapter's, as `tfew.train` left it or `to=tfew` made it.", ""] if place == "FOLDER" else []),
        "```",
        # a published adapter contains its task
        *([] if place == "FOLDER" else [f"python -m tfew.predict adapter={place} input=new.csv output=labels.csv"]),
        f"python -m tfew.evaluate adapter={place} {model} {data}",
    ]
    if merges:
        lines.append(
            f"python -m tfew.convert adapter={place} {model} to=merged output=MERGED   # for Transformers alone"
        )
    if not in_peft:
        return [*lines, "```", ""]
    return [
        *lines,
        f"python -m tfew.convert adapter={place} {model} to=peft output=PEFT       # for HF peft",
        "```",
        "",
        "After conversion for HF peft:",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForSeq2SeqLM  # AutoModelForCausalLM for a decoder-only model",
        "",
        f"model = AutoModelForSeq2SeqLM.from_pretrained({(base or 'BASE_MODEL')!r})",
        'model = PeftModel.from_pretrained(model, "PEFT")',
        "```",
        "",
    ]
