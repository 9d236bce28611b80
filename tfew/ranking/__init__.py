"""Rank classification: every choice is scored, the best one is the answer.

* evaluation: a task evaluated, batch by batch
* rank_classification: scores of prompts
* shortlist: two-stage ranking of many choices
* score_methods, norms: direct, channel, calibrated; per token, character, byte, PMI
* icl, window: in-context learning; how much of the model's window it takes
* ties: choices that are the same to the model
* baselines, paired_gain: the commonest label and a bag of words on the same rows, and how much better the model is
* metrics, per_label_metrics, label_table: accuracy, F1, confusion, and how they are shown
* label_set_summary, label_set_table, bootstrap_gain: the same of rows with several labels, and how sure their F1 is
* tuning: the best of a few settings, and how optimistic its number is
* temperature: temperature scaling, expected calibration error
"""
