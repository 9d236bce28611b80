"""Checks a task for errors and doubtful data before training.

* task_check: all checks
* finding: one result of a check, with the remedy
* near_labels: labels with nearly the same words
"""
