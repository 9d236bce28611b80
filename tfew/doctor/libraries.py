"""Versions of this package and its main dependencies, and the installed extras."""

import os
from collections.abc import Iterator

from tfew.config import CONFIGS
from tfew.environment.versions import installed, misfit, own_version, pip_install, requirements

# its only release declares Python < 3.10, and pins libraries of 2021
PROMPTSOURCE = "pip install --no-deps --ignore-requires-python promptsource==0.2.3"
EXTRAS = ("paper", "plots", "excel", "serve", "gguf", "wandb", "tensorboard", "deepspeed")


def versions() -> dict[str, str]:
    """The output of `tfew --version`: versions of this package and its main dependencies, by name."""
    import platform

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


def extras() -> Iterator[str]:
    """One line per extra."""
    for extra in EXTRAS:
        needed = requirements(extra)
        missing = [requirement for requirement in needed if installed(requirement.name) is None]
        if extra == "paper" and installed("promptsource") is None:
            found = f"missing: {PROMPTSOURCE}"
        elif missing:
            found = f"missing: {pip_install(missing)}"
        else:
            found = ", ".join(f"{requirement.name} {installed(requirement.name)}" for requirement in needed)
        yield f"{'extra ' + extra:<19}{found}"
