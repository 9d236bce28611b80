"""Multi-device runs, with one process per device: launching, ranks and communication.

* launcher: starts and monitors the processes of a run
* launch_env: rank and world size as torchrun, Slurm or the launcher set them
* distributed: all_reduce, broadcast, all_gather, barrier
* cpu: threads for the free cores, retention of freed memory
* hardware: names of devices
* memory: memory of a device, and peak use
* sharding: frozen weights sharded with FSDP2
* zero: weights partitioned with DeepSpeed ZeRO 3
* ray_cluster: a connection to Ray
"""
