"""Rank and world size of a process, from the environment that its launcher set: torchrun, Slurm, or our own command."""

from collections.abc import Mapping
from dataclasses import dataclass

from tfew.errors import UserError

PARENT = "TFEW_STARTED_BY"  # in the environment of processes that a command started: its process id


@dataclass(frozen=True)
class LaunchEnv:
    """Rank of a process in its run and on its machine, and the address where the first process listens."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int
    starter: str  # who started it, for messages

    def environment(self) -> dict[str, str]:
        """torchrun's environment variables, which torch and Lightning read."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "GROUP_RANK": str(self.rank // self.local_world_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def read_launch_env(environment: Mapping[str, str]) -> LaunchEnv | None:
    """The environment set by torchrun, srun or a command of this project for this process; None if there is none.

    Raises UserError if Slurm gave several nodes and `srun` was not used, or if it spread the tasks unevenly.
    """
    if all(environment.get(key, "").isdigit() for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")):
        processes = int(environment["WORLD_SIZE"])
        return LaunchEnv(
            int(environment["RANK"]),
            processes,
            int(environment["LOCAL_RANK"]),
            int(environment.get("LOCAL_WORLD_SIZE", processes)),
            environment.get("MASTER_ADDR", "127.0.0.1"),
            int(environment["MASTER_PORT"]),
            "this command" if PARENT in environment else "torchrun",
        )
    tasks, nodes = (int(environment.get(key) or 1) for key in ("SLURM_NTASKS", "SLURM_NNODES"))
    if not environment.get("SLURM_STEP_ID"):  # in a batch script, before srun
        if nodes > 1:
            raise UserError(f"Slurm gave this job {nodes} nodes: start the command with srun, which uses all of them.")
        return None
    if tasks == 1:
        return None
    if tasks % nodes:
        raise UserError(f"Slurm spread {tasks} tasks over {nodes} nodes unevenly: use --ntasks-per-node.")
    return LaunchEnv(
        int(environment["SLURM_PROCID"]),
        tasks,
        int(environment["SLURM_LOCALID"]),
        tasks // nodes,
        environment.get("MASTER_ADDR") or _first_host(environment),
        int(environment.get("MASTER_PORT") or _port(environment)),
        "Slurm",
    )


def _first_host(environment: Mapping[str, str]) -> str:
    from pytorch_lightning.plugins.environments import SLURMEnvironment

    keys = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((environment[key] for key in keys if environment.get(key)), "127.0.0.1")
    return SLURMEnvironment.resolve_root_node_address(nodes)


def _port(environment: Mapping[str, str]) -> int:
    """A port that is the same for all tasks of a job's step and differs between jobs and steps."""
    job, step = (int(environment.get(key) or 0) for key in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    return 10_000 + (31 * job + step) % 20_000
