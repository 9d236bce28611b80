"""From rows to batches: sources, few-shot sets, templates, tokenisation, the order of training.

sources                        local files, the Hub, or data made in process
table, formats, stream         readers of CSV, TSV, JSON lines and Parquet
user_table, infer_columns      a user's own table: which columns are label, text and choices
dataset                        a data set as its YAML describes it
labels, content_free, layout   label rules; content-free inputs; the default prompt layout
fewshot, split                 few-shot sets; stratified samples and folds
mixture, members               T0's training mixture
templates, rendering, sandbox  promptsource's and users' templates
tokenization, loader           prompts to tokens, tokens to batches
"""
