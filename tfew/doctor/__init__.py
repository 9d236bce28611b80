"""What this machine has, and what can be done with it: `tfew doctor` (`__main__`).

* libraries: versions and extras (`tfew --version`)
* named_models: the models of configs/model by size, and which of them fit
"""
