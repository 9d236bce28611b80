"""The Python API of five lines: rows in memory in, an estimator by scikit-learn's conventions out.

* fit: `fit`, from a table in memory to a fitted classifier
* classifier: `TfewClassifier`
* frame: lists, arrays, data frames and data sets as named columns of plain values
* classes: labels as the caller spells them, and as a run names them
* label_sets: the same where a row may have several
* overrides: an estimator's parameters as settings of the command line
* kept_run: the run folder behind a fitted estimator
* report: what a run says of itself, as a page and as a few lines
"""
