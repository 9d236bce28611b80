"""From rows to batches: sources, few-shot sets, templates, tokenisation, the order of training.

* sources: local files, the Hub, or data made in process
* describe_table, infer_columns: a user's own table: which column is what
* cells, label_column, row_choices: its cells; its labels, and the words for them; choices of each row's own
* dataset: a data set as its YAML describes it
* labels, content_free, layout: label rules; inputs without content; RAFT's layout
* fewshot, split: official few-shot sets, draws, folds
* mixture, members: T0's training mixture
* templates, rendering, sandbox: promptsource's and users' templates
* tokenization, loader: prompts to tokens, tokens to batches
"""
