"""Compares the promises of decisions with results on real English: `python -m scripts.decisions data_dir=DIR`.

* job: a run for each set and seed, and the scores of its test rows and of other texts
* records: those scores, as lines of a file without any text
* offline: evaluates thresholds, sets and drift on them
* report: the page
"""
