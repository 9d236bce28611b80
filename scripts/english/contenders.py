"""The contenders: each is a run of tfew, or a text classifier."""

from dataclasses import dataclass

COMMONEST, WORDS, EMBEDDINGS, SETFIT = "commonest label", "TF-IDF + LR", "MiniLM + LR", "SetFit"
SETFIT_BALANCED = "SetFit, balanced head"
TRAINED, LM_ONLY = "(IA)³", "(IA)³, L_LM"


@dataclass(frozen=True)
class Contender:
    """`overrides` of a run of `command`, beside the experiment's; a classifier has no command.

    `seeded` False: rows to train on and seeds change nothing. `sets`: None for all of them. `in_folds`: also run on
    sets in folds, each of which is several runs.
    """

    name: str
    command: str | None = None
    overrides: tuple[str, ...] = ()
    seeded: bool = True
    sets: tuple[str, ...] | None = None
    in_folds: bool = True


def in_context(shots: int, method: str = "direct", in_folds: bool = False) -> Contender:
    name = f"in context, {shots}" + ("" if method == "direct" else f", {method}")
    shown = ("few_shot=draw", f"shots={shots}", "icl.mode=concat", f"score.method={method}")
    return Contender(name, "evaluate", shown, in_folds=in_folds)


FOUR = ("RTE", "AG News", "TREC", "Rotten Tomatoes")  # on which expensive contenders are tried
CONTENDERS = (
    Contender(COMMONEST),
    Contender(WORDS),
    Contender("zero-shot", "evaluate", seeded=False),
    Contender(TRAINED, "train"),
    Contender(EMBEDDINGS),
    Contender(SETFIT),
    in_context(4, in_folds=True),
    in_context(16),
    in_context(4, "calibrated"),
    in_context(16, "calibrated"),
    Contender(LM_ONLY, "train", ("loss=lm",), in_folds=False),
    in_context(1),
    *(Contender(f"{TRAINED}, {dtype}", "train", (f"model.dtype={dtype}",), sets=FOUR) for dtype in ("int8", "nf4")),
    Contender(SETFIT_BALANCED, sets=FOUR),
    Contender("LoRA", "train", ("method=lora", "steps=100", "optimizer=adamw", "optimizer.lr=1e-3"), sets=FOUR),
    Contender("full fine-tuning", "train", ("method=full", "optimizer=adamw", "optimizer.lr=3e-5"), sets=FOUR),
)

# +experiment=local_english is the best of these on three sets that the comparison does not use
CANDIDATES = (
    Contender("lr 3e-3, 60 steps", "train", ("optimizer.lr=3e-3", "steps=60")),
    Contender("lr 1e-2, 60 steps", "train", ("optimizer.lr=1e-2", "steps=60")),
    Contender("lr 3e-2, 60 steps", "train", ("optimizer.lr=3e-2", "steps=60")),
    Contender("lr 1e-2, 120 steps", "train", ("optimizer.lr=1e-2", "steps=120")),
    Contender("lr 3e-2, 120 steps", "train", ("optimizer.lr=3e-2", "steps=120")),
    Contender("lr 1e-2, 60 steps, without end-of-text", "train",
              ("optimizer.lr=1e-2", "steps=60", "score.eos=exclude")),
    Contender("lr 1e-2, 60 steps, as a chat", "train", ("optimizer.lr=1e-2", "steps=60", "prompt.chat=true")),
    Contender("lr 1e-2, 60 steps, L_LM", "train", ("optimizer.lr=1e-2", "steps=60", "loss=lm")),
)  # fmt: skip
