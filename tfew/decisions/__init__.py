"""From probabilities to decisions: what is done with what the model says, beyond taking the likeliest label.

* suggest: which unlabelled rows to label next
"""
