"""Pictures of a terminal: a download with its bar, a gated model, and a branch that moved after training.

    python -m scripts.drills.hub_pictures evidence/hub        (pip install rich)

Commands run in a pseudo-terminal against the Hub's stand-in, in a temporary folder; their screens are drawn as
download.svg, gated.svg, moved_main.svg.
"""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.hub.repositories import t5, tokenizer_files
from tests.hub.shell import Shell
from tests.hub.stand_in import StandIn
from tests.models import ARCH
from tfew.models.backbone import random_model

COLUMNS, ROWS = 110, 50
CONTROL = re.compile(r"\x1b\[(\d*)(?:;\d+)*([A-Za-z])|\x1b[()][A-Z0-9]|\x1b\][^\x07]*\x07")
HALF_WAY = re.compile(r"model\.safetensors: +[4-7]\d%")
TASK = ("dataset=mini/commits", "few_shot=draw", "model=tiny", "model.path=me/t0", "trainer=cpu")
ROWS_OF_DATA = "dataset.generator.eval=200"
PAUSE_SECONDS = 0.3  # between the tenths of a file, so that there is a bar to see


@dataclass
class Screen:
    """What of a terminal's text is to be seen: carriage return, cursor up, and erased ends of lines count."""

    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0

    def write(self, text: str) -> None:
        place = 0
        while place < len(text):
            if (control := CONTROL.match(text, place)) is not None:
                self._obey(control[2], int(control[1] or 1))
                place = control.end()
                continue
            self._put(text[place])
            place += 1

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
            if self.row == len(self.lines):
                self.lines.append("")
        elif character >= " ":
            if self.column == COLUMNS:
                self._put("\r")
                self._put("\n")
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1

    def _obey(self, letter: str | None, number: int) -> None:
        if letter == "A":
            self.row = max(self.row - number, 0)
        elif letter == "K":
            self.lines[self.row] = self.lines[self.row][: self.column]


def typed(shell: Shell, screen: Screen, command: str, *arguments: str) -> Iterator[str]:
    """Runs a command as if it were typed; after each piece of its output, what the screen shows."""
    screen.write(f"$ tfew {command} {' '.join(arguments)}\r\n")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", f"tfew.{command}", *arguments],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=shell.cwd, env=shell.environment(),
    )  # fmt: skip
    os.close(theirs)
    while part := _read(ours):
        screen.write(part.decode(errors="replace"))
        yield "\n".join(screen.lines)
    os.close(ours)
    process.wait()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def to_the_end(shown: Iterable[str]) -> None:
    for _ in shown:
        pass


def download(shell: Shell) -> str:
    """Half-way: the first screen on which the bar stands between four and eight tenths."""
    arch = {**ARCH, "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 8}
    model = random_model({**arch, "init_seed": 0, "vocab_size": 256, "feed_forward_proj": "gated-gelu"}, 256)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[operator]
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    shell.server.add("models", "me/t0", {**tokenizer_files(), **files})
    shell.server.pause = PAUSE_SECONDS
    screen, half_way = Screen(), ""
    for shown in typed(shell, screen, "evaluate", *TASK, "dataset.generator.eval=8"):
        if HALF_WAY.search(shown) and not half_way:
            half_way = shown
    shell.server.pause = 0.0
    return half_way or "\n".join(screen.lines)


def gated(shell: Shell) -> str:
    shell.server.add("models", "me/t0", t5(), token="hf_good")
    screen = Screen()
    to_the_end(typed(shell, screen, "evaluate", *TASK))
    return "\n".join(screen.lines)


def moved_main(shell: Shell) -> str:
    repository = shell.server.add("models", "me/t0", t5())
    training = ("steps=12", "optimizer.lr=0.1", ROWS_OF_DATA, "run_dir=runs/mine")
    shell("train", *TASK, *training)
    repository.commit(t5(seed=1))
    screen = Screen()
    for more in ((), ("runs=again", "model.revision=main"), ("runs=again", "model.revision=main", "base=any")):
        to_the_end(typed(shell, screen, "evaluate", "adapter=runs/mine", "trainer=cpu", *more))
        screen.write("\r\n")
    return "\n".join(screen.lines)


def as_svg(shown: str, title: str) -> str:
    from rich._export_format import CONSOLE_SVG_FORMAT
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), legacy_windows=False)
    for line in shown.rstrip().splitlines():
        style = "bold" if line.startswith("$ ") else ""
        console.print(Text(line.rstrip(), style=style), soft_wrap=False)
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title=title, code_format=without_fonts)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def check(shown: str, wanted: Sequence[str], hidden: Sequence[str]) -> None:
    """Ends where a picture would not show what it is for, or a path of this machine."""
    if missing := [text for text in wanted if text not in shown]:
        sys.exit(f"Not on the screen: {missing}\n{shown}")
    if told := [text for text in hidden if text in shown]:
        sys.exit(f"A path of this machine is on the screen: {told}\n{shown}")


PICTURES = {
    "download": (download, "A download", ["Downloading me/t0", "%|"]),
    "gated": (gated, "A gated model, without a token", ["its owner asks to accept conditions", "hf auth login"]),
    "moved_main": (
        moved_main,
        "main has moved since training",
        ["another model: ", "belong to that model alone", "base=any", "accuracy"],
    ),
}


def main() -> int:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=list(PICTURES))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        make, title, wanted = PICTURES[name]
        server = StandIn()
        with tempfile.TemporaryDirectory() as place:
            shown = make(Shell(server, Path("hf_home"), Path(place)))
            check(shown, wanted, [place, str(Path.home()), sys.prefix])
        server.shutdown()
        server.server_close()
        (options.folder / f"{name}.svg").write_text(as_svg(shown, title), encoding="utf-8")
        print(f"{name}:\n{shown}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
