"""Screenshots of the service's page and of a run's report: `python -m scripts.screenshots` writes docs/_static/*.png.

Trains on the shipped support messages (minutes), serves the run, and opens both in a browser, light and dark. Requires
`make english` and Chromium (Debian: apt-get install chromium).
"""

import base64
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from tests.chromium import Chromium, chromium, program

ROOT = Path(__file__).parents[1]
STATIC, TABLE = ROOT / "docs" / "_static", ROOT / "tfew" / "examples" / "support_train.csv"
TEXTS = ("Where is my parcel?", "The zip broke on the first day.", "Why was I charged twice for one order?")
WIDTH, REPORT_HEIGHT = 960, 1600  # pixels; the report is longer


def main() -> int:
    if program() is None:
        sys.exit("There is no Chromium here (Debian: apt-get install chromium).")
    tfew = Path(sys.executable).with_name("tfew")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(TABLE, folder)
        settings = ["+experiment=local_english", f"data={TABLE.name}", "text=message", "label=topic", "run_dir=support"]
        subprocess.run([tfew, "train", *settings], cwd=folder, check=True)
        with served(tfew, folder) as address, chromium(folder) as browser:
            for theme in ("light", "dark"):
                browser.look(WIDTH, theme)
                shoot_service(browser, address, STATIC / f"service_{theme}.png")
                browser.call("Page.navigate", url=(folder / "support" / "report.html").as_uri())
                browser.wait_for("document.readyState === 'complete' && document.title")
                shoot(browser, STATIC / f"report_{theme}.png", REPORT_HEIGHT)
    return 0


def shoot_service(browser: Chromium, address: str, path: Path) -> None:
    browser.call("Page.navigate", url=address)
    browser.wait_for("document.querySelectorAll('textarea').length > 0")
    browser.evaluate(f"document.querySelector('textarea').value = {json.dumps(chr(10).join(TEXTS))}")
    browser.evaluate("document.getElementById('send').click()")
    browser.wait_for("document.querySelectorAll('#list article').length > 0")
    shoot(browser, path, browser.evaluate("document.documentElement.scrollHeight"))


def shoot(browser: Chromium, path: Path, height: int) -> None:
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1}
    found = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def served(tfew: Path, folder: Path) -> Iterator[str]:
    """The run behind a free port, until the block ends."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    service = subprocess.Popen([tfew, "serve", "adapter=support", f"port={port}"], cwd=folder)
    address = f"http://127.0.0.1:{port}"

    try:
        while service.poll() is None:
            try:
                urlopen(f"{address}/healthz").close()
                break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        service.terminate()
        service.wait()


if __name__ == "__main__":
    sys.exit(main())
