"""The tasks of this process: changed between batches, and kept in sync with all processes.

Adapters are read in a separate thread: one that is slow, or never ends, does not stop labelling.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tfew.errors import UserError
from tfew.service.futures import resolve, try_call
from tfew.service.queue import LabelQueue
from tfew.service.shared_tasks import BASE, CANNOT_READ, AddedTask, LockedError, SharedState, SharedTasks

log = logging.getLogger(__name__)

T = TypeVar("T")
POLL_SECONDS = 0.2
ALIVE_SECONDS = 2.0  # between heartbeats
UNDO_SECONDS = 2.0  # time for undoing a change that one process cannot apply
RETRY_SECONDS = 30.0  # between attempts to read a task that could not be read


class BusyError(Exception):
    """Another adapter is being read, or another process is changing the tasks."""


class LaggingError(Exception):
    """Another process has not applied a change in time; it is undone."""


class TaskLoader:
    """Runs one function at a time, in a daemon thread: a hanging reader does not keep the process from ending."""

    def __init__(self) -> None:
        self._free = threading.Lock()

    async def run(self, function: Callable[[], T]) -> T:
        """Raises BusyError, or what the function raises; if cancelled, the thread stays busy until it is done."""
        if not self._free.acquire(blocking=False):
            raise BusyError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        threading.Thread(target=self._work, args=(function, loop, future), name="task loader", daemon=True).start()
        return await future

    def _work(self, function: Callable[[], T], loop: asyncio.AbstractEventLoop, future: "asyncio.Future[T]") -> None:
        result, error = try_call(function)
        self._free.release()
        resolve(loop, future, result, error)


class ServedTasks:
    """`find_folder`: resolves the folder of an added task, relative to the managed one.

    Without `shared`, changes affect only this process, and are lost when it ends.
    """

    def __init__(
        self,
        queue: LabelQueue,
        find_folder: Callable[[str], Path],
        timeout_seconds: float,
        shared: SharedTasks | None = None,
    ) -> None:
        self._queue, self._find_folder, self._timeout_seconds, self._shared = (
            queue, find_folder, timeout_seconds, shared,
        )  # fmt: skip
        self._loader = TaskLoader()
        self._versions = dict.fromkeys(shared.base if shared is not None else [], BASE)  # of the loaded tasks
        self._version: str | None = None  # of all of them; None: not read yet
        self._followed = self._tried = time.monotonic()
        self._failed: set[str] = set()
        self._following = asyncio.Lock()

    async def add(self, name: str, folder: str, replace: bool = False) -> None:
        """Raises UserError, BusyError, LaggingError or TimeoutError; then nothing has changed."""
        with self._changing():
            state = await self._current()
            read = await self._read(name, self._find_folder(folder), replace)
            if self._shared is None:
                return await self._put(name, read, replace)
            changed = state.with_task(name, folder)
            await self._publish(state, changed, name, lambda: self._put(name, read, replace))

    async def remove(self, name: str) -> None:
        with self._changing():
            state = await self._current()
            if self._shared is None:
                return await self._take_out(name)
            await self._publish(state, state.without_task(name), name, lambda: self._take_out(name))

    @asynccontextmanager
    async def kept_up(self) -> AsyncIterator[None]:
        """Inside, this process stays in sync with the changes of others. Raises UserError for a bad file."""
        if self._shared is None:
            yield
            return
        self._shared.acknowledge("joining")  # from now on changes wait for this process
        while (state := self._shared.read()).version != self._version:
            await self._follow(state, starting=True)
        keeping = asyncio.create_task(self._keep_up(self._shared))
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            self._shared.leave()

    async def _keep_up(self, shared: SharedTasks) -> None:
        said, alive = "", time.monotonic()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                state = await asyncio.to_thread(shared.read)
                if state.version != self._version:
                    await self._follow(state)
                elif time.monotonic() - self._followed > UNDO_SECONDS:
                    for name in self._failed & self._versions.keys():  # an earlier version of the task still answers
                        await self._take_out(name)
                if self._failed and time.monotonic() - self._tried > RETRY_SECONDS:
                    await self._retry(state)
                if time.monotonic() - alive > ALIVE_SECONDS:
                    await asyncio.to_thread(shared.acknowledge, str(self._version), self._failed)
                    alive = time.monotonic()
                said = ""
            except Exception as error:  # the next round may succeed
                if str(error) != said:
                    log.warning(f"Task changes in other processes cannot be read: {error}")
                said = str(error)

    async def _current(self) -> SharedState:
        """The current state, after applying the changes of others."""
        if self._shared is None:
            return SharedState()
        state = await asyncio.to_thread(self._shared.read)
        await self._follow(state)
        return state

    async def _follow(self, state: SharedState, starting: bool = False) -> None:
        """Adds, replaces and removes tasks to match the state; unreadable ones are left out, at the start slow ones,
        too, which `_keep_up` waits for."""
        assert self._shared is not None
        async with self._following:
            if state.version == self._version:
                return
            wanted = state.wanted(self._shared.base)
            self._failed = set()
            for name in [name for name in self._versions if name not in wanted]:
                await self._take_out(name)
            for name, version in wanted.items():
                if self._versions.get(name) != version:
                    await self._follow_one(name, version, state.added.get(name), leaves_slow_out=starting)
                    await asyncio.to_thread(self._shared.acknowledge, str(self._version), self._failed)  # heartbeat
            self._version = state.version
            self._followed = self._tried = time.monotonic()
            await asyncio.to_thread(self._shared.acknowledge, state.version, self._failed)

    async def _retry(self, state: SharedState) -> None:
        """Reads the tasks again that could not be read, such as from a folder that was away for a moment."""
        assert self._shared is not None
        async with self._following:
            if state.version == self._version:
                wanted = state.wanted(self._shared.base)
                for name in sorted(self._failed & wanted.keys()):
                    await self._follow_one(name, wanted[name], state.added.get(name), leaves_slow_out=True)
            self._tried = time.monotonic()

    async def _follow_one(self, name: str, version: str, added: AddedTask | None, leaves_slow_out: bool) -> None:
        assert self._shared is not None
        try:
            folder = self._shared.base[name] if added is None else self._find_folder(added.folder)
            await self._put(name, await self._read(name, folder, True), True, version)
            self._failed.discard(name)
        except (UserError, TimeoutError, BusyError) as error:
            if not (leaves_slow_out or isinstance(error, UserError)):
                raise
            if name not in self._failed:
                slow = f"it takes longer than {self._timeout_seconds:g} s (timeout_seconds=)"
                why = "another one is still being read" if isinstance(error, BusyError) else str(error) or slow
                log.warning(f"The task {name!r} cannot be read as it was changed over HTTP: {why}")
            self._failed.add(name)

    async def _publish(self, before: SharedState, after: SharedState, name: str, apply: Callable[[], Any]) -> None:
        """Writes the new state, applies it here, and waits until all processes have it; otherwise undoes it."""
        assert self._shared is not None
        async with self._following:
            await asyncio.to_thread(self._shared.write, after)
            try:
                await apply()
            except BaseException:
                await asyncio.to_thread(self._shared.write, before.again())
                raise
            if name in self._versions:
                self._versions[name] = after.version
            self._version = after.version
            await asyncio.to_thread(self._shared.acknowledge, after.version)
        end = time.monotonic() + self._timeout_seconds
        while lagging := await asyncio.to_thread(self._shared.lagging, after.version, name):
            member, why = next(iter(lagging.items()))
            if CANNOT_READ in lagging.values() or time.monotonic() > end:
                await self._undo(before.again())
                raise LaggingError(
                    f"Not every process can load the task {name!r}: nothing was changed ({member} {why})."
                )
            await asyncio.sleep(POLL_SECONDS / 4)

    async def _undo(self, state: SharedState) -> None:
        """Also for the others, as far as they follow."""
        assert self._shared is not None
        await asyncio.to_thread(self._shared.write, state)
        await self._follow(state)
        end = time.monotonic() + UNDO_SECONDS
        while time.monotonic() < end:
            lagging = await asyncio.to_thread(self._shared.lagging, state.version)
            if not lagging:
                break
            await asyncio.sleep(POLL_SECONDS / 4)

    async def _read(self, name: str, folder: str | Path, replace: bool) -> Any:
        predictor = self._queue.predictor

        def read() -> Any:
            task, scalings = predictor.read_task(name, folder, own_base=True, replace=replace)
            _ = task.task_predictor.answering  # computed here, in the loader's thread, for the description of the task
            return task, scalings

        return await asyncio.wait_for(self._loader.run(read), self._timeout_seconds)

    async def _put(self, name: str, read: Any, replace: bool, version: str = BASE) -> None:
        await self._between_batches(lambda: self._queue.predictor.put_task(name, read, replace))
        self._versions[name] = version

    async def _take_out(self, name: str) -> None:
        await self._between_batches(lambda: self._queue.predictor.remove(name))
        self._versions.pop(name, None)

    async def _between_batches(self, function: Callable[[], Any]) -> None:
        await asyncio.wait_for(self._queue.call(function), self._timeout_seconds)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        if self._shared is None:
            yield
            return
        try:
            with self._shared.changing():
                yield
        except LockedError:
            raise BusyError from None
