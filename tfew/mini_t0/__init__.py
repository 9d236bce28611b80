"""A synthetic world and the small T5 trained on it, so that everything runs offline.

world                 `generate`: rows of one family
family                `Family`, and splits of its rows
reading, knowledge    families of the training mixture
validation, held_out  families kept out of it
lexicon               words, and facts about them
tokenizer             mini-T0's byte-level BPE
"""
