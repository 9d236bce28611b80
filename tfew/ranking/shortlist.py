"""Two-stage ranking: a cheap pass over all choices, full scores for those that may still be the best.

A forward pass over a prefix of a choice gives the log-probability of every token that may follow it. So the input alone
gives the log-probability of the first token of each choice; and since a log-probability is at most 0, the known tokens
of a choice bound its sum from above, and divided by the choice's tokens, its mean. The prefixes of the choices with the
highest bounds are extended, by a token each, until no bound reaches the best score of a whole choice (branch and
bound): that is the best choice of the full ranking. Only rounding can change it, between almost equal scores. Scoring
only the k choices with the likeliest first tokens would be faster still, but not exact.

Choices that are left out have their bounds as scores, which are too high, never too low. In a softmax of such scores
the best choice has at most the probability that it has among full scores.
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

NORMS = ("token", "sum")  # their bounds need only token counts
MOST_ROUNDS = 12  # each is a full forward pass, however few tokens it has
Score = Callable[[Batch, KeptInputs | None], Tensor]


@dataclass(frozen=True)
class Shortlist:
    """`size`: prefixes of each example's choices that are extended per round. `norm`: the norm of the ranking."""

    size: int
    norm: str

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise UserError(f"score.shortlist= bounds the scores of score.norm={' and '.join(NORMS)}, not {self.norm}.")

    def leaves_out(self, batch: Batch) -> bool:
        """Whether there are more choices than prefixes per round."""
        return batch.choice_ids.shape[1] > self.size

    def __call__(self, score: Score, batch: Batch) -> tuple[Tensor, Tensor]:
        """`token_logprob_BCT` where known, 0 elsewhere; and which choices are incomplete, `[B, C]`.

        `score`: computes token log-probabilities of a batch whose choices may be truncated or absent.
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
        """The upper bound of each choice's score; -inf if it is absent."""
        tokens_BC = mask_BCT.sum(-1)
        total_BC = logprob_BCT.clamp(max=0.0).sum(-1)
        bound_BC = total_BC / tokens_BC.clamp(min=1) if self.norm == "token" else total_BC
        return bound_BC.masked_fill(tokens_BC == 0, float("-inf"))


def shortlist_of(score: ScoreSettings, icl_mode: str = "none", is_sharded: bool = False) -> Shortlist | None:
    """Raises UserError for settings that exclude each other."""
    if score.shortlist is None:
        return None
    if icl_mode == "ensemble":
        raise UserError("score.shortlist= finds the best choice of one context, but icl.mode=ensemble has many.")
    if is_sharded:
        raise UserError("score.shortlist= runs as many forward passes as rows need, which a sharded model cannot.")
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
        self._made_B = torch.zeros_like(self._all_B)  # computed so far; repeated ones count again

    def first_tokens(self) -> Tensor:
        return self._behind(self._tree.depth_M == 0)

    def add(self, mask_BCT: Tensor) -> None:
        self.known_BCT = self.known_BCT | mask_BCT

    def whole_BC(self) -> Tensor:
        """The choices that are known in full."""
        return (self.known_BCT == self.mask_BCT).all(-1) & self.present_BC

    def most_promising(self, bound_BC: Tensor, size: int) -> Tensor:
        """Tokens to score next: those after `size` prefixes of each example, and after all shorter prefixes of these.

        After many rounds, or once more than half of the prefixes of the full ranking were computed, all open choices:
        so a model that is not confident costs at most half more than the full ranking, not a multiple.
        Empty if no incomplete choice has a bound as high as the best score.
        """
        whole_BC = self.whole_BC()
        best_B1 = bound_BC.masked_fill(~whole_BC, float("-inf")).amax(1, keepdim=True)
        open_N = (self.present_BC & ~whole_BC & (bound_BC >= best_B1))[self.present_BC]
        known_N = self.known_BCT[self.present_BC].sum(-1)
        path_NT = self._tree.prefix_NT[open_N]
        next_N = path_NT.gather(1, known_N[open_N, None])[:, 0]  # the prefix whose next token is unknown
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
        # only choices with new tokens
        return mask_BCT & (mask_BCT & ~self.known_BCT).any(-1, keepdim=True)

    def _best(self, bound_N: Tensor, prefix_N: Tensor, size: int) -> Tensor:
        """`[M]`: which prefixes are the `size` best of their example, by the highest bound of a choice that has it."""
        bound_M = bound_N.new_full(self._tree.depth_M.shape, float("-inf"))
        bound_M.scatter_reduce_(0, prefix_N, bound_N, "amax")
        first_M = torch.searchsorted(self._tree.example_M, self._tree.example_M)
        place_M = torch.arange(len(bound_M), device=bound_M.device) - first_M
        bound_BK = bound_M.new_full((len(self.mask_BCT), int(place_M.max()) + 1), float("-inf"))
        bound_BK[self._tree.example_M, place_M] = bound_M
        rank_BK = bound_BK.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (rank_BK < size)[self._tree.example_M, place_M] & (bound_M > float("-inf"))

    def _behind(self, is_made_M: Tensor) -> Tensor:
        """The tokens that follow these prefixes; computing a prefix includes all shorter ones."""
        behind_BCT = torch.zeros_like(self.mask_BCT)
        behind_BCT[self.present_BC] = is_made_M[self._tree.prefix_NT] & self.mask_BCT[self.present_BC]
        return behind_BCT
