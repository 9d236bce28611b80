"""The command `tfew`, also `python -m tfew`: `tfew train +experiment=rte` is `python -m tfew.train +experiment=rte`."""

import os
import sys
from importlib import import_module

COMMANDS = {
    "train": "few-shot training, with (IA)³ or another method, and its evaluation",
    "evaluate": "rank classification with a saved adapter, or with the bare model",
    "predict": "labels and probabilities for new rows",
    "serve": "the same over HTTP, and a page to try it on",
    "preview": "what the model is shown: prompts, choices, tokens, what is cut",
    "cost": "FLOPs and memory of a run, before anything is loaded",
    "convert": "adapters to and from other projects",
    "paper": "the paper's tables and figures, and a report, from finished runs",
    "raft_submit": "predictions for RAFT's hidden test labels",
}
HELP = """\
Few-shot classification with (IA)³, the T-Few recipe.

{}

  tfew train +experiment=demo    a first run, offline, in seconds
  tfew COMMAND --help            a command's settings
  tfew --version                 versions, the device, and where the configurations lie"""


def main() -> None:
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print(HELP.format("\n".join(f"  tfew {command:<13}{what}" for command, what in COMMANDS.items())))
    elif name in ("--version", "-V"):
        print("\n".join(f"{what:<19}{found}" for what, found in versions().items()))
    elif name in COMMANDS:
        sys.argv = [f"tfew {name}", *rest]
        import_module("tfew.paper.__main__" if name == "paper" else f"tfew.{name}").main()
    else:
        from tfew.errors import unknown_value_error

        print(unknown_value_error("command", name, COMMANDS, "tfew COMMAND"), file=sys.stderr)
        sys.exit(2)


def versions() -> dict[str, str]:
    """What `tfew --version` prints: this package and what runs it, by name."""
    import platform

    from tfew.config import CONFIGS
    from tfew.environment.versions import installed, misfit, own_version, requirements

    found = {"tfew": own_version(), "python": platform.python_version()}
    for requirement in requirements():
        if requirement.name in ("torch", "transformers", "pytorch-lightning"):
            wanted = f" (needs {requirement.specifier})" if misfit(requirement) else ""
            found[requirement.name] = f"{installed(requirement.name) or 'not installed'}{wanted}"
    return {**found, "device": _device(), "configs": str(CONFIGS)}


def _device() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch cannot be imported: {error}"
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU with {os.cpu_count()} cores{'; MPS is not used' if torch.backends.mps.is_available() else ''}"


if __name__ == "__main__":
    main()
