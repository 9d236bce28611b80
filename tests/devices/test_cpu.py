"""Threads for the free cores, and retention of freed memory."""

import os
import subprocess
import sys

import pytest
import torch

from tfew.config import compose
from tfew.devices import cpu
from tfew.models import execution


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


@pytest.mark.ci
@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_that_is_kept_needs_no_pages_from_the_system() -> None:
    def faults(how: str) -> int:
        return int(
            subprocess.run([sys.executable, "-c", STEPS, how], check=True, capture_output=True, text=True).stdout
        )

    assert faults("kept") * 4 < faults("returned")  # 21 to 150 times; 7 where the kernel takes idle pages back


@pytest.mark.parametrize(("ratio", "warned"), [(75, True), (5, True), (2, False), (0.5, False)])
def test_bfloat16_in_software_is_warned_of_once(
    ratio: float, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = {torch.bfloat16: 1e-3 * ratio, torch.float32: 1e-3}
    monkeypatch.setattr(cpu, "seconds_of_product", seconds.get)
    cpu.warn_of_slow_bfloat16.cache_clear()
    for _ in range(2):
        cpu.warn_of_slow_bfloat16()
    said = [f"a matrix product took {ratio:.0f} times as long as in float32" in line for line in caplog.messages]
    assert said == [True] * warned


@pytest.mark.parametrize(
    ("overrides", "asked"), [((), 0), (("trainer.autocast=true",), 1), (("model.dtype=bfloat16",), 1)]
)
def test_only_runs_in_bfloat16_on_a_cpu_look(
    overrides: tuple[str, ...], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(execution, "warn_of_slow_bfloat16", lambda: calls.append(1))
    config = compose("+experiment=demo", "model=tiny", *overrides)
    execution.build_execution(config, torch.device("cpu"), None)
    assert len(calls) == asked


FORKED = """
import os, signal
import torch
from tfew.devices.cpu import warn_of_slow_bfloat16

torch.set_num_threads(2)
warn_of_slow_bfloat16()
assert torch.get_num_threads() == 2
child = os.fork()
if child == 0:
    signal.alarm(20)
    torch.ones(1024, 1024) @ torch.ones(1024, 1024)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


@pytest.mark.ci
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a service starts its processes otherwise here")
def test_a_process_that_looked_can_be_forked() -> None:
    """With more than one thread the child hangs in its first product, until the alarm (signal 14)."""
    result = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "0"


FREED = """
import sys
import torch
from tfew.devices.cpu import keep_freed_memory, return_freed_memory

def resident_bytes():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

before = resident_bytes()
keep_freed_memory()
kept = [torch.ones(2 * 2**20) for _ in range(60)]  # of 8 MB each
del kept
if sys.argv[1] == "returned":
    return_freed_memory()
print(resident_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_kept_memory_is_returned_to_the_program_afterwards() -> None:
    def held_bytes(how: str) -> int:
        return int(
            subprocess.run([sys.executable, "-c", FREED, how], check=True, capture_output=True, text=True).stdout
        )

    assert held_bytes("kept") > 400e6
    assert held_bytes("returned") < 50e6
