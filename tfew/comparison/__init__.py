"""Comparisons of many runs: planned, run one after another, reduced to rows, and written as tables and a figure.

runs     planning and making the runs
rows     one row per run
numbers  medians, paired gains and their intervals
tables   Markdown, CSV and text
plots    the figure
"""
