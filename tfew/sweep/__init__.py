"""Sweeps (`-m`): many runs, each of which may fail, be killed or be finished already.

* rounds: jobs that died are started again
* job, job_list: one job; the list of them
* state: what has happened to each
* ray_launcher: Hydra's launcher for Ray
* callback, bar: Hydra's hooks; the progress bar
"""
