"""Folders of the package and its configurations, without importing Hydra and omegaconf."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
# of an installed package its own folder; in a clone, and so in an editable install, the one beside it
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
