"""From probabilities to decisions: which rows get a label, which labels are possible, whether rows look as before.

Pure functions of numbers, of rows that were held out in training; nothing here knows a model or a file.

* request: what a user asks for (`threshold=`, `coverage=`, `risk=`, `sets=`)
* held_out_scores: the numbers of the held-out rows
* decision: the request, answered by held-out rows: a threshold and a level for sets of labels
* risk: the lowest threshold that keeps an error rate
* binomial: how sure a number of errors makes one of an error rate
* curve: how many are right of the surest rows
* conformal: sets of labels that hold the right one
* drift: whether new rows are scored as the held-out ones were
* suggest: which unlabelled rows to label next
"""
