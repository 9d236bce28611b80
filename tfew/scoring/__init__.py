"""Log-probabilities of answer choices: the one tensor that training, evaluation and prediction start from.

score                               `token_logprob_BCT` and `rank_scores`
losses                              language modelling, unlikelihood, length-normalised loss
encoder_decoder, decoder_only       the fast engine: shared prefixes once, no padding
packed, prefixes, context, vocabulary, chunks  its parts
memory                              budgets, and halving what does not fit
routing                             which task each row belongs to
"""
