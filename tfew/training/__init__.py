"""Few-shot training with PyTorch Lightning.

* module: `FewShotModule.training_step`
* micro_batches: halved where memory does not suffice
* fit: the trainer around it; a killed run is resumed here
* atomic_checkpoint: checkpoints written atomically
* optim: schedule and clipping
* folds_at_once: folds trained at the same time, each by a process
* folds, cross_validation: which fold each row is in; k folds
* time_left: how long this training and those after it will take
* tune: a few settings, and the best of them
* joint_training: several runs in one process
* strategy, deepspeed: Lightning's strategies for several devices
"""
