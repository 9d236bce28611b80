"""Tasks that one process adds, replaces or removes are changed in all processes before it answers."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.service.running import wait_for
from tfew.errors import UserError
from tfew.service import shared_tasks
from tfew.service.queue import LabelQueue
from tfew.service.shared_tasks import SharedTasks
from tfew.service.tasks import BusyError, LaggingError, ServedTasks


class Texts:
    """In a predictor's place: a task is what the file `text` of its folder says."""

    def __init__(self, tasks: dict[str, str]) -> None:
        self.tasks, self.batch_size = dict(tasks), 4
        self.unreadable: Path | None = None

    def read_task(self, name: str, folder: Any, own_base: bool, replace: bool) -> Any:
        if name in self.tasks and not replace:
            raise UserError(f"There is a task named {name!r} already.")
        path = Path(folder) / "text"
        if Path(folder) == self.unreadable or not path.is_file():
            raise UserError(f"{folder} cannot be read.")
        return SimpleNamespace(task_predictor=SimpleNamespace(answering=None)), path.read_text()

    def put_task(self, name: str, read: Any, replace: bool) -> None:
        self.tasks = {**self.tasks, name: read[1]}

    def remove(self, name: str) -> None:
        self.tasks = {other: text for other, text in self.tasks.items() if other != name}


@pytest.fixture
def manage(tmp_path: Path) -> Path:
    for name in ("base", "one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(f"text of {name}")
    return tmp_path


class Process:
    """What one process has of the service."""

    def __init__(self, manage: Path, member: str, timeout_seconds: float = 20.0) -> None:
        self.texts = Texts({"base": "text of base"})
        self.queue = LabelQueue(self.texts, 10, 4)  # type: ignore[arg-type]
        self.shared = SharedTasks(manage, {"base": manage / "base"}, member)
        self.served = ServedTasks(self.queue, lambda name: manage / name, timeout_seconds, self.shared)

    @property
    def has(self) -> dict[str, str]:
        return self.texts.tasks


@asynccontextmanager
async def processes(manage: Path, *members: str, timeout_seconds: float = 20.0) -> AsyncIterator[list[Process]]:
    found = [Process(manage, member, timeout_seconds) for member in members]
    try:
        async with AsyncExitStack() as stack:
            for process in found:
                await stack.enter_async_context(process.served.kept_up())
            yield found
    finally:
        for process in found:
            process.queue.close()


BASE = {"base": "text of base"}


def test_what_one_changes_all_have_once_it_is_answered(manage: Path) -> None:
    async def story() -> None:
        async with processes(manage, "a", "b", "c") as (a, b, c):
            await a.served.add("task", "one")
            assert a.has == b.has == c.has == {**BASE, "task": "text of one"}
            await b.served.add("task", "two", replace=True)
            assert a.has == b.has == c.has == {**BASE, "task": "text of two"}
            with pytest.raises(UserError, match="already"):
                await c.served.add("task", "one")
            with pytest.raises(UserError, match="cannot be read"):
                await c.served.add("other", "nowhere")
            await c.served.remove("base")
            assert a.has == b.has == c.has == {"task": "text of two"}
            await a.served.add("base", "one")
            assert a.has == b.has == c.has == {"task": "text of two", "base": "text of one"}
            async with processes(manage, "late") as (late,):
                assert late.has == a.has, "also one that starts later"
                await late.served.remove("task")
                assert a.has == b.has == c.has == late.has == {"base": "text of one"}
        assert list((manage / ".tfew" / "members").iterdir()) == []

    asyncio.run(story())


@pytest.mark.parametrize("replaced", ["base", "task", "new"])
def test_what_one_cannot_read_none_has(manage: Path, replaced: str) -> None:
    async def story() -> None:
        async with processes(manage, "a", "b") as (a, b):
            await a.served.add("task", "one")
            before = dict(a.has)
            b.texts.unreadable = manage / "two"
            with pytest.raises(LaggingError, match=r"nothing was changed \(b cannot read it\)"):
                await a.served.add(replaced, "two", replace=True)
            assert a.has == b.has == before
            await a.served.remove("task")
            assert a.has == b.has == BASE, "and they go on"

    asyncio.run(story())


@pytest.mark.parametrize("error", [UserError("away"), TimeoutError(), BusyError()])
def test_what_could_not_be_read_for_a_moment_is_read_later(
    error: Exception, manage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfew.service.tasks.RETRY_SECONDS", 0.1)

    async def story() -> None:
        async with processes(manage, "a") as (a,):
            await a.served.add("task", "one")
        late = Process(manage, "late")
        read, times = late.served._read, 0

        async def once_away(*given: Any) -> Any:
            nonlocal times
            times += 1
            if times <= 2:
                raise error
            return await read(*given)

        late.served._read = once_away  # type: ignore[method-assign]
        try:
            async with late.served.kept_up():
                assert late.has == BASE, "it starts without the task"
                end = asyncio.get_running_loop().time() + 20
                while "task" not in late.has and asyncio.get_running_loop().time() < end:
                    await asyncio.sleep(0.05)
                assert late.has == {**BASE, "task": "text of one"}
        finally:
            late.queue.close()

    asyncio.run(story())


def test_one_that_does_not_follow_is_waited_for_and_one_that_has_ended_is_not(
    manage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with processes(manage, "a", timeout_seconds=0.5) as (a,):
            stuck = SharedTasks(manage, {}, "stuck")
            stuck.acknowledge("long ago")
            with pytest.raises(LaggingError, match="stuck has not loaded it yet"):
                await a.served.add("task", "one")
            assert a.has == BASE
            old = os.stat(manage).st_mtime - shared_tasks.SILENT_SECONDS - 100
            os.utime(manage / ".tfew" / "members" / "stuck", (old, old))
            await a.served.add("task", "one")
            assert a.has == {**BASE, "task": "text of one"}

    asyncio.run(story())


def test_two_changes_at_once_are_one_and_a_refusal(manage: Path) -> None:
    async def story() -> None:
        async with processes(manage, "a", "b") as (a, b):
            both = await asyncio.gather(
                a.served.add("task", "one"), b.served.add("task", "two"), return_exceptions=True
            )
            refused = [error for error in both if error is not None]
            assert len(refused) == 1
            assert isinstance(refused[0], BusyError)
            with a.shared.changing(), pytest.raises(BusyError):
                await b.served.remove("task")
            assert a.has == b.has
            assert a.has["task"] in ("text of one", "text of two")

    asyncio.run(story())


def test_without_its_file_there_is_what_adapters_names(manage: Path) -> None:
    async def story() -> None:
        async with processes(manage, "a", "b") as (a, b):
            await a.served.add("task", "one")
            await a.served.remove("base")
            (manage / ".tfew" / "tasks.json").unlink()
            for _ in range(200):
                if a.has == b.has == BASE:
                    break
                await asyncio.sleep(0.05)
            assert a.has == b.has == BASE

    asyncio.run(story())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": "x", "added": {"a": 1}, "removed": []}', "\0"])
def test_a_file_that_is_none_is_told(manage: Path, text: str) -> None:
    shared = SharedTasks(manage, {})
    (manage / ".tfew" / "tasks.json").write_text(text)
    with pytest.raises(UserError, match=r"tasks.json cannot be read .*delete it"):
        shared.read()
    (manage / ".tfew" / "tasks.json").unlink()
    os.mkfifo(manage / ".tfew" / "tasks.json")
    with pytest.raises(UserError, match="no regular file"):
        shared.read()


def test_it_leads_nowhere_else_and_says_where_it_cannot_write(manage: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (manage / ".tfew").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="it is a link"):
        SharedTasks(manage, {})
    (manage / ".tfew").unlink()
    (manage / ".tfew").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        SharedTasks(manage, {})


def test_a_change_that_was_given_up_is_not_made_later() -> None:
    """The queue runs what waits in between two batches; whoever no longer waits for it does not want it."""
    texts, ran = Texts({}), []
    queue = LabelQueue(texts, 10, 4)  # type: ignore[arg-type]

    async def story() -> None:
        busy = asyncio.create_task(queue.call(lambda: wait_for(lambda: ran)))
        await asyncio.sleep(0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.call(lambda: ran.append("given up")), 0.05)
        ran.append("waited for")
        await busy
        await queue.call(lambda: ran.append("next"))

    asyncio.run(story())
    assert ran == ["waited for", "next"]
    queue.close()
