"""The random numbers of training, apart from those of the program around it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.RLock()  # torch has one generator per device for the whole process


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """A context for training, which seeds torch's generators in every step: afterwards they are as before.

    Threads that train at once would take each other's numbers: they wait for each other.
    """
    with _lock, torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
