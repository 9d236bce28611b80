"""Two-stage ranking: a cheap pass over all choices, full scores for those that may still be the best.

A prefix of a choice that has gone through the model gives the log-probability of every token that may follow it. So the
input alone says how likely the first token of each choice is; and since a log-probability is at most 0, what is known
of a choice bounds its sum from above, and divided by the choice's tokens, its mean. The beginnings of the choices with
the highest bounds are continued, a token each, until no bound is as high as the best score of a whole choice (branch
and bound): that is the best choice of the full ranking. Only rounding may decide otherwise, between scores that are
next to the same. Scoring the k choices alone whose first tokens are likeliest would be quicker still, and wrong.

Choices that are left out keep their bounds for scores, which are too high, never too low. A softmax of such scores
gives the best choice at most the probability that it has among full scores.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tfew.errors import UserError
from tfew.ranking.score_methods import METHODS
from tfew.schema import Batch
from tfew.scoring.context import KeptInputs
from tfew.scoring.prefixes import Prefixes, prefixes
from tfew.settings import ScoreSettings

NORMS = ("token", "sum")  # whose bounds need nothing but tokens
MOST_ROUNDS = 12  # each goes through all layers, however few tokens it has
Score = Callable[[Batch, KeptInputs | None], Tensor]


@dataclass(frozen=True)
class Shortlist:
    """`size`: beginnings of each example's choices that are continued in a round. `norm`: what ranks the choices."""

    size: int
    norm: str

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UserError(f"score.shortlist= bounds the scores of score.norm={' and '.join(NORMS)}, not {self.norm}.")

    def leaves_out(self, batch: Batch) -> bool:
        """Whether there are more choices than beginnings in a round."""
        return batch.choice_ids.shape[1] > self.size

    def __call__(self, score: Score, batch: Batch) -> tuple[Tensor, Tensor]:
        """`token_logprob_BCT` as far as it is known, 0 elsewhere; and of which choices that is not all, `[B, C]`.

        `score`: the same of a batch whose choices may end early, or be absent.
        """
        kept, search = KeptInputs(), _Search(batch)
        logprob_BCT = torch.zeros(batch.choice_mask.shape, device=batch.choice_mask.device)
        mask_BCT = search.first_tokens()
        while mask_BCT.any():
            found_BCT = score(replace(batch, choice_mask=mask_BCT), kept)
            logprob_BCT = torch.where(mask_BCT, found_BCT.to(logprob_BCT), logprob_BCT)
            search.add(mask_BCT)
            mask_BCT = search.most_promising(self._bounds(logprob_BCT, batch.choice_mask), self.size)
        return logprob_BCT, search.present_BC & ~search.whole_BC()

    def _bounds(self, logprob_BCT: Tensor, mask_BCT: Tensor) -> Tensor:
        """The largest score that each choice may have; -inf where it is absent."""
        tokens_BC = mask_BCT.sum(-1)
        total_BC = logprob_BCT.clamp(max=0.0).sum(-1)
        bound_BC = total_BC / tokens_BC.clamp(min=1) if self.norm == "token" else total_BC
        return bound_BC.masked_fill(tokens_BC == 0, float("-inf"))


def shortlist_of(score: ScoreSettings, icl_mode: str = "none", is_sharded: bool = False) -> Shortlist | None:
    """Raises UserError where these settings cannot go together."""
    if score.shortlist is None:
        return None
    if icl_mode == "ensemble":
        raise UserError("score.shortlist= finds the best choice of one context, but icl.mode=ensemble has many.")
    if is_sharded:
        raise UserError("score.shortlist= goes through the model as often as rows need: not with a model in parts.")
    if score.method != METHODS[0]:
        raise UserError(f"score.shortlist= is for score.method={METHODS[0]}, not {score.method}.")
    return Shortlist(score.shortlist, score.norm)


class _Search:
    """Which tokens of a batch's choices are known."""

    def __init__(self, batch: Batch) -> None:
        self.mask_BCT = batch.choice_mask
        self.present_BC = batch.choice_mask.any(-1)
        self.known_BCT = torch.zeros_like(batch.choice_mask)
        self._tree: Prefixes = prefixes(batch)
        self._all_B = torch.bincount(self._tree.example_M, minlength=len(batch))  # prefixes
        self._rounds = 0
        self._made_B = torch.zeros_like(self._all_B)  # so far; those that are made again count again

    def first_tokens(self) -> Tensor:
        return self._behind(self._tree.depth_M == 0)

    def add(self, mask_BCT: Tensor) -> None:
        self.known_BCT = self.known_BCT | mask_BCT

    def whole_BC(self) -> Tensor:
        """The choices that are known in full."""
        return (self.known_BCT == self.mask_BCT).all(-1) & self.present_BC

    def most_promising(self, bound_BC: Tensor, size: int) -> Tensor:
        """Tokens to score next: those behind `size` prefixes of each example, and behind the shorter ones before them.

        After many rounds, or where half of what the full ranking makes was made in vain, all that is open: a model that
        is not sure of anything takes half as much again at most, and not many times as much.
        Empty where no choice that is not known in full has a bound as high as the best score.
        """
        whole_BC = self.whole_BC()
        best_B1 = bound_BC.masked_fill(~whole_BC, float("-inf")).amax(1, keepdim=True)
        open_N = (self.present_BC & ~whole_BC & (bound_BC >= best_B1))[self.present_BC]
        known_N = self.known_BCT[self.present_BC].sum(-1)
        path_NT = self._tree.prefix_NT[open_N]
        next_N = path_NT.gather(1, known_N[open_N, None])[:, 0]  # the prefix behind which nothing is known yet
        is_chosen_M = self._best(bound_BC[self.present_BC][open_N], next_N, size)
        self._rounds += 1
        example_N = self._tree.example_M[next_N]
        is_spent_N = (2 * self._made_B > self._all_B)[example_N] | (self._rounds > MOST_ROUNDS)
        chosen_N = is_chosen_M[next_N] | is_spent_N
        is_on_path_NT = torch.arange(path_NT.shape[1], device=path_NT.device) <= known_N[open_N][:, None]
        is_on_path_NT = (is_on_path_NT | is_spent_N[:, None]) & self.mask_BCT[self.present_BC][open_N]
        is_made_M = torch.zeros_like(is_chosen_M)
        is_made_M[path_NT[chosen_N][is_on_path_NT[chosen_N]]] = True
        self._made_B += torch.bincount(self._tree.example_M[is_made_M], minlength=len(self._made_B))
        mask_BCT = self._behind(is_made_M)
        # only choices that this tells something new of
        return mask_BCT & (mask_BCT & ~self.known_BCT).any(-1, keepdim=True)

    def _best(self, bound_N: Tensor, prefix_N: Tensor, size: int) -> Tensor:
        """`[M]`: which prefixes are the `size` best of their example, by the highest bound of a choice behind each."""
        bound_M = bound_N.new_full(self._tree.depth_M.shape, float("-inf"))
        bound_M.scatter_reduce_(0, prefix_N, bound_N, "amax")
        first_M = torch.searchsorted(self._tree.example_M, self._tree.example_M)
        place_M = torch.arange(len(bound_M), device=bound_M.device) - first_M
        bound_BK = bound_M.new_full((len(self.mask_BCT), int(place_M.max()) + 1), float("-inf"))
        bound_BK[self._tree.example_M, place_M] = bound_M
        rank_BK = bound_BK.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (rank_BK < size)[self._tree.example_M, place_M] & (bound_M > float("-inf"))

    def _behind(self, is_made_M: Tensor) -> Tensor:
        """The tokens that follow these prefixes; with a prefix all shorter ones are made, too."""
        behind_BCT = torch.zeros_like(self.mask_BCT)
        behind_BCT[self.present_BC] = is_made_M[self._tree.prefix_NT] & self.mask_BCT[self.present_BC]
        return behind_BCT
