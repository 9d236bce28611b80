"""The models of configs/model by size, and whether they fit into this machine's memory."""

from dataclasses import dataclass

from tfew.config import CONFIGS, hydra_at_work
from tfew.runs.units import duration, format_bytes

BESIDE_WEIGHTS_BYTES = 1e9  # at least: the process itself, and a batch computed in parts
BFLOAT16_BYTES = 2
SMALLEST_PARAMETERS = 10_000_000  # smaller models are no language models


@dataclass(frozen=True)
class NamedModel:
    name: str
    parameters: int


def named_models() -> list[NamedModel]:
    """The models of configs/model whose shape is known without a download, smallest first."""
    from hydra import compose
    from omegaconf import OmegaConf

    from tfew.models.backbone import shape_of
    from tfew.models.shapes import shape_of_config

    found = []
    with hydra_at_work():
        for path in sorted(CONFIGS.glob("model/*.yaml")):
            model = OmegaConf.to_container(compose(f"model/{path.stem}").model, resolve=True)
            assert isinstance(model, dict)
            if model["config"] is None and model["arch"] is None:
                continue
            shape = shape_of(model["arch"]) if model["config"] is None else shape_of_config(model["config"])
            found.append(NamedModel(path.stem, sum(parameter.numel() for parameter in shape.parameters())))
    large = [model for model in found if model.parameters >= SMALLEST_PARAMETERS]
    return sorted(large, key=lambda model: model.parameters)


def training_verdict(model: NamedModel, free_bytes: float, weight_bytes: int, seconds: float) -> str:
    """Whether a model's weights fit, as loaded (`weight_bytes` each) or in bfloat16, and the seconds it then takes."""
    for of_each, setting in ((weight_bytes, ""), (BFLOAT16_BYTES, ", with model.dtype=bfloat16")):
        if model.parameters * of_each + BESIDE_WEIGHTS_BYTES <= free_bytes:
            return f"{duration(seconds)}{setting}"
    needed_bytes = model.parameters * BFLOAT16_BYTES + BESIDE_WEIGHTS_BYTES
    return f"no: it needs {format_bytes(needed_bytes)} free"
