"""Files of a run on disk.

* run_folder: the run's folder: finished, unfinished or new
* identity: names of runs, and the settings that determine them
* rerun: repeats a run from its record
* model_source: where the base model comes from
* noted: commits and weights that a run records and must keep using
* records: `RunRecord`, result.json, written last
* run_lock: locks a run for one process
* checkpoints: the checkpoint from which an unfinished run resumes
* metrics_file: metrics.csv
* card: the adapter's model card
* units: human-readable bytes and seconds
"""
