"""Few-shot training with PyTorch Lightning.

* module: `FewShotModule.training_step`
* micro_batches: micro-batches, halved if memory does not suffice
* fit: runs Lightning's Trainer; resumes an interrupted run
* atomic_checkpoint: checkpoints written atomically
* random_state: random numbers apart from those of the program around it
* optim: schedule and clipping
* folds_at_once: trains folds at the same time, each in a process
* folds, cross_validation: assignment of rows to folds; k-fold cross-validation
* time_left: remaining time of this training and those after it
* tune: tries a few settings and selects the best
* joint_training: trains several runs in one process
* strategy, deepspeed: Lightning's strategies for several devices
"""
