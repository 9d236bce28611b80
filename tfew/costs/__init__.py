"""The cost of a run before it starts: tokens, FLOPs, bytes, seconds.

* cost_report: the whole report, as `tfew.cost` prints it
* memory_forecast: the memory that a run will need, and advice if that is too much
* dry_run: FLOPs and memory of a training step with fake tensors
* measure: a few real steps, timed
* speed_forecast: seconds for counted work, from this machine's speed
* run_estimate: a one-line estimate for a run on a user's own rows
* lengths: tokens of prompts, and the longest batches
* formulas: FLOPs as the paper counts them
"""
