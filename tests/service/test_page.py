"""The page in headless Chromium: by keyboard, wide and narrow, light and dark, with texts that try to be HTML."""

import csv
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.chromium import CONTROL, Chromium, chromium, program, waited_for
from tests.test_predict import trained, unlabelled
from tests.test_train import folder
from tfew.prediction.predictor import Predictor
from tfew.service.app import make_app
from tfew.service.limits import Limits
from tfew.service.metrics import Metrics
from tfew.service.queue import LabelQueue

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="there is no Chromium here (Debian: apt-get install chromium)"),
]
EVIL = '<img src=x onerror="document.title=`broken`"><script>document.title="broken"</script>'
NAMES = {"complaint": "complaint", "entails": f"b {EVIL}"}  # a task's name may hold anything


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    root = tmp_path_factory.mktemp("runs")
    return Predictor.load({name: folder(trained(root, family)) for family, name in NAMES.items()}, "trainer=cpu")


@pytest.fixture
def page(predictor: Predictor, tmp_path: Path) -> Iterator[Chromium]:
    queue = LabelQueue(predictor, 100, 16)
    app = make_app(queue, Metrics(), Limits(20, 20_000, 60.0, ("127.0.0.1",), None))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        waited_for(lambda: server.started, "the server")
        port = server.servers[0].sockets[0].getsockname()[1]
        with chromium(tmp_path) as browser:
            browser.call("Page.navigate", url=f"http://127.0.0.1:{port}/")
            browser.wait_for("document.querySelectorAll('textarea').length > 0")
            yield browser
            browser.call("Runtime.evaluate", expression="0")  # what it has logged by now
            assert browser.logged == []
            assert browser.evaluate("document.title") == "tfew: try your tasks"
    finally:
        server.should_exit = True
        thread.join()
        queue.close()
        queue.join()


def focus(page: Chromium) -> str:
    return str(page.evaluate("document.activeElement.id"))


def tab_to(page: Chromium, name: str) -> None:
    for _ in range(12):
        if focus(page) == name:
            return
        page.press("Tab")
    raise AssertionError(f"Tab does not come to {name}")


def bars(page: Chromium) -> list[dict[str, Any]]:
    """Of each choice its name, its number, and the share of the track that its bar takes."""
    found = page.evaluate(
        "[...document.querySelectorAll('article .choice')].map(choice => ({"
        "name: choice.children[0].innerText, number: choice.children[2].innerText, best: choice.matches('.best'),"
        "share: choice.querySelector('.track > div').offsetWidth / choice.querySelector('.track').offsetWidth}))"
    )
    return list(found)


def test_texts_are_labelled_by_keyboard_alone(page: Chromium, predictor: Predictor) -> None:
    tab_to(page, "task")
    tab_to(page, "field-text")
    texts = [unlabelled("complaint")[number]["text"] for number in (0, 1)]
    page.write("\n".join([texts[0], "", texts[1], EVIL]))
    page.press("Enter", CONTROL)
    page.wait_for("document.querySelectorAll('article').length == 3")
    expected = predictor([{"text": text} for text in (*texts, EVIL)], "complaint")
    shown = bars(page)
    assert [bar["best"] for bar in shown] == [True, False] * 3
    assert [bar["name"] for bar in shown if bar["best"]] == [found.label for found in expected]
    for bar, found in zip(shown[::2], expected, strict=True):
        assert bar["number"] == f"{100 * found.probability:.1f} %"
        assert bar["share"] == pytest.approx(found.probability, abs=0.01)
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    prompts = predictor.tasks["complaint"].prompts(1, {"text": EVIL})
    inputs = page.evaluate("[...document.querySelectorAll('article:last-child pre')].map(pre => pre.textContent)")
    assert inputs == [prompt.input for prompt in prompts]
    assert "ms" in page.text("#took")
    tab_to(page, "send")
    page.press("Enter")
    page.wait_for("!document.getElementById('send').disabled")


def test_a_task_of_several_columns_and_a_hostile_name(page: Chromium, predictor: Predictor) -> None:
    tab_to(page, "task")
    page.press("ArrowDown")
    page.wait_for("document.querySelectorAll('textarea').length > 1")
    row = unlabelled("entails")[0]
    columns = predictor.tasks[NAMES["entails"]].columns
    for column in columns:
        tab_to(page, f"field-{column}")
        page.write(str(row[column]))
    page.press("Enter", CONTROL)
    page.wait_for("document.querySelectorAll('article').length == 1")
    (expected,) = predictor([row], NAMES["entails"])
    assert bars(page)[0]["name"] == expected.label
    assert page.evaluate("document.images.length") == 0


def test_a_file_comes_back_labelled_and_a_bad_one_is_told(page: Chromium, predictor: Predictor, tmp_path: Path) -> None:
    rows = [{"text": row["text"]} for row in unlabelled("complaint")[:25]]
    with open(tmp_path / "mine.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text"])
        writer.writeheader()
        writer.writerows(rows)
    page.give_file("#file", tmp_path / "mine.csv")
    tab_to(page, "upload")
    page.press("Enter")
    result = tmp_path / "mine_labels.csv"
    waited_for(result.exists, "the download")
    with open(result, newline="", encoding="utf-8") as file:
        labelled = list(csv.DictReader(file))
    assert [row["text"] for row in labelled] == [row["text"] for row in rows]
    assert [row["label"] for row in labelled] == [found.label for found in predictor(rows, "complaint")]
    assert page.text("#table-state").startswith("Done in")
    (tmp_path / "bad.csv").write_text("text,other\nonly one\n")
    page.give_file("#file", tmp_path / "bad.csv")
    page.evaluate("document.getElementById('upload').click()")
    page.wait_for("document.getElementById('table-problem').innerText")
    assert "Row 1 (line 2) has 1 cell" in page.text("#table-problem")
    assert "422" in page.logged.pop(), "Chromium logs a refused request"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400, 320])
def test_it_fits_and_can_be_read(page: Chromium, scheme: str, width: int, tmp_path: Path) -> None:
    page.look(width, scheme, phone=width < 500)
    page.evaluate("document.getElementById('field-text').focus()")
    page.write("x" * 300 + "\nthe lemon looks poor.\n" + "long words " * 60)
    page.press("Enter", CONTROL)
    page.wait_for("document.querySelectorAll('article').length == 3")
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("body", ".soft", "button", "h2", "summary", "article p", ".choice span"):
        assert contrast(page, selector) >= 4.5, selector
    if width < 500:  # a finger's width, and letters that a phone does not zoom in on
        for selector in ("select", "#send", "#upload"):
            assert page.evaluate(f"document.querySelector('{selector}').offsetHeight") >= 40
        assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('textarea')).fontSize)") >= 16
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def contrast(page: Chromium, selector: str) -> float:
    """Of a text with what is behind it, after WCAG 2.1; 21 is black on white."""
    script = """(() => {
      let at = document.querySelector(%r), ink = getComputedStyle(at).color, behind = "rgba(0, 0, 0, 0)";
      for (; at && behind === "rgba(0, 0, 0, 0)"; at = at.parentElement) behind = getComputedStyle(at).backgroundColor;
      return [ink, behind].map(color => color.match(/[\\d.]+/g).slice(0, 3).map(Number));
    })()"""
    first, second = (_luminance(color) for color in page.evaluate(script % selector))
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)


def _luminance(rgb: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
