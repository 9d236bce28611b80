"""Turns of clients, cancelled rows, and detection of a stuck worker."""

import asyncio
import itertools
from typing import Any

import pytest

from tests.service.stubs import Recorder
from tfew.service.queue import ClosedError, FullError, LabelQueue


def queue_of(predictor: Any, max_waiting: int = 100, batch_rows: int = 8) -> LabelQueue:
    return LabelQueue(predictor, max_waiting, batch_rows)


def rows(name: str, number: int) -> list[tuple[str | None, Any]]:
    return [("t", f"{name}{place}") for place in range(number)]


def test_who_asks_for_one_row_does_not_wait_for_anothers_thousand() -> None:
    recorder = Recorder(go=False)
    queue = queue_of(recorder)

    async def story() -> list[Any]:
        with queue.accept():
            greedy = [asyncio.create_task(queue.label(rows(f"{n}-", 20), "greedy")) for n in range(4)]
            await asyncio.sleep(0.05)  # its first rows are in a batch
            modest = [asyncio.create_task(queue.label(rows(name, 1), name)) for name in ("b", "c")]
            await asyncio.sleep(0)
            recorder.go.set()
            return await asyncio.gather(*greedy, *modest)

    answers = asyncio.run(story())
    queue.close()
    queue.join()
    assert [len(found) for found in answers] == [20] * 4 + [1] * 2
    assert {"b0", "c0"} <= set(recorder.batches[1])
    assert all(len(batch) <= 8 for batch in recorder.batches)
    seen = [row for batch in recorder.batches for row in batch if row not in ("b0", "c0")]
    assert seen == [f"{n}-{place}" for n in range(4) for place in range(20)], "one client's in their order"


@pytest.mark.parametrize("as_row", [str, lambda text: {"text": text, "number": 1}])
def test_long_texts_do_not_keep_the_others_waiting(as_row: Any) -> None:
    """All of a text is tokenised, so a batch has some characters of each client, and of one row if it is longer."""
    recorder = Recorder(go=False)
    queue, long = queue_of(recorder, batch_rows=100), 2**20 - 10

    async def story() -> None:
        with queue.accept():
            asked = [asyncio.create_task(queue.label([("t", as_row("x" * long)) for _ in range(5)], "greedy"))]
            await asyncio.sleep(0.05)
            middle = [("t", as_row("y" * 10_000)) for _ in range(90)]
            others = (("middle", middle), ("b", rows("b", 1)), ("none", []))
            asked += [asyncio.create_task(queue.label(of_other, name)) for name, of_other in others]
            await asyncio.sleep(0)
            recorder.go.set()
            assert [len(found) for found in await asyncio.gather(*asked)] == [5, 90, 1, 0]

    asyncio.run(story())
    queue.close()
    queue.join()
    sizes = [[len(row if isinstance(row, str) else row["text"]) for row in batch] for batch in recorder.batches]
    assert 2 in sizes[2], "the batch before has a row of each of the others"
    assert max(map(sum, sizes)) < 2 * 2**20
    assert sorted(itertools.chain(*sizes)) == [2, *[10_000] * 90, *[long] * 5]


def test_one_client_cannot_fill_the_queue_for_the_others() -> None:
    recorder = Recorder(go=False)
    queue = queue_of(recorder, max_waiting=40)

    async def story() -> None:
        with queue.accept():
            waiting = [asyncio.create_task(queue.label(rows("a", 20), "greedy")) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(FullError):
                await queue.label(rows("a", 1), "greedy")
            waiting += [asyncio.create_task(queue.label(rows(name, 15), name)) for name in ("b", "c")]
            await asyncio.sleep(0)
            with pytest.raises(FullError):
                await queue.label(rows("b", 15), "b")
            assert queue.unanswered == 70
            with pytest.raises(FullError):
                await queue.label(rows("d", 15), "d")  # twice max_waiting, whoever asks
            recorder.go.set()
            await asyncio.gather(*waiting)

    asyncio.run(story())
    queue.close()
    queue.join()
    assert queue.unanswered == 0


def test_rows_whose_client_has_gone_are_not_labelled() -> None:
    recorder = Recorder(go=False)
    queue = queue_of(recorder)

    async def story() -> None:
        with queue.accept():
            waiting = [asyncio.create_task(queue.label(rows(name, 20), name)) for name in ("a", "b")]
            await asyncio.sleep(0.05)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert queue.unanswered == len(recorder.batches[0])
            recorder.go.set()

    asyncio.run(story())
    queue.close()
    queue.join()
    assert len(recorder.batches) == 1
    assert queue.unanswered == 0


def test_the_age_of_the_oldest_row_and_of_the_batch() -> None:
    recorder = Recorder(go=False)
    queue = queue_of(recorder)
    assert (queue.oldest_seconds, queue.busy_seconds) == (0, 0)

    async def story() -> None:
        with queue.accept():
            waiting = [asyncio.create_task(queue.label(rows("a", 20)))]
            await asyncio.sleep(0.1)
            assert 0.05 < queue.busy_seconds <= queue.oldest_seconds < 5
            recorder.go.set()
            await asyncio.gather(*waiting)

    asyncio.run(story())
    queue.close()
    queue.join()
    assert (queue.oldest_seconds, queue.busy_seconds) == (0, 0)


def test_what_waits_at_the_deadline_is_given_up() -> None:
    recorder = Recorder(go=False)
    queue = queue_of(recorder)

    async def story() -> list[Any]:
        with queue.accept():
            waiting = [asyncio.create_task(queue.label(rows(name, 20), name)) for name in ("a", "b")]
            await asyncio.sleep(0.05)
            queue.close()
            queue.abandon()
            return await asyncio.gather(*waiting, return_exceptions=True)

    assert [type(found) for found in asyncio.run(story())] == [ClosedError, ClosedError]
    recorder.go.set()
    queue.join(5)
    assert not queue.alive


def test_a_call_is_made_before_the_rows_that_wait() -> None:
    recorder = Recorder(go=False)
    queue = queue_of(recorder)
    order: list[str] = []

    async def story() -> None:
        with queue.accept():
            first = asyncio.create_task(queue.label(rows("a", 20)))
            await asyncio.sleep(0.05)
            call = asyncio.create_task(queue.call(lambda: order.append(f"after {len(recorder.batches)} batch")))
            await asyncio.sleep(0)
            recorder.go.set()
            await asyncio.gather(first, call)

    asyncio.run(story())
    queue.close()
    queue.join()
    assert order == ["after 1 batch"]
