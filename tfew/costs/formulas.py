"""What a run costs, by the paper's own reckoning (section 4.2): formulas in FLOPs, nothing measured here.

Kaplan et al.'s rule: a token costs 2N FLOPs to infer and 6N to train in a decoder-only model of N parameters. In an
encoder-decoder each token passes one half of the model, so half of that. Quadratic attention cost is left out.
"""


def inference_flops(parameters: int, tokens: float, encoder_decoder: bool) -> float:
    return (1.0 if encoder_decoder else 2.0) * parameters * tokens


def training_flops(parameters: int, tokens: float, encoder_decoder: bool) -> float:
    """Three times the inference: the forward pass once, the backward pass twice."""
    return 3.0 * inference_flops(parameters, tokens, encoder_decoder)


def in_context_tokens(shots: int, shot_tokens: float, query_tokens: float) -> float:
    """Tokens that pass the model for one query: the shots with their right choices, the query with all its choices."""
    return shots * shot_tokens + query_tokens


def token_bytes(tokens: float) -> int:
    """Token ids on disk, 32 bits each: what in-context learning stores of its shots."""
    return int(4 * tokens)
