"""Screenshots of the service's page and of a run's report: `python docs/screenshots.py` writes docs/_static/*.png.

Trains on the shipped support messages (minutes), serves the run, and drives a browser, light and dark. It needs
`make english`, `pip install playwright`, and a Chromium: CHROMIUM=PATH names one (default /usr/bin/chromium).
"""

import os
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

from playwright.sync_api import Page, sync_playwright  # type: ignore[import-not-found]

STATIC = Path(__file__).parent / "_static"
TABLE = Path(__file__).parents[1] / "tfew" / "examples" / "support_train.csv"
TEXTS = ("Where is my parcel?", "The zip broke on the first day.", "Why was I charged twice for one order?")
WIDTH, REPORT_HEIGHT = 860, 1500  # pixels


def main() -> None:
    tfew = Path(sys.executable).with_name("tfew")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(TABLE, folder)
        settings = ["+experiment=local_english", f"data={TABLE.name}", "text=message", "label=topic", "run_dir=support"]
        subprocess.run([tfew, "train", *settings], cwd=folder, check=True)
        with served(tfew, folder) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"))
            for theme in ("light", "dark"):
                size = {"width": WIDTH, "height": 800}
                page = browser.new_context(viewport=size, color_scheme=theme).new_page()
                shoot_service(page, address, STATIC / f"service_{theme}.png")
                page.goto((folder / "support" / "report.html").as_uri())
                page.set_viewport_size({"width": WIDTH, "height": REPORT_HEIGHT})
                page.screenshot(path=STATIC / f"report_{theme}.png")
            browser.close()


def shoot_service(page: Page, address: str, path: Path) -> None:
    page.goto(address)
    page.fill("textarea", "\n".join(TEXTS))
    page.click("#send")
    page.wait_for_selector("#list article")
    page.screenshot(path=path, full_page=True)


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
    main()
