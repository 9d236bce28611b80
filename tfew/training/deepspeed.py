"""`trainer=deepspeed_3`: weights, gradients and optimiser state are sharded over all devices (DeepSpeed's ZeRO 3).

DeepSpeed sums and clips the gradients and updates the weights itself; this module defines what a step is. The
optimiser sees flat shards of all trained weights together. This does not affect AdamW, but Adafactor, which scales by
the size of each weight's own update, gives different numbers than on one device.
"""

from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy

from tfew.devices.distributed import world_size
from tfew.devices.zero import ZERO_3
from tfew.training.module import FewShotModule, check_finite


class Zero3Strategy(DeepSpeedStrategy):
    """Lightning's strategy for processes that are already connected, and for an engine that is also tested on CPUs."""

    def __init__(self, clip_norm: float) -> None:
        super().__init__(stage=3, exclude_frozen_parameters=True)
        assert isinstance(self.config, dict)
        self.config.update({**ZERO_3, "gradient_clipping": clip_norm})

    @property
    def root_device(self) -> torch.device:
        device = super().root_device
        return torch.device(device.type, device.index or 0)  # DeepSpeed needs an index, for a CPU, too

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def setup_precision_plugin(self) -> None:
        super().setup_precision_plugin()
        plugin: Any = self.precision_plugin
        plugin.convert_input = lambda batch: batch  # integers and masks; frozen, which Lightning's own rejects

    def training_step(self, *arguments: Any, **keywords: Any) -> Any:
        """Bypasses the engine, which equates a step with one forward pass."""
        assert self.lightning_module is not None
        return self.lightning_module.training_step(*arguments, **keywords)


class Zero3Module(FewShotModule):
    def on_train_start(self) -> None:
        pass  # weights were broadcast from the first process when they were sharded

    def all_reduce_step(self, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names, values = list(terms), torch.stack(list(terms.values()))
        torch.distributed.all_reduce(values)
        return dict(zip(names, values, strict=True))

    def backward_pass(self, loss: torch.Tensor, is_last: bool) -> None:
        engine = self._engine()
        engine.optimizer.clear_backward_seen_flag()  # accumulates gradients, as the engine's own forward does
        engine.set_gradient_accumulation_boundary(is_last)
        self.manual_backward(loss * world_size())  # it averages over processes, but ours are shares of one sum

    def clip_and_step(self, optimizer: Any, values: dict[str, float]) -> float:
        step = self.global_step
        check_finite(values, step)
        optimizer.step()
        grad_norm = float(self._engine().get_global_grad_norm())
        check_finite({**values, "grad_norm": grad_norm}, step)
        return grad_norm

    def _engine(self) -> Any:
        return self.trainer.strategy.model
