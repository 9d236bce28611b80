"""From probabilities to decisions: which rows get a label, which labels are possible, whether rows have drifted.

Pure functions of the scores of rows held out in training; nothing here uses a model or a file.

* request: the user's settings (`threshold=`, `coverage=`, `risk=`, `sets=`)
* held_out_scores: the numbers of the held-out rows
* decision: the request, answered by held-out rows: a threshold and a level for sets of labels
* risk: the lowest threshold that keeps an error rate
* binomial: confidence bounds of an error rate
* curve: accuracy by coverage
* conformal: sets of labels that hold the right one
* drift: whether new rows are scored as the held-out ones were
* suggest: which unlabelled rows to label next
"""
