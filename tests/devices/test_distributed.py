"""Several devices, one process each: distribution of work, sums and ranks; without starting processes."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import ByT5Tokenizer

from tests.models import ragged_batch, tiny_t5, training_settings, with_ia3
from tfew.cli import with_run_settings
from tfew.config import checked, compose
from tfew.data.loader import StepSampler
from tfew.data.tokenization import PromptTokenizer
from tfew.devices import launcher
from tfew.devices.distributed import deal_out
from tfew.devices.launch_env import PARENT, LaunchEnv, read_launch_env
from tfew.devices.launcher import Workload, check_workload, process_count
from tfew.errors import UserError
from tfew.methods.base import adapter_parameters
from tfew.models.build import build_method, shard_model
from tfew.models.loaded_model import Execution, LoadedModel
from tfew.ranking import evaluation
from tfew.runs.checkpoints import last_checkpoint, remove_checkpoints
from tfew.runs.identity import run_name
from tfew.schema import Batch, Prompt
from tfew.scoring.losses import T_FEW
from tfew.scoring.score import scoring_mode
from tfew.settings import TrainerSettings, settings
from tfew.together import train_together
from tfew.training import module
from tfew.training.module import FewShotModule


@given(st.lists(st.integers()), st.integers(1, 9), st.integers(1, 5))
def test_everything_is_dealt_once_and_in_order(items: list[int], processes: int, piece: int) -> None:
    numbered = list(enumerate(items))
    dealt = deal_out(numbered, processes, piece)
    assert sorted(item for hand in dealt for item in hand) == numbered
    assert all(hand == sorted(hand) for hand in dealt)
    sizes = [len(hand) for hand in dealt]
    assert max(sizes) - min(sizes) <= piece
    assert sizes[0] == max(sizes)


@pytest.mark.parametrize("piece", [1, 3])
@pytest.mark.parametrize("window", [1, 4])
def test_processes_share_the_very_batch_of_one(window: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def batches() -> list[list[tuple[int, int]]]:
        lengths = (lambda keys: [row % 5 for _, row in keys]) if window > 1 else None
        return list(StepSampler(rows=50, batch_size=8, steps=12, seed=1, window=window, lengths=lengths, piece=piece))

    alone = batches()
    together = []
    for rank in range(3):
        monkeypatch.setattr("tfew.devices.distributed.world_size", lambda: 3)
        monkeypatch.setattr("tfew.devices.distributed.rank", lambda rank=rank: rank)
        together.append(batches())
    for step, whole in enumerate(alone):
        parts = [batches_of_rank[step] for batches_of_rank in together]
        assert sorted(key for part in parts for key in part) == sorted(whole)
        assert parts[0][:piece] == whole[:piece]
        assert all(parts)


def trained_module(loss_mean: str = "step", micro: int | None = None, equal_passes: bool = False) -> Any:
    made = FewShotModule(
        with_ia3(tiny_t5()), lambda p: torch.optim.AdamW(p), T_FEW,
        training_settings(steps=1, micro_batch_size=micro), loss_mean, equal_passes,
    )  # fmt: skip
    made.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, assignment]
    return made


def gradients(made: Any, share: Batch, table: list[list[int]] | None, patch: pytest.MonkeyPatch) -> Any:
    """Terms and gradients of one process, told what all have; the row that it says itself."""
    said: list[Any] = []

    def numbers(row: Any, _: Any) -> Any:
        said.append(list(row))
        return table or [list(row)]

    patch.setattr(module, "all_gather_integers", numbers)
    terms: dict[str, float] = {}
    made.optimizers = lambda: torch.optim.SGD(made.trained_parameters(), lr=0)
    made.lr_schedulers = lambda: SimpleNamespace(step=lambda: None, get_last_lr=lambda: [0])
    made.all_reduce_step = lambda sums: sums
    made.clip_and_step = lambda optimizer, values: terms.update(values) or 0.0
    made.log_step = lambda values, tokens: None
    made.training_step(share, 0)
    vectors = torch.cat([p.grad.flatten() for p in adapter_parameters(made.model).values()])
    return terms, vectors, said[0]


@pytest.mark.parametrize(
    ("loss_mean", "micro", "equal_passes"),
    [("step", None, False), ("step", 2, False), ("step", 2, True), ("micro_batch", 2, False)],
)
def test_shares_of_a_step_add_up_to_it(
    loss_mean: str, micro: int | None, equal_passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven ragged examples over three processes; and that neither averaging shares nor own means would do."""
    batch = ragged_batch(examples=7)
    piece = micro or 1 if loss_mean == "micro_batch" else 1
    parts = [batch._each(lambda t, rows=rows: t[rows]) for rows in deal_out(list(range(7)), 3, piece)]
    made = trained_module(loss_mean, micro, equal_passes)
    terms, wanted, _ = gradients(made, batch, None, monkeypatch)
    table = [gradients(made, part, None, monkeypatch)[2] for part in parts]
    assert len({row[-1] for row in table}) == (1 if micro is None else 2), "unequal numbers of micro-batches"
    found = [gradients(made, part, table, monkeypatch) for part in parts]
    torch.testing.assert_close(sum(vectors for _, vectors, _ in found), wanted, atol=1e-6, rtol=1e-5)
    for name, value in terms.items():
        assert sum(terms[name] for terms, _, _ in found) == pytest.approx(value, abs=1e-5)
    averaged = sum(vectors for _, vectors, _ in found) / 3
    own_means = sum(gradients(made, part, None, monkeypatch)[1] for part in parts) / 3
    for wrong in (averaged, own_means):
        assert (wrong - wanted).abs().max() > 1e-2 * wanted.abs().max()


@pytest.mark.parametrize("equal", [False, True])
def test_passes_are_equal_in_number_only_where_they_must_be(equal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trained_module(micro=2, equal_passes=equal)
    passed: list[int] = []
    real = made.loss_terms
    made.loss_terms = lambda batch, total: (passed.append(len(batch)), real(batch, total))[1]
    gradients(made, ragged_batch(examples=3), [[9, 9, 3, 9, 2], [9, 9, 7, 9, 4]], monkeypatch)
    assert passed == ([2, 1, 1, 1] if equal else [2, 1])


def test_dropout_of_one_process_is_what_it_was_and_several_draw_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.step_seed(3, 5) == 8373482881831053037  # resumed runs of earlier versions rely on it
    seeds = {module.step_seed(3, 5)}
    monkeypatch.setattr(module, "world_size", lambda: 4)
    for rank in range(4):
        monkeypatch.setattr(module, "rank", lambda rank=rank: rank)
        seeds.add(module.step_seed(3, 5))
    assert len(seeds) == 5


class Together:
    """Processes one after another in this one: each scores its share, the last sees what all have."""

    def __init__(self, patch: pytest.MonkeyPatch, number: int) -> None:
        self.patch, self.number, self.said = patch, number, []

    def score(self, *arguments: Any) -> Any:
        self.said = []
        for rank in range(self.number):
            self.patch.setattr("tfew.devices.distributed.world_size", lambda: self.number)
            self.patch.setattr(evaluation, "world_size", lambda: self.number)
            self.patch.setattr("tfew.devices.distributed.rank", lambda rank=rank: rank)
            self.patch.setattr(evaluation, "all_gather_objects", self._gather)
            try:
                return evaluation._score(*arguments)
            except StopIteration:
                continue
        raise AssertionError("nobody heard from all")

    def _gather(self, mine: Any) -> Any:
        self.said.append(mine)
        if len(self.said) < self.number:
            raise StopIteration
        return self.said


@pytest.mark.parametrize("together", [False, True], ids=["ddp", "fsdp"])
@pytest.mark.parametrize(("prompts", "processes"), [(1, 2), (7, 2), (8, 3), (13, 3), (5, 4)])
def test_every_prompt_is_scored_once_whatever_the_remainder(
    prompts: int, processes: int, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt_tokenizer = with_ia3(tiny_t5(rows=384)), PromptTokenizer(ByT5Tokenizer(), 32)
    texts = [Prompt("d", "t", i, "ab" * (i % 5 + 1), ("yes", "no", "maybe")[: 2 + i % 2], 0) for i in range(prompts)]
    encoded = prompt_tokenizer.tokenize(texts)
    execution = Execution(torch.device("cpu"), torch.float32, False, False, "fast", None)
    alone_model = LoadedModel(model, prompt_tokenizer, execution, 0, None)
    shared_model = replace(alone_model, execution=replace(execution, is_sharded=together))
    passes: list[int] = []
    real = evaluation.rank_classify

    def spied(score: Any, batches: Any, *rest: Any) -> Any:
        return real(score, (passes.append(len(b)) or b for b in batches), *rest)  # type: ignore[func-returns-value]

    with scoring_mode(model):
        alone = evaluation._score(alone_model, 2, "d", texts, encoded, {})
        monkeypatch.setattr(evaluation, "rank_classify", spied)
        group = Together(monkeypatch, processes)
        shared = group.score(shared_model, 2, "d", texts, encoded, {})
    assert shared == alone
    assert sorted(place for said in group.said for place, _ in said) == list(range(prompts))
    batches = -(-prompts // 2)
    assert len(passes) == (processes * -(-batches // processes) if together else batches)


TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
    "MASTER_ADDR": "node7", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "x",
}  # fmt: skip
SLURM = {
    "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "2", "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_NTASKS_PER_NODE": "4",
}  # fmt: skip


def test_places_given_by_torchrun_and_slurm() -> None:
    assert read_launch_env({}) is None
    assert read_launch_env(TORCHRUN) == LaunchEnv(5, 8, 1, 4, "node7", 29500, "torchrun")
    assert read_launch_env({**TORCHRUN, PARENT: "77"}) == LaunchEnv(5, 8, 1, 4, "node7", 29500, "this command")
    given = read_launch_env(SLURM)
    assert given == LaunchEnv(5, 8, 1, 4, "gpu07", given.port if given else 0, "Slurm")
    others = [
        read_launch_env({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}),
        read_launch_env({**SLURM, "SLURM_STEP_ID": "1"}),
    ]
    assert [(other.address, other.port == given.port) for other in others if other and given] == [
        ("gpu07", True),
        ("gpu07", False),
    ]
    assert given is not None
    assert 10_000 <= given.port < 30_000
    assert given.environment() == {
        "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
        "MASTER_ADDR": "gpu07", "MASTER_PORT": str(given.port),
    }  # fmt: skip
    assert read_launch_env({**SLURM, **TORCHRUN}) == read_launch_env(TORCHRUN), "torchrun inside a Slurm job"


def test_slurm_without_srun_and_tasks_that_do_not_fit() -> None:
    batch_script = {key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"}
    assert read_launch_env({**batch_script, "SLURM_NNODES": "1"}) is None
    assert read_launch_env({**SLURM, "SLURM_NTASKS": "1", "SLURM_NNODES": "1"}) is None
    with pytest.raises(UserError, match=r"Slurm gave this job 2 nodes: start the command with srun"):
        read_launch_env(batch_script)
    with pytest.raises(UserError, match=r"spread 8 tasks over 3 nodes unevenly: use --ntasks-per-node"):
        read_launch_env({**SLURM, "SLURM_NNODES": "3"})


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def count(launch_env: LaunchEnv | None, *overrides: str) -> int:
        trainer = settings(TrainerSettings, compose(*overrides))
        return process_count(trainer.accelerator, trainer.devices, launch_env)

    caplog.set_level("INFO")
    eight = read_launch_env(TORCHRUN)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert count(None) == 1
    assert count(None, "trainer=ddp") == 4
    assert count(None, "trainer=fsdp", "trainer.devices=2") == 2
    assert count(eight, "trainer=ddp") == 8
    assert count(eight, "trainer.devices=8") == 8
    assert count(None, "trainer=cpu", "trainer.devices=6") == 6, "more than there are GPUs"
    with pytest.raises(UserError, match=r"trainer.devices=5, but there are 4 GPUs here"):
        count(None, "trainer=ddp", "trainer.devices=5")
    with pytest.raises(UserError, match=r"torchrun started 8 processes, but trainer.devices=1: set trainer=ddp"):
        count(eight)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"4 processes on this machine, and each sees 1 of its GPUs"):
        count(eight, "trainer=ddp")
    assert "there is one device here" not in caplog.text
    assert count(None, "trainer=ddp") == 1
    assert "there is one device here" in caplog.text


WORKLOAD = Workload("train", "ddp", 8, None, "step", None, "Adafactor")
OFFICIAL_MEAN = {"loss_mean": "micro_batch"}


@pytest.mark.parametrize(
    ("changed", "number", "message"),
    [
        ({"batch_size": 3}, 4, r"batch_size=3 examples cannot be shared by 4 devices"),
        (OFFICIAL_MEAN, 2, r"1 cannot be shared by 2 devices: set micro_batch_size=4 or less"),
        ({**OFFICIAL_MEAN, "micro_batch_size": 4}, 3, r"2 cannot be shared by 3 devices: set micro_batch_size=2"),
        ({"strategy": "fsdp", "memory_gb": 2}, 2, r"memory_gb=2 lets each device halve .* with trainer=fsdp all run"),
    ],
)
def test_what_devices_cannot_share(changed: dict[str, Any], number: int, message: str) -> None:
    workload = replace(WORKLOAD, **changed)
    with pytest.raises(UserError, match=message):
        check_workload(workload, number)
    check_workload(workload, 1)
    check_workload(WORKLOAD, number)


def test_what_keeps_to_one_device_or_to_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"train_together= trains on one device: set trainer.devices=1, not 2"):
        train_together([compose("model=tiny", "dataset=mini/complaint", "trainer.devices=2")])
    monkeypatch.setattr("tfew.models.execution.world_size", lambda: 2)
    config = compose("model=tiny", "method=fish_02", "optimizer=adamw", "trainer=fsdp")
    with pytest.raises(UserError, match=r"method=fish_02 is calibrated by one device .* trainer=fsdp .* trainer=ddp"):
        shard_model(config, tiny_t5(), torch.device("cpu"), build_method(config))


def test_deepspeed_is_missed_by_name(monkeypatch: pytest.MonkeyPatch, train_tiny: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("tfew.environment.versions.installed", lambda _: None)
    with pytest.raises(UserError, match=r"trainer=deepspeed_3 needs deepspeed, not installed here: pip install deeps"):
        train_tiny("trainer=deepspeed_3")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("tfew.environment.versions.installed", lambda _: "0.18")
    with pytest.raises(UserError, match=r"trainer=deepspeed_3 is for training on several devices"):
        train_tiny("trainer=deepspeed_3")


def test_bad_numbers_of_devices() -> None:
    for value in ("0", "some", "1.5", "true"):
        with pytest.raises(UserError, match=r"trainer.devices=\w+.* is neither auto nor a whole number"):
            checked(compose("model=tiny", f"trainer.devices={value}"))
    with pytest.raises(UserError, match=r"Unknown value 'fsdp2' \(trainer.strategy=\). Did you mean 'fsdp'"):
        checked(compose("model=tiny", "trainer.strategy=fsdp2"))


def test_a_run_is_the_same_on_however_many_devices() -> None:
    one = run_name(compose())
    assert run_name(compose("trainer=ddp")) == run_name(compose("trainer.devices=7")) == one
    assert run_name(compose("trainer=fsdp", "trainer.devices=2")) == one
    assert run_name(compose("trainer=deepspeed_3")) != one, "Adafactor's numbers are others there"
    assert run_name(compose("trainer=cpu")) != one


def test_devices_are_the_command_lines_and_not_a_saved_runs(train_tiny: Any, tmp_path: Path) -> None:
    record = train_tiny()
    assert record.config["trainer"]["devices"] == 1
    overrides = [f"adapter={tmp_path}/{record.name}", "trainer.devices=3"]
    config = with_run_settings(compose(*overrides, config_name="evaluate"), overrides)
    assert (config.trainer.devices, config.trainer.accelerator, config.trainer.strategy) == (3, "cpu", "ddp")


def test_a_checkpoint_that_is_a_folder_counts_when_it_is_whole(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoint"
    for step in (10, 20):
        (checkpoints / f"step={step}.ckpt").mkdir(parents=True)
    assert last_checkpoint(tmp_path) is None
    (checkpoints / "step=10.ckpt" / "latest").write_text("checkpoint")
    assert last_checkpoint(tmp_path) == checkpoints / "step=10.ckpt"
    remove_checkpoints(tmp_path)
    assert not checkpoints.exists()


def test_torch_is_told_how_long_processes_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **given: options.update(given))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    env = LaunchEnv(0, 2, 0, 2, "127.0.0.1", 1, "a test")
    with monkeypatch.context() as patch:
        for name in env.environment():
            patch.setenv(name, "")
        launcher._connect(OmegaConf.create({"trainer": {"accelerator": "cpu"}}), env, object())
    assert options["timeout"] == launcher.PROCESS_WAIT == timedelta(minutes=30)
