"""The short help, and the reader of settings' comments against OmegaConf's reading of the same files."""

import re

import pytest
from omegaconf import OmegaConf

from tests.test_smoke import COMMANDS
from tfew.environment import help_text
from tfew.environment.config_folder import CONFIGS
from tfew.environment.help_text import FIRST, GROUPS, command_settings, file_settings, options, short_help


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_two_screens_and_explains_each_setting(command: str) -> None:
    lines = short_help(command).splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120
    assert lines[0].endswith(".")
    assert f"  python -m tfew.{command} " in lines[1]
    found = command_settings(command)
    for name in FIRST.get(command, found):
        assert found[name].comment, name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_of_a_file_is_found(command: str) -> None:
    raw = OmegaConf.to_container(OmegaConf.load(CONFIGS / f"{command}.yaml"))
    assert isinstance(raw, dict)

    def leaves(node: object, name: str) -> list[str]:
        if isinstance(node, dict) and node:
            return [leaf for key, value in node.items() for leaf in leaves(value, f"{name}.{key}".lstrip("."))]
        return [name]

    wanted = [name for name in leaves(raw, "") if not name.startswith(("hydra.", "defaults"))]
    assert [setting.name for setting in file_settings(CONFIGS / f"{command}.yaml")] == wanted


def test_comments_and_defaults() -> None:
    found = command_settings("evaluate")
    assert found["batch_size"].comment == "examples per optimiser step, however many micro-batches"  # of train.yaml
    assert found["icl.mode"].default == "none"
    assert found["score.eos"].comment.startswith("include: the end-of-text token of a choice")  # of lines above
    assert found["seed"].comment == "order of the batches, templates, dropout"  # not the heading above it


@pytest.mark.parametrize("command", GROUPS)
def test_groups_have_options(command: str) -> None:
    assert all(options(group) for group in GROUPS[command])
    assert "mini_t0" in options("model")
    assert "raft/overruling" in options("experiment")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("paper", "raft_submit")])
def test_the_examples_compose(command: str) -> None:
    from tfew.config import compose

    found = re.findall(rf"python -m tfew\.{command}((?: \S+=(?:'[^']*'|\S+)| -m)*)", help_text.header(command))
    assert found
    for arguments in found:
        single = [word.partition(",")[0] for word in arguments.split() if word != "-m"]
        compose(*single, config_name=command)
