"""Rank classification: every choice is scored, the best one is the answer.

* evaluation: a task evaluated, batch by batch
* rank_classification: scores of prompts
* shortlist: two-stage ranking of many choices
* score_methods, norms: direct, channel, calibrated; per token, character, byte, PMI
* icl, window: in-context learning; its share of the model's context window
* ties: choices that the model cannot tell apart
* baselines, paired_gain: the commonest label and a bag of words on the same rows, and the model's gain over them
* metrics, per_label_metrics, label_table: accuracy, F1, confusion matrix, and their display
* label_set_summary, label_set_table, bootstrap_gain: the same for rows with several labels; intervals of their F1
* tuning: the best of a few settings, and how optimistic its estimate is
* temperature: temperature scaling, expected calibration error
"""
