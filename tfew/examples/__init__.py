"""Small tables in English, written for this project: `path("support_train")` is the file of one (README.md)."""

from pathlib import Path

from tfew.errors import unknown_value_error

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.csv"))


def path(name: str) -> Path:
    """The file of the table. UserError with the names that there are, if it is none of them."""
    if name not in names():
        raise unknown_value_error("example", name, names(), "tfew.examples.path")
    return FOLDER / f"{name}.csv"
