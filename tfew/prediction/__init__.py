"""Labels for new rows, with saved adapters.

predictor                  `Predictor`: a model with one or many tasks loaded
loaded_task, saved_run     a task from its run folder
task_predictor             rows to prompts to labels, for one task
bulk_predict, result_rows  a file of rows, labelled window by window
tasks_file                 `adapters=FILE.json`
submission                 RAFT's files
"""
