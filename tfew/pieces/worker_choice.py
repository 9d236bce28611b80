"""The number of workers and where they run, from the settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfew.environment.versions import require
from tfew.errors import UserError

if TYPE_CHECKING:
    from tfew.pieces.labeller import PieceLabeller
    from tfew.pieces.workers import Workers

AUTO = "auto"


@dataclass(frozen=True)
class WorkerChoice:
    """As in configs/predict.yaml; `devices`: `trainer.devices`."""

    ray: Any
    ray_actors: Any
    ray_cpus: Any
    ray_gpus: Any
    devices: Any
    piece_rows: Any

    def check(self) -> None:
        """Raises UserError for invalid numbers, or if Ray is needed and missing."""
        if self.devices != AUTO and not (_is_number(self.devices) and self.devices >= 1):
            raise UserError(f"trainer.devices={self.devices} is neither auto nor a whole number of at least 1.")
        if not (_is_number(self.piece_rows) and self.piece_rows >= 1):
            raise UserError(f"piece_rows={self.piece_rows} is not a whole number of at least 1.")
        if self.ray is None:
            return
        require(f"ray={self.ray}", "ray")
        if self.devices != 1:
            raise UserError(f"trainer.devices={self.devices} is for this machine alone: with ray= set ray_actors=.")
        if self.ray_actors != AUTO and not (_is_number(self.ray_actors) and self.ray_actors >= 1):
            raise UserError(f"ray_actors={self.ray_actors} is neither auto nor a whole number of at least 1.")
        for key, value in (("ray_cpus", self.ray_cpus), ("ray_gpus", self.ray_gpus)):
            if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0 or (value > 1 and value % 1):
                raise UserError(f"{key}={value} is neither a fraction (0.5) nor a whole number of at least 1.")

    def workers(self, make: Callable[[], "PieceLabeller"], accelerator: str) -> "Workers":
        """`make`: makes the labeller of a worker, in the worker's process."""
        if self.ray is not None:
            from tfew.pieces.ray_workers import RayWorkers

            number = None if self.ray_actors == AUTO else int(self.ray_actors)
            return RayWorkers(make, str(self.ray), number, self.ray_cpus, self.ray_gpus, accelerator != "cpu")
        import torch

        from tfew.devices.launcher import process_count
        from tfew.pieces.local_workers import LocalWorkers
        from tfew.pieces.workers import ThisProcess

        number = process_count(accelerator, self.devices, None)
        if number == 1:
            return ThisProcess(make)
        return LocalWorkers(make, number, torch.cuda.device_count() if accelerator != "cpu" else 0)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
