"""A synthetic world and the small T5 trained on it, so that everything runs offline.

* world: `generate`: rows of one family
* family: what a family is
* reading, knowledge: families of the training mixture
* validation, held_out: families kept out of it
* lexicon: words
* tokenizer: its SentencePiece-like vocabulary
"""
