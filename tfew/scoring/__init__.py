"""Log-probabilities of answer choices: the tensor on which training, evaluation and prediction are based.

* score: `token_logprob` and `rank_scores`
* losses: language modelling, unlikelihood, length-normalised loss
* plain: the reference engine, with everything padded
* padding: tests which models can be scored in padded rows
* fast_t5, fast_encoder_decoder, fast_decoder_only: the fast engine for T5, other encoder-decoders, decoder-only models
* packing, packed_attention, prefixes, prefix_layout, context, output_head, vocabulary, chunks: its parts
* self_test: tests whether the fast engine agrees with the plain one
* text_config: vocabulary, windows and first token of the part of a model that generates text
* memory_budget: memory budgets, and halving of batches that do not fit
* routing: the task that each row belongs to
"""
