"""Commands as people start them: processes of their own, with HF_ENDPOINT and an HF_HOME, and no offline mode."""

import os
import subprocess
import sys
from pathlib import Path

from tests.hub.stand_in import StandIn

ROOT = Path(__file__).parents[2]


class Shell:
    """Runs commands; `home` is their HF_HOME."""

    def __init__(self, server: StandIn, home: Path, cwd: Path) -> None:
        self.server, self.home, self.cwd = server, home, cwd

    def __call__(self, module: str, *arguments: str, code: int = 0, **variables: str) -> str:
        """What `python -m tfew.MODULE` wrote; it is to end with this code, and never in a traceback."""
        return self.python("-m", f"tfew.{module}", *arguments, code=code, **variables)

    def python(self, *arguments: str, code: int = 0, **variables: str) -> str:
        command = [sys.executable, *arguments]
        env = self.environment(**variables)
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=self.cwd, check=False, timeout=300)
        written = done.stderr + done.stdout
        assert done.returncode == code, written
        assert "Traceback" not in written
        return written

    def environment(self, **variables: str) -> dict[str, str]:
        left_out = ("HF_HUB_OFFLINE", "HF_TOKEN", "TQDM_DISABLE")
        kept = {name: value for name, value in os.environ.items() if name not in left_out}
        return {
            **kept, "HF_ENDPOINT": self.server.url, "HF_HOME": str(self.home), "PYTHONPATH": str(ROOT), **variables
        }  # fmt: skip

    def run(self) -> Path:
        """The folder of the only training run."""
        (record,) = self.cwd.glob("runs/demo_commits-*/result.json")
        return record.parent
