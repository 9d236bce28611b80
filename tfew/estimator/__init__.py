"""The five-line Python API: from rows in memory to an estimator that follows scikit-learn's conventions.

* fit: `fit`, from a table in memory to a fitted classifier
* classifier: `TfewClassifier`
* frame: lists, arrays, data frames and data sets as named columns of plain values
* classes: labels as the caller spells them, and as a run names them
* label_sets: the same for rows with several labels
* overrides: an estimator's parameters as settings of the command line
* kept_run: the run folder behind a fitted estimator
* report: a run's summary, as a page and as a few lines
"""
