"""What a run takes, before it starts: tokens, FLOPs, bytes, seconds.

* cost_report: all of it together, as `tfew.cost` prints it
* memory_forecast: the memory a run will need, and advice where that is too much
* dry_run: a training step counted on the device "meta"
* measure: a few real steps, timed
* speed_forecast: seconds of work that was counted, from how fast this machine is
* run_estimate: what a run on somebody's own rows takes, in one line
* lengths: tokens of prompts, and the longest batches
* formulas: FLOPs as the paper counts them
"""
