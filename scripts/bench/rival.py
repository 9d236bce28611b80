"""lm-evaluation-harness as a process in its own environment, created on first use."""

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from tfew.data.tokenization import shot_text
from tfew.schema import Prompt

VERSION = "0.4.13"
ENVIRONMENT = Path(".venv-harness")
SCRIPT = Path(__file__).with_name("harness.py")


class Harness:
    """Scores prompts with a model that lies in a folder; the process stays, so that its start is not measured."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path, is_encoder_decoder: bool) -> None:
        self.process, self.folder, self.is_encoder_decoder = process, folder, is_encoder_decoder

    def seconds(self, prompts: Sequence[Prompt]) -> float:
        return self.score(prompts)[0]

    def score(self, prompts: Sequence[Prompt]) -> tuple[float, list[float]]:
        """Seconds, and one sum of log-probabilities for each choice of each prompt."""
        space = "" if self.is_encoder_decoder else " "  # before the choice that continues a text
        pairs = [(_shown(prompt), f"{space}{choice}") for prompt in prompts for choice in prompt.choices]
        (self.folder / "requests.json").write_text(json.dumps(pairs), encoding="utf-8")
        assert self.process.stdin is not None
        self.process.stdin.write("requests.json\n")
        self.process.stdin.flush()
        answer = json.loads(self._line())
        return answer["seconds"], answer["scores"]

    def _line(self) -> str:
        assert self.process.stdout is not None
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"lm-evaluation-harness ended with {self.process.wait()}; see its messages above.")
        return line


@contextmanager
def harness(model: Any, tokenizer: Any) -> Iterator[Harness]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        process = subprocess.Popen(
            [str(_environment() / "bin" / "python"), str(SCRIPT), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        rival = Harness(process, folder, model.config.is_encoder_decoder)
        try:
            rival._line()
            yield rival
        finally:
            process.kill()
            process.wait()


def _shown(prompt: Prompt) -> str:
    return "".join(shot_text(*shot) for shot in prompt.shots) + prompt.input


def _environment() -> Path:
    ready = ENVIRONMENT / ".ready"
    if not ready.is_file():
        print(f"Installing lm-evaluation-harness {VERSION} into {ENVIRONMENT}/ (some minutes, once) ...", flush=True)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        versions = [f"torch=={torch.__version__.partition('+')[0]}", f"transformers=={transformers.__version__}"]
        subprocess.run(
            [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "--quiet", f"lm_eval[hf]=={VERSION}",
             *versions],
            check=True, stdout=sys.stderr,
        )  # fmt: skip
        ready.touch()
    return ENVIRONMENT
