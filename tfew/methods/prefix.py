"""Prefix tuning (Li and Liang 2021; paper section 4.1): learned keys and values before those of every attention layer.

Both in encoder self-, decoder self- and cross-attention. In training they are the output of an MLP, one per kind of
attention: an embedding `[P, d_model]` and a Linear shared by its layers, tanh, and one Linear per layer. Only the
keys and values are saved and restored, without the MLP (on T0-3B 589,824 parameters of 154,449,408).

As in the official code, T5's relative positions place queries after the prefix, and the prefix is never masked. T5
treats keys and values of earlier tokens in its cache in the same way, so a prefix is presented as such a cache.
Uncertain: the official initial values are the keys and values of the texts "Question:" and "Answer:"; here the
decoder reads "Answer:" without a start token, so that each text gives as many as there are prefix tokens.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.t5.modeling_t5 import T5Attention

from tfew.errors import UserError
from tfew.methods.base import Method, adapter_parameters, check_fit

log = logging.getLogger(__name__)


class Trunk(nn.Module):
    """The part of the MLP that the layers of one kind of attention share: `[P, d_model]` to `[P, hidden]`."""

    def __init__(self, length: int, d_model: int, hidden: int, device: torch.device) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(length, d_model, dtype=torch.float32, device=device))
        self.linear = nn.Linear(d_model, hidden, dtype=torch.float32, device=device)

    def forward(self) -> Tensor:
        return self.linear(self.embedding).tanh()


class MlpPrefix(nn.Module):
    """Keys and values of one layer in training: the output of an MLP."""

    def __init__(self, trunk: Trunk, inner: int) -> None:
        super().__init__()
        weight = trunk.linear.weight
        self.trunk = trunk
        self.up = nn.Linear(len(weight), 2 * inner, dtype=weight.dtype, device=weight.device)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Key and value, each `[P, inner]`."""
        key, value = self.up(self.trunk()).chunk(2, dim=-1)
        return key, value


class FoldedPrefix(nn.Module):
    """Keys and values of one layer as they are stored, each `[P, inner]`."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        super().__init__()
        self.key = nn.Parameter(key)
        self.value = nn.Parameter(value)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.key, self.value


class PrefixCache:
    """A cache for a T5 attention layer that returns the prefix, followed by the content of the real cache.

    Cross-attention never gets the real one: it recomputes its keys and values at each generation step.
    """

    def __init__(self, key: Tensor, value: Tensor, cache: Any | None) -> None:
        self.key, self.value, self.cache = key, value, cache

    def get_seq_length(self, layer: int | None = None) -> int:
        return len(self.key) + (0 if self.cache is None else self.cache.get_seq_length(layer))

    def update(self, key_BHLD: Tensor, value_BHLD: Tensor, layer: int | None, **other: Any) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, H, P + L, D]`."""
        if self.cache is not None:
            key_BHLD, value_BHLD = self.cache.update(key_BHLD, value_BHLD, layer, **other)
        return _before(self.key, key_BHLD), _before(self.value, value_BHLD)


class _WithPrefix:
    """Forward of an attention layer with a module `prefix`; if that is None, the layer is unchanged."""

    prefix: nn.Module | None
    is_causal: bool
    layer_idx: int | None

    def forward(
        self,
        hidden_states: Tensor,
        mask: Tensor | None = None,
        key_value_states: Tensor | None = None,
        position_bias: Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> Any:
        if self.prefix is not None:
            earlier = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
            key, value = self.prefix()
            cache = PrefixCache(key, value, None if key_value_states is not None else earlier)
            if mask is None and self.is_causal:
                # without a mask, SDPA's `is_causal` would let query 0 see key 0 only; but key 0 is the prefix now
                seen = 0 if earlier is None else earlier.get_seq_length(self.layer_idx)
                mask = _causal_mask(hidden_states.shape[1], seen, hidden_states.device)
            if mask is not None:
                mask = nn.functional.pad(mask, (len(key), 0), value=mask.dtype == torch.bool)  # True or 0.0
        return super().forward(  # type: ignore[misc]
            hidden_states,
            mask=mask,
            key_value_states=key_value_states,
            position_bias=position_bias,  # None in a stack's first layer, which computes it for all, prefix included
            cache=cache,
            **kwargs,
        )


class PrefixT5Attention(_WithPrefix, T5Attention):
    """T5's attention with a prefix."""


class PrefixMT5Attention(_WithPrefix, MT5Attention):
    """mT5's attention with a prefix."""


WITH_PREFIX: dict[type, type] = {T5Attention: PrefixT5Attention, MT5Attention: PrefixMT5Attention}


class PrefixTuning(Method):
    """`length` keys and values per layer; for the initialisation arguments see `configs/method/prefix.yaml`."""

    merges = False

    def __init__(
        self, length: int, hidden: int, encoder_text: str, decoder_text: str, fit_steps: int, fit_lr: float
    ) -> None:
        self.length = length
        self.hidden = hidden
        self.encoder_text = encoder_text
        self.decoder_text = decoder_text
        self.fit_steps = fit_steps
        self.fit_lr = fit_lr

    def attach(self, model: nn.Module) -> None:
        attentions = {name: module for name, module in model.named_modules() if type(module) in WITH_PREFIX}
        if not attentions:
            raise UserError(
                f"Prefix tuning (method=prefix) supports attention layers of T5 and mT5, and {type(model).__name__}"
                " has none of them."
            )
        trunks: dict[tuple[bool, bool], Trunk] = {}
        for name, attention in attentions.items():
            kind = (attention.is_decoder, name.endswith("EncDecAttention"))  # encoder self, decoder self, cross
            device = attention.k.weight.device
            if kind not in trunks:
                trunks[kind] = Trunk(self.length, attention.d_model, self.hidden, device)
            attention.__class__ = WITH_PREFIX[type(attention)]
            attention.prefix = MlpPrefix(trunks[kind], attention.inner_dim)

    def initialise(self, model: nn.Module, tokenizer: Any) -> None:
        """Fits the MLPs to the keys and values that the bare model computes for the two texts."""
        targets = self._targets(model, tokenizer)
        optimizer = torch.optim.Adam(adapter_parameters(model).values(), lr=self.fit_lr)
        for _ in range(self.fit_steps):
            optimizer.zero_grad()
            fit_error(model, targets).backward()
            optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            mean = fit_error(model, targets) / (2 * len(targets))
        log.info("prefix: initialised from its texts with a mean relative squared error of %.2g", float(mean))

    def _targets(self, model: nn.Module, tokenizer: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """Key and value `[P, inner]`, float32, of each attention layer."""
        device = next(model.parameters()).device
        encoder_ids = _token_ids(tokenizer, self.encoder_text, "method.encoder_text").to(device)
        decoder_ids = _token_ids(tokenizer, self.decoder_text, "method.decoder_text").to(device)
        with _bare(model), _recorded(model) as states:
            model(input_ids=encoder_ids, decoder_input_ids=decoder_ids, use_cache=False)
        fitted = {name: _cut_or_repeat(state, self.length).float() for name, state in states.items()}
        return {name: (fitted[f"{name}.k"], fitted[f"{name}.v"]) for name in _with_prefix(model)}

    def stored(self, model: nn.Module) -> dict[str, Tensor]:
        """The keys and values, without the MLP."""
        with torch.no_grad():
            prefixes = {name: module.prefix() for name, module in _with_prefix(model).items()}
        parts = ("key", "value")
        return {
            f"{name}.prefix.{part}": tensor.detach().contiguous()
            for name, pair in prefixes.items()
            for part, tensor in zip(parts, pair, strict=True)
        }

    def check_stored(self, model: nn.Module, stored: Mapping[str, Tensor]) -> None:
        check_fit(self.stored(model), stored)

    def for_restoring(self) -> Method:
        """With the smallest MLP, since keys and values replace it."""
        found = copy.copy(self)
        found.hidden = 1
        return found

    def restore(self, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
        """Replaces the MLP by keys and values; further training updates them directly."""
        now = self.stored(model)
        check_fit(now, weights)
        own = {name: weights[name].detach().to(now[name].device, torch.float32, copy=True) for name in now}
        for name, module in _with_prefix(model).items():
            module.prefix = FoldedPrefix(own[f"{name}.prefix.key"], own[f"{name}.prefix.value"])

    def stored_count(self, model: nn.Module) -> int:
        return sum(tensor.numel() for tensor in self.stored(model).values())


def fit_error(model: nn.Module, targets: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Sum over layers, keys and values of squared error / squared length of the target (a scalar)."""
    errors = []
    for name, module in _with_prefix(model).items():
        for ours, target in zip(module.prefix(), targets[name], strict=True):
            errors.append((ours - target).square().sum() / target.square().sum())
    return torch.stack(errors).sum()


def _with_prefix(model: nn.Module) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if isinstance(module, _WithPrefix)}


def _before(prefix: Tensor, states_BHLD: Tensor) -> Tensor:
    """`prefix` `[P, H * D]` split into heads and prepended to each example's `states_BHLD`."""
    batch, heads = states_BHLD.shape[:2]
    prefix_HPD = prefix.to(states_BHLD.dtype).unflatten(-1, (heads, -1)).transpose(0, 1)
    return torch.cat([prefix_HPD.expand(batch, -1, -1, -1), states_BHLD], dim=2)


def _causal_mask(queries: int, seen: int, device: torch.device) -> Tensor:
    """`[1, 1, queries, seen + queries]`, true where a query may attend; `seen` tokens precede the first query."""
    return torch.ones(1, 1, queries, seen + queries, dtype=torch.bool, device=device).tril(seen)


def _token_ids(tokenizer: Any, text: str, knob: str) -> Tensor:
    """`[1, n]`, with no end-of-text token: "Question:" and "Answer:" are two tokens each to T5."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError(f"{knob}={text!r} has no tokens to start a prefix from.")
    return torch.tensor([ids])


def _cut_or_repeat(states: Tensor, length: int) -> Tensor:
    """`[n, inner]` to `[length, inner]`, for texts with more or fewer tokens than the prefix."""
    return states[torch.arange(length, device=states.device) % len(states)]


@contextmanager
def _bare(model: nn.Module) -> Iterator[None]:
    """A context in which the model runs without its prefixes, dropout and gradients."""
    attentions = _with_prefix(model).values()
    prefixes = [attention.prefix for attention in attentions]
    was_training = model.training
    model.eval()
    try:
        for attention in attentions:
            attention.prefix = None
        with torch.no_grad():
            yield
    finally:
        for attention, prefix in zip(attentions, prefixes, strict=True):
            attention.prefix = prefix
        model.train(was_training)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of each attention's layers `k` and `v` for the first example, `[L, inner]`, by name."""
    states: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        states[name] = output[0]

    handles = [
        getattr(attention, part).register_forward_hook(partial(record, f"{name}.{part}"))
        for name, attention in _with_prefix(model).items()
        for part in ("k", "v")
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
