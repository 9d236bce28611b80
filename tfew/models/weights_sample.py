"""A digest of some numbers of every weight: whether a base model is the one that an adapter was trained on."""

import hashlib

import torch
from torch import nn

NUMBERS = 64  # of each weight, evenly spaced


def weights_sample_sha256(model: nn.Module) -> str:
    """The same whatever type the weights are loaded in, and whatever they are called: 64 numbers of each, as bfloat16.

    Another training of the same shape has other numbers everywhere; a change of few numbers may go unseen.
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
