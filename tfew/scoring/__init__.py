"""Log-probabilities of answer choices: the one tensor that training, evaluation and prediction start from.

* score: `token_logprob_BCT` and `rank_scores`
* losses: language modelling, unlikelihood, length-normalised loss
* fast_encoder_decoder, fast_decoder_only: the fast engine: shared prefixes once, no padding
* packing, prefixes, context, vocabulary, chunks: its parts
* memory_budget: budgets, and halving what does not fit
* decoder_start: what an encoder-decoder's decoder begins with
* routing: which task each row belongs to
"""
