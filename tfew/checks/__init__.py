"""What is wrong with a task, or doubtful, before anything is trained.

* task_check: all that is looked at
* finding: one of its lines, with the remedy
* near_labels: labels that say nearly the same words
"""
