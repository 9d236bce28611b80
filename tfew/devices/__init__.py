"""Several processes, one a device: starting them, telling them apart, what they send one another.

* launcher: starts and watches the processes of a run
* launch_env: rank and world size as torchrun, Slurm or the launcher set them
* distributed: all_reduce, broadcast, all_gather, barrier
* cpu: threads for the cores that are free, memory that is kept
* memory: what a device has, and the most that was used
* sharding: frozen weights sharded with FSDP2
* zero: weights partitioned with DeepSpeed ZeRO 3
* ray_cluster: a connection to Ray
"""
