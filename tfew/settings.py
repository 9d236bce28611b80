"""Settings with their types, choices and bounds: each class is a group of `configs/`, each field a key in it.

`tfew.config.checked` checks all of them once; below the commands they are passed as these plain objects. The YAML files
have their values and explain them.
"""

from dataclasses import MISSING, dataclass, fields, replace
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from tfew.errors import UserError, unknown_value_error

T = TypeVar("T", bound="Settings")


@dataclass(frozen=True)
class AtLeast:
    """A lower bound of a number; `above`: the bound is exclusive."""

    bound: float
    above: bool = False


@dataclass(frozen=True)
class Share:
    """Bounds of a number below 1, of at least 0 or above it."""

    above: bool = False


Count = Annotated[int, AtLeast(1)]
Seed = Annotated[int, AtLeast(0)]
Positive = Annotated[float, AtLeast(0, above=True)]
NotNegative = Annotated[float, AtLeast(0)]


class Settings:
    """A group of settings, `group` in the configuration ("": its top level), and the valid values of each key."""

    group: ClassVar[str] = ""


@dataclass(frozen=True)
class ModelSettings(Settings):
    group = "model"
    name: str
    path: str | None
    revision: str
    tokenizer: str | None
    dtype: Literal["auto", "bfloat16", "float32", "int8", "nf4"]
    gguf_file: str | None = None
    tokenizer_revision: str = "main"
    commit: str | None = None
    tokenizer_commit: str | None = None
    weights_sample_sha256: str | None = None


@dataclass(frozen=True)
class BaseSettings(Settings):
    """Whether an adapter may be used on another base model than its own."""

    base: Literal["pinned", "any"] = "pinned"


@dataclass(frozen=True)
class ArchSettings(Settings):
    group = "model.arch"
    init: Literal["t5", "look_up"] | None = None  # of random weights


@dataclass(frozen=True)
class TemplateSettings(Settings):
    group = "templates"
    use: Literal["original", "all", "single"]
    name: str | None
    eval: Literal["each", "random"]


@dataclass(frozen=True)
class ScoreSettings(Settings):
    group = "score"
    norm: Literal["token", "sum", "char", "byte", "pmi"]
    method: Literal["direct", "channel", "calibrated"]
    eos: Literal["auto", "include", "exclude"] = "auto"
    shortlist: Count | None = None


@dataclass(frozen=True)
class PromptSettings(Settings):
    """How inputs are shown to the model."""

    group = "prompt"
    chat: bool = False


@dataclass(frozen=True)
class InContextSettings(Settings):
    """In-context learning, for `evaluate` only."""

    group = "icl"
    mode: Literal["none", "concat", "ensemble"] = "none"
    shots: Count | None = None
    order_seed: Seed = 0
    combine: Literal["probability", "vote"] = "probability"
    too_long: Literal["refuse", "drop"] = "refuse"


@dataclass(frozen=True)
class TrainerSettings(Settings):
    group = "trainer"
    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Annotated[int, AtLeast(1)] | Literal["auto"]
    strategy: Literal["ddp", "fsdp", "deepspeed_3"]
    autocast: bool = False


@dataclass(frozen=True)
class FidelitySettings(Settings):
    group = "fidelity"
    unlikely_epsilon: NotNegative
    loss_mean: Literal["step", "micro_batch"]
    limit_train_templates: bool
    autocast: bool = False
    field_order: Literal["settings", "table"] | None = None


@dataclass(frozen=True)
class OptimizerSettings(Settings):
    """Settings common to all optimisers; each has further arguments of its own."""

    group = "optimizer"
    lr: Positive
    weight_decay: NotNegative


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Settings of the training steps."""

    seed: Seed
    steps: Count
    batch_size: Count
    micro_batch_size: Count | None
    length_window: Count
    warmup_ratio: Annotated[float, Share()]
    clip_norm: Positive
    checkpoint_every: Count
    workers: Seed
    engine: Literal["fast", "plain"]
    memory_gb: Positive | None

    @property
    def memory_bytes(self) -> float | None:
        """None: all available memory."""
        return None if self.memory_gb is None else 1e9 * self.memory_gb


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """How prompts are ranked."""

    eval_batch_size: Count
    score: ScoreSettings
    icl: InContextSettings
    prompt: PromptSettings
    baselines: bool = True

    @property
    def in_full(self) -> "EvaluationSettings":
        """The same with all choices scored, as for a training run's own metrics and temperature."""
        return replace(self, score=replace(self.score, shortlist=None))


@dataclass(frozen=True)
class DataSettings(Settings):
    """The choice of rows."""

    few_shot: Literal["official", "files", "draw", "all"]
    few_shot_seed: Seed
    shots: Count | None
    folds: Annotated[int, AtLeast(2)] | None
    max_tokens: Annotated[int, AtLeast(2)]
    eval_seed: Seed
    eval_rows: Count | None = None
    validation: Annotated[float, Share(above=True)] | None = None
    tune: bool = False
    list_labels: bool | None = None
    multi_label: Literal["auto"] | bool = "auto"
    separator: str | None = None
    folds_at_once: Count = 1


@dataclass(frozen=True)
class CommandSettings(Settings):
    """How a command handles existing results, and how it prints."""

    resume: bool = False
    overwrite: bool = False
    json: bool = False
    measure: bool = False


def settings(kind: type[T], config: DictConfig) -> T:
    """This group of the configuration as plain values, and the groups that belong to it.

    Raises UserError for an invalid value.
    """
    node = config if not kind.group else OmegaConf.select(config, kind.group)
    found: dict[str, Any] = {}
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):  # type: ignore[arg-type]
        if isinstance(hint := hints[field.name], type) and issubclass(hint, Settings):
            found[field.name] = settings(hint, config)
            continue
        default = None if field.default is MISSING else field.default
        value = default if node is None else OmegaConf.select(node, field.name, default=default)
        found[field.name] = value
        check_value(f"{kind.group}.{field.name}".lstrip("."), value, hint)
    return kind(**found)


def check_value(key: str, value: object, hint: Any) -> None:
    """Raises UserError if the value does not match the field's annotation."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if any(_fits(value, kind) for kind in kinds):
        return
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    described = [text for kind in kinds if get_origin(kind) is not Literal and (text := _description(kind))]
    if not described:
        raise unknown_value_error("value", value, choices, f"{key}=")
    if described == ["true or false"] and not choices:
        raise UserError(f"{key}={value!r} is neither true nor false.")
    if choices:
        raise UserError(f"{key}={value} is neither {' nor '.join([*map(str, choices), *described])}.")
    raise UserError(f"{key}={value} is not {' or '.join(described)}.")


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is not Annotated:
        return isinstance(value, kind) if kind in (bool, type(None)) else kind is not int
    number, bound = get_args(kind)
    if not isinstance(value, (int, float) if number is float else int) or isinstance(value, bool):
        return False
    if isinstance(bound, Share):
        low, high = 0.0, 1.0
    else:
        low, high = bound.bound, float("inf")
    return (value > low if bound.above else value >= low) and value < high


def _description(kind: Any) -> str:
    """A description of valid values; empty if there is none."""
    if kind is bool:
        return "true or false"
    if get_origin(kind) is not Annotated:
        return ""
    number, bound = get_args(kind)
    if isinstance(bound, Share):
        return "a share between 0 and 1, such as 0.25" if bound.above else "in [0, 1)"
    what = "a whole number" if number is int else "a number"
    return f"{what} {'above' if bound.above else 'of at least'} {bound.bound}"
