"""All architectures of the tests: where (IA)³ and LoRA are, how they are scored, and differences from transformers.

    python -m scripts.drills.backbones          writes evidence/backbones.md

Tiny random models of transformers' own classes (`tests/architectures.py`); "difference" is the largest difference of a
token's log-probability from scoring one unpadded sequence at a time, for both engines, with inputs beyond every window.
"""

import logging
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers

from tests.architectures import NAMES, tiny
from tests.scoring.test_architectures import long_batch, one_at_a_time
from tfew.errors import UserError
from tfew.methods.base import attach
from tfew.methods.ia3 import IA3
from tfew.methods.lora import LoRA
from tfew.placement.places import FEED_FORWARD, Place
from tfew.placement.report import whole_layers
from tfew.placement.structure import layers
from tfew.scoring.score import scoring_mode, token_logprob, way_of_scoring

TARGET = Path(__file__).parents[2] / "evidence" / "backbones.md"
HEAD = """# Architectures: placement and scores

`python -m scripts.drills.backbones`: tiny random models of the installed transformers' classes, seeded.

"kv" and "ff": the layers whose outputs (or inputs, `in`) (IA)³ scales for keys and values and for the feed-forward;
`part`: some outputs of a fused matrix; `heads`: what a norm of keys gives; `experts`: the inner activation of each
expert. "layers": with keys and values, with a feed-forward, of all. "LoRA": matrices, and modules of experts.
"difference": see the script.

| architecture | kv | ff | layers | LoRA | engine | difference | HF peft, (IA)³ |
|---|---|---|---|---:|---|---:|---|
"""


def row(name: str) -> str:
    model: Any = tiny(name)
    found = layers(model)
    places: list[Place] = []
    covered, lora, peft = "refused", "refused", "-"
    try:
        partial = _is_partial(model)
        places = IA3(partial=partial).places(model)
        covered = f"{sum(x.has_keys for x in found)}, {sum(bool(x.feed_forwards) for x in found)} of {len(found)}"
        covered += " (partial)" if partial else ""
        lora = str(len(LoRA(4, 0.01, layer_norms=False, partial=partial).choice.names(model)))
        peft = _in_peft(tiny(name), partial)
    except UserError:
        pass
    engine, difference = _scores(model)
    keys = _short(place for place in places if place.role != FEED_FORWARD)
    inner = _short(place for place in places if place.role == FEED_FORWARD)
    return f"| {name} | {keys} | {inner} | {covered} | {lora} | {engine} | {difference} | {peft} |"


def _is_partial(model: Any) -> bool:
    """Whether some layer lacks its share; raises UserError where all do."""
    whole_layers(model, partial=True)
    try:
        whole_layers(model, partial=False)
    except UserError:
        return True
    return False


def _in_peft(model: Any, partial: bool) -> str:
    method = IA3(partial=partial)
    attach(method, model)
    try:
        method.to_peft(model)
    except UserError:
        return "only at places of its own"
    return "both ways"


def _scores(model: Any) -> tuple[str, str]:
    batch = long_batch()
    try:
        with scoring_mode(model):
            expected = one_at_a_time(model, batch)
            scores = [token_logprob(model, batch, engine) for engine in ("fast", "plain")]
            way = way_of_scoring(model, batch, "fast")
    except (UserError, AttributeError):  # the second: a class of transformers that needs images
        return "refused", "-"
    return way, f"{max((score - expected).abs().max().item() for score in scores):.1e}"


def _short(places: Iterable[Place]) -> str:
    marks = {"outputs": "", "inputs": " in", "some outputs": " part", "shared heads": " heads", "heads": " heads"}
    names = {f"{p.module.rpartition('.')[2]}{marks.get(p.scales, ' experts')}" for p in places}
    return ", ".join(sorted(names)).replace("experts experts", "experts") or "-"


def main() -> None:
    logging.disable(logging.INFO)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    rows = []
    for number, name in enumerate(NAMES, 1):
        print(f"\r{number} of {len(NAMES)} {name:<30}", end="", file=sys.stderr)
        rows.append(row(name))
    print(file=sys.stderr)
    TARGET.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
