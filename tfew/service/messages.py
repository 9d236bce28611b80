"""The service's JSON requests and responses; the OpenAPI description is generated from them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

ONE, MANY = "one", "many"
Strict = ConfigDict(extra="forbid")


class Item(BaseModel):
    """One row to label: `text` if the task has one column, else `row`, its columns."""

    model_config = Strict
    task: str | None = Field(None, description="the task to answer; optional if the service has only one")
    text: str | None = None
    row: dict[str, Any] | None = None
    threshold: float | None = Field(None, ge=0, le=1, description="overrides the task's own for this row")

    @model_validator(mode="after")
    def _check_text_or_row(self) -> "Item":
        if (self.text is None) == (self.row is None):
            raise ValueError("an item has either text or row")
        return self

    @property
    def content(self) -> Any:
        return self.text if self.row is None else self.row


class PredictRequest(BaseModel):
    """Many rows, of any mix of tasks."""

    model_config = Strict
    items: list[Item] = Field(min_length=1)
    inputs: bool = Field(False, description="whether answers include the texts the model was shown")
    threshold: float | None = Field(None, ge=0, le=1, description="overrides the tasks' own, for rows without one")


def _discriminate(body: Any) -> str:
    many = "items" in body if isinstance(body, Mapping) else isinstance(body, PredictRequest)
    return MANY if many else ONE


OneOrMany = Annotated[Annotated[Item, Tag(ONE)] | Annotated[PredictRequest, Tag(MANY)], Discriminator(_discriminate)]


class Label(BaseModel):
    task: str
    label: str | None = Field(description="null: less probable than the threshold")
    probability: float = Field(description="of the guess; for several labels, that exactly these are right")
    probabilities: dict[str, float]
    guess: str = Field(description="the likeliest label, also where label is null")
    abstained: bool = Field(description="whether the guess is less probable than the threshold")
    labels: list[str] | None = Field(description="the label set: holds the right one as often as sets= asks")
    label_set: list[str] | None = Field(None, description="the row's labels, if it may have several; null: it has one")
    inputs: list[str] | None = Field(None, description="what the model was shown: one text for each template")


class PredictResponse(BaseModel):
    """`labels` are in the order of the items."""

    labels: list[Label]
    milliseconds: float


class Point(BaseModel):
    """`coverage`: the share of held-out rows that a threshold answers; `accuracy`: the share of these that is right."""

    threshold: float
    coverage: float
    accuracy: float


class TaskDescription(BaseModel):
    name: str
    labels: list[str] | None = Field(description="null: each row has choices of its own")
    columns: list[str]
    text_column: str | None = Field(description="the column that a plain text fills; null: rows have several")
    templates: list[str]
    threshold: float | None = Field(description="the probability below which a row gets no label; null: each gets one")
    sets: float | None = Field(description="how often a set of labels should hold the right one; null: no sets")
    answering: list[Point] | None = Field(description="accuracy by coverage on held-out rows; null: there are none")
    several: bool = Field(False, description="whether a row may have several labels")


class NewTask(BaseModel):
    model_config = Strict
    name: str = Field(min_length=1, max_length=200)
    folder: str = Field(description="the adapter's folder, relative to manage=")
    replace: bool = Field(False, description="whether to replace a task of that name")


class Health(BaseModel):
    status: str
    tasks: int
    waiting_rows: int
    oldest_row_seconds: float = Field(description="how long the oldest of them has waited")
    process: str | None = Field(None, description="which of several processes (processes=) has answered")


class Problem(BaseModel):
    detail: Any


def format_validation_error(error: Mapping[str, Any]) -> str:
    """A pydantic error as a sentence; parts of the body are named like `items.2.text`, counted from 0."""
    where = ".".join(str(part) for part in error["loc"] if part not in ("body", ONE, MANY))
    return f"{where or 'body'}: {error['msg'].removeprefix('Value error, ')}."
