"""What a run leaves on disk.

* run_folder: finished, unfinished or new
* identity: names of runs, and which settings count
* rerun: a run made again from its record
* model_source: where the base model comes from
* noted: commits and weights that a run notes, and keeps to
* records: `RunRecord`, result.json, written last
* run_lock: one process per run
* checkpoints: what an unfinished run resumes from
* metrics_file: metrics.csv
* card: the adapter's model card
* units: bytes and seconds for people
"""
