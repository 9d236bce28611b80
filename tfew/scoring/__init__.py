"""Log-probabilities of answer choices: the one tensor that training, evaluation and prediction start from.

* score: `token_logprob` and `rank_scores`
* losses: language modelling, unlikelihood, length-normalised loss
* plain: the reference engine: everything padded
* padding: which models can be scored in padded rows
* decoder_start: the token that an encoder-decoder starts from
* fast_t5, fast_encoder_decoder, fast_decoder_only: the fast engine, of T5, other encoder-decoders, decoders
* packing, prefixes, prefix_layout, context, output_head, vocabulary, chunks: its parts
* self_test: whether a fast way gives the plain one's numbers
* text_config: vocabulary and windows of the part that makes text
* memory_budget: budgets, and halving what does not fit
* routing: which task each row belongs to
"""
