"""Compares (IA)³ on a small real model of English with alternatives: `python -m scripts.english data_dir=DIR`.

* sets: real data sets in the form of users' tables, and the tables that ship with the package
* contenders: the methods that are compared on each of them
* classical: contenders that are no language model; sentence_models: those of another environment
* job, __main__: the jobs and their order; records.jsonl, TABLE.md and the figures
"""
