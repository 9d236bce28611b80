"""`tfew doctor` (`__main__`): reports this machine's resources and what can be trained on it.

* libraries: versions and extras (`tfew --version`)
* named_models: the models of configs/model by size, and which of them fit
"""
