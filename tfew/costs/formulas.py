"""The cost of a run in FLOPs by the paper's formulas (section 4.2); nothing is measured here.

Kaplan et al.'s rule: a token costs 2N FLOPs for inference and 6N for training in a decoder-only model of N parameters.
In an encoder-decoder each token passes through one half of the model, so half of that. Quadratic attention cost is
left out.
"""


def inference_flops(parameters: int, tokens: float, encoder_decoder: bool) -> float:
    return (1.0 if encoder_decoder else 2.0) * parameters * tokens


def training_flops(parameters: int, tokens: float, encoder_decoder: bool) -> float:
    """Three times inference: the backward pass costs two forward passes."""
    return 3.0 * inference_flops(parameters, tokens, encoder_decoder)


def in_context_tokens(shots: int, shot_tokens: float, query_tokens: float) -> float:
    """Tokens computed for one query: the shots with their right choices, and the query with all its choices."""
    return shots * shot_tokens + query_tokens


def token_bytes(tokens: float) -> int:
    """Token ids on disk, 32 bits each: what in-context learning stores of its shots."""
    return int(4 * tokens)
