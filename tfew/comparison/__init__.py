"""Comparisons of many runs: planned, run one after another, reduced to rows, and written as tables and a figure.

* runs: what to run, and running it
* rows: one line per run or setting
* numbers: means, paired gains and their intervals
* tables: Markdown, CSV and text
* plots: the figure
"""
