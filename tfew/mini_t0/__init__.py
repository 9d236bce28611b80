"""A synthetic world and the small T5 that is trained on it, so that everything runs offline.

* world: `generate`: rows of one family
* family: families of tasks and their rows
* reading, knowledge: families of the training mixture
* validation, held_out: families kept out of it
* lexicon: words and facts
* tokenizer: its byte-level BPE vocabulary
"""
