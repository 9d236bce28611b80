"""(IA)³ on a small real model of English beside what people use instead: `python -m scripts.english data_dir=DIR`.

* sets: real data sets as tables of one's own, and the tables that ship with the package
* contenders: what is compared on each of them
* classical: contenders that are no language model; sentence_models: those of another environment
* job, __main__: what is made in which order; records.jsonl, TABLE.md and the figures
"""
