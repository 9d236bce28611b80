"""A digest of a sample of every weight, to check that a base model is the one that an adapter was trained on."""

import hashlib

import torch
from torch import nn

NUMBERS = 64  # of each weight, evenly spaced


def weights_sample_sha256(model: nn.Module) -> str:
    """Digest of 64 values of each weight as bfloat16, independent of the loaded dtype and of parameter names.

    Another training run of the same shape differs everywhere; a change of a few values may go unnoticed.
    """
    digests = sorted(_digest(parameter) for parameter in model.parameters())
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(parameter: nn.Parameter) -> bytes:
    flat = parameter.detach().reshape(-1)
    count = min(NUMBERS, flat.numel())
    places = torch.tensor([place * (flat.numel() - 1) // max(count - 1, 1) for place in range(count)])
    numbers = flat[places.to(flat.device)].to(torch.bfloat16).cpu()
    shape = str(tuple(parameter.shape)).encode()
    return hashlib.sha256(shape + numbers.view(torch.uint8).numpy().tobytes()).digest()
