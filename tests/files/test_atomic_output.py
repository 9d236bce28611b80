"""The output of a conversion: a link to a folder, perhaps on another disk, stays one."""

from pathlib import Path

import pytest

from tfew.files.atomic_output import atomic_replacement, check_output_path


@pytest.mark.parametrize("filled", [False, True])
def test_a_linked_folder_is_written_to(filled: bool, tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    if filled:
        (real / "config.json").write_text("old")
    link.symlink_to(real)
    with atomic_replacement(check_output_path(link, overwrite=filled, folder=True)) as new:
        new.mkdir()
        (new / "config.json").write_text("new")
    assert link.readlink() == real
    assert {path.name: path.read_text() for path in real.iterdir()} == {"config.json": "new"}
    assert [path.name for path in real.parent.iterdir()] == ["real"]
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "link"}
