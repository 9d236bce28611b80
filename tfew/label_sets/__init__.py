"""Multi-label rows: from a table's cells to the questions of a prompt, and from answers to sets of labels.

* recognise: which tables have several labels a row, and which labels these are
* describe: the section `dataset` of such a table
* questions: a yes/no question for each label, all about one input
* thresholds: the probability above which a row is given a label
* scores: F1 and the like, of sets of labels
"""
