"""What a run costs, by the paper's own reckoning (section 4.2): formulas in FLOPs, nothing measured here."""


def encoder_decoder_inference_flops(parameters: int, tokens: int) -> float:
    """N FLOPs per token: each token passes one half of an encoder-decoder (Kaplan et al.'s 2N, halved)."""
    return float(parameters) * tokens


def encoder_decoder_training_flops(parameters: int, tokens: int) -> float:
    """3N FLOPs per token: the forward pass once, the backward pass twice."""
    return 3.0 * parameters * tokens
