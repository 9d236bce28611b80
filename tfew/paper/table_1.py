"""Table 1, the costs of methods, recomputed by the paper's formulas (section 4.2), with its lengths or others."""

from dataclasses import dataclass

from tfew.costs.formulas import in_context_tokens, inference_flops, token_bytes, training_flops
from tfew.paper.reference import specs

FLOAT32_BYTES = 4
UNITS = {"B": 1, "kB": 1e3, "MB": 1e6}


@dataclass(frozen=True)
class CostRow:
    """FLOPs of one example's inference, of its in-context shots without the query (`context_flops`), and of training;
    bytes on disk; `printed`: inference and training FLOPs, disk space and average accuracy in the paper."""

    inference_flops: float
    context_flops: float | None
    training_flops: float
    disk_bytes: int
    printed: tuple[float, float, str, float]

    @property
    def formula(self) -> tuple[float, float, float]:
        """FLOPs of inference and of training, bytes on disk."""
        return self.inference_flops, self.training_flops, self.disk_bytes

    @property
    def paper(self) -> tuple[float, float, float]:
        """The same, as printed."""
        inference, training, disk, _ = self.printed
        number, unit = disk.split()
        return inference, training, float(number) * UNITS[unit]


@dataclass(frozen=True)
class CostLengths:
    """Tokens of a query (an input with all its choices) and of a shot (an input with its right choice), how many shots
    a context has, and tokens of a training example, with all its choices."""

    query_tokens: float
    shot_tokens: float
    shots: int
    training_tokens: float


def paper_lengths() -> CostLengths:
    spec = specs()["costs"]
    return CostLengths(spec["query_tokens"], spec["shot_tokens"], spec["shots"], spec["query_tokens"])


def table_1(lengths: CostLengths | None = None) -> dict[str, CostRow]:
    """The rows by the paper's names; `lengths` None: the paper's."""
    spec, lengths = specs()["costs"], lengths or paper_lengths()
    query, shot, shots = lengths.query_tokens, lengths.shot_tokens, lengths.shots
    trained_tokens = spec["steps"] * spec["batch_size"] * lengths.training_tokens
    rows = {}
    for name, row in spec["rows"].items():
        parameters, halves = int(row["parameters"]), row.get("encoder_decoder", False)
        trained, in_context = row.get("trained_numbers", 0), row.get("in_context", False)
        tokens = in_context_tokens(shots, shot, query) if in_context else query
        rows[name] = CostRow(
            inference_flops=inference_flops(parameters, tokens, halves),
            context_flops=inference_flops(parameters, tokens - query, halves) if in_context else None,
            training_flops=training_flops(parameters, trained_tokens, halves) * bool(trained),
            disk_bytes=trained * FLOAT32_BYTES + (token_bytes(shots * shot) if in_context else 0),
            printed=tuple(row["printed"]),
        )
    return rows
