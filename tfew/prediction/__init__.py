"""Labels for new rows, with saved adapters.

* predictor: `Predictor`: a model with one or many tasks loaded
* saved_run: the run of an adapter, and what is built from its settings
* loaded_task: one task of a predictor
* task_predictor: rows to prompts to labels, for one task
* bulk_predict, result_rows: a file of rows, labelled window by window
* held_out: scores of the rows that an adapter's run held out
* label_summary: the summary that the command prints at its end
* doubt: rows for a person to review, and their lines in the summary
* suggestions: `suggest=N`: the rows to label by hand next
* input_rows: how files of rows are read for these tasks
* tasks_file: `adapters=FILE.json`
* submission: RAFT's files
"""
