"""The output of a conversion: a file or folder that is written atomically and overwrites nothing unasked."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfew.errors import UserError, shorten_list

# the files of a conversion: overwrite=true replaces only folders that hold nothing else
OWN_FILES = re.compile(
    r"README\.md|adapter(_config|_model)?\.(json|safetensors)|(generation_)?config\.json|model.*\.safetensors(\.index\.json)?"
    r"|(tokenizer|special_tokens_map|added_tokens|vocab|merges|spiece|sentencepiece|chat_template)[\w.]*"
)


def check_output_path(path: Path, overwrite: bool, folder: bool) -> Path:
    """The absolute path; raises UserError if it may not be written to."""
    path = path.resolve()  # a link stays one
    if path.exists() and path.is_dir() != folder:
        raise UserError(f"output={path} is a {'file' if folder else 'folder'}, not a {'folder' if folder else 'file'}.")
    content = list(path.iterdir()) if path.is_dir() else []
    if not overwrite and (content or path.is_file()):
        raise UserError(f"output={path} exists and is not empty: choose another, or set overwrite=true.")
    if foreign := [entry.name for entry in content if entry.is_dir() or not OWN_FILES.fullmatch(entry.name)]:
        raise UserError(
            f"output={path} contains files that no conversion wrote ({shorten_list(foreign, 3)}), which overwrite=true"
            " does not delete: choose another."
        )
    return path


def would_overwrite(first: Path, second: Path) -> bool:
    """Whether writing the first would replace the second: they are the same, or the first contains it."""
    first, second = first.resolve(), second.resolve()
    return first == second or first in second.parents


@contextmanager
def atomic_replacement(target: Path) -> Iterator[Path]:
    """A temporary sibling to write a file or folder to; it replaces the target if no exception is raised."""
    new, old = (target.with_name(f".{target.name}.{secrets.token_hex(4)}.{end}") for end in ("tmp", "old"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield new
        if target.is_dir():
            target.rename(old)
        try:
            os.replace(new, target)
        except OSError:
            if old.is_dir():
                old.rename(target)
            raise
    except OSError as error:
        raise UserError(f"output={target} cannot be written ({error.strerror or error}): choose another.") from error
    finally:
        for left in (new, old):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)
