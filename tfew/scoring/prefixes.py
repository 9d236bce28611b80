"""Answer choices as trees of prefixes: shared prefixes are computed once.

All choices of an example begin with the decoder's start token, and many share further tokens ("card arrival", "card
not working"). A choice's token is predicted from the prefix before it, so each distinct prefix of an example needs to
be computed once, however many choices share it.

Letters in addition to `tfew.schema`: M prefixes of a batch; P tokens of its choices, in the order of `choice_mask`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tfew.schema import Batch


@dataclass(frozen=True)
class Prefixes:
    """The distinct prefixes, example by example, shortest first; the empty one is each example's first.

    last_token_M (of an empty prefix: 0), depth_M (tokens of the prefix), example_M; prefix_NT is the prefix before
    each token of each choice that is present (0 at padding), length_N the choice's tokens; prefix_P and target_P are
    the same without padding, and token_position_M is one place of each prefix in the flattened prefix_NT.
    """

    last_token_M: Tensor
    depth_M: Tensor
    example_M: Tensor
    prefix_NT: Tensor
    length_N: Tensor
    prefix_P: Tensor
    target_P: Tensor
    token_position_M: Tensor

    def to(self, device: torch.device) -> "Prefixes":
        return Prefixes(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def prefixes(batch: Batch) -> Prefixes:
    """Built on the CPU, then moved to the batch's device; choices are padded on the right."""
    mask_BCT = batch.choice_mask.cpu().numpy()
    example_N, choice_N = np.nonzero(mask_BCT.any(-1))
    target_NT = batch.choice_ids.cpu().numpy()[example_N, choice_N]
    mask_NT = mask_BCT[example_N, choice_N]
    prefix_NT = np.zeros_like(target_NT)
    # a prefix is its parent and a token: one number encodes the pair, since token ids are below `base`
    base = int(target_NT.max()) + 1
    examples, firsts, prefix_NT[:, 0] = np.unique(example_N, return_index=True, return_inverse=True)
    last_tokens, example_of = [np.zeros_like(examples)], [example_N[firsts]]
    count = len(examples)
    for t in range(1, target_NT.shape[1]):
        (rows,) = mask_NT[:, t].nonzero()
        before, token = prefix_NT[rows, t - 1], target_NT[rows, t - 1]
        _, firsts, number = np.unique(before * base + token, return_index=True, return_inverse=True)
        prefix_NT[rows, t] = count + number
        last_tokens.append(token[firsts])
        example_of.append(example_N[rows[firsts]])
        count += len(firsts)
    example_M = np.concatenate(example_of)
    depth_M = np.repeat(np.arange(len(last_tokens)), [len(tokens) for tokens in last_tokens])
    order = np.argsort(example_M, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(count)
    prefix_NT = np.where(mask_NT, rank[prefix_NT], 0)
    (places,) = mask_NT.ravel().nonzero()
    token_position_M = np.empty(count, np.int64)
    token_position_M[prefix_NT.ravel()[places]] = places
    arrays = {
        "last_token_M": np.concatenate(last_tokens)[order],
        "depth_M": depth_M[order],
        "example_M": example_M[order],
        "prefix_NT": prefix_NT,
        "length_N": mask_NT.sum(-1),
        "prefix_P": prefix_NT[mask_NT],
        "target_P": target_NT[mask_NT],
        "token_position_M": token_position_M,
    }
    return Prefixes(**{name: torch.from_numpy(array) for name, array in arrays.items()}).to(batch.choice_mask.device)
