"""The command `tfew`, also `python -m tfew`: `tfew train +experiment=rte` is `python -m tfew.train +experiment=rte`."""

import sys
from importlib import import_module

COMMANDS = {
    "train": "few-shot training with (IA)³ or another method, and evaluation",
    "evaluate": "rank classification with a saved adapter or the bare model",
    "predict": "label new rows, with probabilities",
    "serve": "label texts over HTTP, with a web page",
    "preview": "show the model's inputs: prompts, choices, tokens, truncation",
    "cost": "FLOPs and memory of a run, without loading weights",
    "convert": "convert adapters to and from other formats",
    "paper": "the paper's tables and figures, and a report, from finished runs",
    "raft_submit": "predictions for RAFT's hidden test labels",
    "doctor": "versions, device, memory, Hub access and trainable models, for bug reports",
}
PACKAGES = ("paper", "doctor")  # commands that are packages
WITH_FLAGS = ("doctor",)  # instead of settings
HELP = """\
Few-shot classification with (IA)³, the T-Few recipe.

{}

  tfew train +experiment=demo    a first run, offline, in seconds
  tfew COMMAND --help            settings of a command
  tfew --version                 versions, device, and the path of the configuration files"""


def main() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(HELP.format("\n".join(f"  tfew {command:<13}{what}" for command, what in COMMANDS.items())))
    elif name in ("--version", "-V"):
        from tfew.doctor.libraries import versions

        print("\n".join(f"{what:<19}{found}" for what, found in versions().items()))
    elif name in COMMANDS:
        sys.argv = [f"tfew {name}", *rest]
        if name not in WITH_FLAGS:
            from tfew.environment.command_line import check_command_line

            check_command_line(name)  # here already: importing the command takes as long again
        import_module(f"tfew.{name}.__main__" if name in PACKAGES else f"tfew.{name}").main()
    else:
        from tfew.errors import unknown_value_error

        print(unknown_value_error("command", name, COMMANDS, "tfew COMMAND"), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
