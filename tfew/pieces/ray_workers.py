"""Workers that are Ray's actors, on all machines of a cluster. Ray is an extra: nothing else imports it."""

from collections.abc import Callable, Sequence
from typing import Any

from tfew.devices.ray_cluster import connect
from tfew.errors import UserError
from tfew.pieces.labeller import PieceLabeller
from tfew.pieces.piece import Piece
from tfew.pieces.workers import Answer, Done, Lost, Workers, accepted


class RayWorkers(Workers):
    """`address`: see `connect`; `number` of actors; None: one per GPU (`uses_gpus`), or per core. An actor
    uses `cpus` and, if there are any, `gpus`."""

    def __init__(
        self, make: Callable[[], PieceLabeller], address: str, number: int | None, cpus: float, gpus: float,
        uses_gpus: bool,
    ) -> None:  # fmt: skip
        self._make, self._address, self._number = make, address, number
        self._cpus, self._gpus, self._uses_gpus = cpus, gpus, uses_gpus
        self._actors: dict[int, Any] = {}
        self._answers: dict[Any, int] = {}  # pending result -> worker

    def start(self) -> None:
        ray = connect(self._address, "ray=")
        has = ray.cluster_resources()
        uses_gpus = self._uses_gpus and has.get("GPU", 0) > 0
        self._options = {"num_cpus": self._cpus, "num_gpus": self._gpus if uses_gpus else 0}
        fitting = int(has.get("GPU", 0) / self._gpus) if uses_gpus else int(has.get("CPU", 0) / max(self._cpus, 0.01))
        if not (self._number or fitting):
            raise UserError(
                f"ray={self._address}: the cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs, and a"
                f" worker takes {self._cpus:g} and {self._options['num_gpus']:g}: lower ray_cpus= or ray_gpus=."
            )
        for number in range(self._number or fitting):
            self._start(number)

    def give(self, worker: int, piece: Piece, columns: Sequence[str] | None) -> None:
        self._answers[self._actors[worker].label.remote(piece, columns)] = worker

    def wait(self, seconds: float) -> list[Done | Lost]:
        import ray

        ready, _ = ray.wait(list(self._answers), num_returns=len(self._answers), timeout=0)
        if not ready:
            ready, _ = ray.wait(list(self._answers), num_returns=1, timeout=seconds)
        return [self._event(self._answers.pop(answer), answer) for answer in ready]

    def close(self) -> None:
        import ray

        if ray.is_initialized():
            for actor in self._actors.values():
                ray.kill(actor)
            ray.shutdown()

    def _event(self, worker: int, answer: Any) -> Done | Lost:
        import ray

        try:
            return Done(worker, accepted(ray.get(answer)))
        except ray.exceptions.RayActorError as error:
            ray.kill(self._actors[worker])  # it may be alive but unreachable
            self._start(worker)
            return Lost(worker, _how(error))

    def _start(self, number: int) -> None:
        import ray

        actor = ray.remote(_Labeller).options(max_restarts=0, **self._options)
        self._actors[number] = actor.remote(self._make)
        self._answers[self._actors[number].describe.remote()] = number


class _Labeller:
    """A `PieceLabeller` that is constructed on its worker."""

    def __init__(self, make: Callable[[], PieceLabeller]) -> None:
        self._labeller = make()

    def describe(self) -> Answer:
        return self._labeller.describe()

    def label(self, piece: Piece, columns: Sequence[str] | None) -> Answer:
        return self._labeller.label(piece, columns)


def _how(error: Exception) -> str:
    kind = type(error).__name__
    return {"ActorDiedError": "its process or its machine is gone", "NodeDiedError": "its machine is gone"}.get(
        kind, kind
    )
