"""Lightning's strategies for a run's processes, which `tfew.devices.launcher` has started and connected."""

import signal
import threading
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from tfew.devices.distributed import local_rank_and_size, world_size
from tfew.training.atomic_checkpoint import AtomicCheckpointIO


class SummedGradientsDDP(DDPStrategy):
    """Lightning's strategy with one process per device, without torch's DistributedDataParallel around the model.

    That averages gradients during each backward pass, waiting for the other processes. Here they are summed once per
    step (`tfew.training.module`), and processes may need different numbers of passes per step.
    """

    def configure_ddp(self) -> None:
        pass


class ExitOnSigterm(pl.Callback):
    """Exits on SIGTERM: Lightning would message the other processes, one of which is dead when torchrun sends it."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def devices_of_trainer(partition: bool, clip_norm: float) -> dict[str, Any]:
    """The arguments of Lightning's Trainer for the number of devices and the strategy."""
    if world_size() == 1:
        return {"devices": 1, "plugins": [AtomicCheckpointIO()]}
    _, here = local_rank_and_size()
    return {
        "devices": here,
        "num_nodes": world_size() // here,
        "strategy": _partitioned(clip_norm) if partition else SummedGradientsDDP(),
        "plugins": [TorchElasticEnvironment(), *([] if partition else [AtomicCheckpointIO()])],
    }


def _partitioned(clip_norm: float) -> Any:
    from tfew.training.deepspeed import Zero3Strategy

    return Zero3Strategy(clip_norm)
