"""Threads for the free cores, and retention of freed memory."""

import subprocess
import sys

import pytest
import torch

from tfew.devices import cpu


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(("free", "threads", "said"), [(1, 1, True), (3, 3, True), (4, 4, False), (9, 4, False)])
def test_threads_are_as_many_as_cores_are_free(
    free: int, threads: int, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(cpu, "free_cores", lambda: free)
    with caplog.at_level("INFO"), cpu.free_cores_only("cpu"):
        assert taken == [threads]
    assert taken == [threads, 4]  # as before
    assert (f"{threads} of 4 threads are used (OMP_NUM_THREADS=N takes N)" in caplog.text) == said


@pytest.mark.usefixtures("four_threads")
def test_who_chose_a_number_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setattr(torch, "set_num_threads", taken.append)
    monkeypatch.setattr(cpu, "free_cores", lambda: 1)
    with cpu.free_cores_only("cpu"):
        assert taken == []


STEPS = """
import resource, sys
import torch
from tfew.devices.cpu import keep_freed_memory

def step():
    kept = [torch.ones(2**20) for _ in range(50)]  # of 4 MB each, freed at the end

if sys.argv[1] == "kept":
    assert keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_that_is_kept_needs_no_pages_from_the_system() -> None:
    def faults(how: str) -> int:
        return int(
            subprocess.run([sys.executable, "-c", STEPS, how], check=True, capture_output=True, text=True).stdout
        )

    assert faults("kept") * 8 < faults("returned")
