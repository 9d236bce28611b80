"""Sweeps (`-m`): many runs, each of which may fail, be killed or be finished already.

* rounds: restarts jobs that died
* job, job_list: one job; the list of them
* state: the outcome of each
* ray_launcher: Hydra's launcher for Ray
* callback, bar: Hydra's hooks; the progress bar
"""
