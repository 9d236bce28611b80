"""Checks a task for errors and doubtful data before training.

* run_check: which runs are checked; rows that a training does not reach
* task_check: checks of the rows
* finding: one result of a check, with the remedy
* near_labels: labels with nearly the same words
"""
