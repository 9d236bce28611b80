"""Sweeps (`-m`): many runs, each of which may fail, be killed or be finished already.

rounds         repeats a sweep until every job has an outcome
job, jobs      one job; the list of all
state          the outcome of each, on disk
callback, bar  Hydra's hooks; the progress bar
"""
