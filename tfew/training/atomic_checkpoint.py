"""Atomic writing of checkpoints, also when the disk is full: Lightning's own leaves a partial file."""

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from tfew.files.atomic import write_bytes_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises UserError if it cannot be written."""
        del storage_options
        data = io.BytesIO()
        torch.save(checkpoint, data)
        write_bytes_atomically(Path(path), data.getvalue())
