"""The service's JSON requests and responses; the OpenAPI description is made of these."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

ONE, MANY = "one", "many"
Strict = ConfigDict(extra="forbid")


class Item(BaseModel):
    """One row to label: `text` if the task has one column, else `row`, its columns."""

    model_config = Strict
    task: str | None = Field(None, description="whose labels; may be left out where the service has one task")
    text: str | None = None
    row: dict[str, Any] | None = None

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
    inputs: bool = Field(False, description="whether answers hold what the model was shown")


def _discriminate(body: Any) -> str:
    many = "items" in body if isinstance(body, Mapping) else isinstance(body, PredictRequest)
    return MANY if many else ONE


OneOrMany = Annotated[Annotated[Item, Tag(ONE)] | Annotated[PredictRequest, Tag(MANY)], Discriminator(_discriminate)]


class Label(BaseModel):
    task: str
    label: str
    probability: float = Field(description="of the label; of several labels, that they are right and no other is")
    probabilities: dict[str, float]
    labels: list[str] | None = Field(None, description="all of the row's, where it may have several; null: one label")
    inputs: list[str] | None = Field(None, description="what the model was shown: one text for each template")


class PredictResponse(BaseModel):
    """`labels` are in the order of the items."""

    labels: list[Label]
    milliseconds: float


class TaskDescription(BaseModel):
    name: str
    labels: list[str] | None = Field(description="null: each row has choices of its own")
    columns: list[str]
    text_column: str | None = Field(description="the column that a plain text is; null: rows have several")
    templates: list[str]
    several: bool = Field(False, description="whether a row may have several labels")


class NewTask(BaseModel):
    model_config = Strict
    name: str = Field(min_length=1, max_length=200)
    folder: str = Field(description="of the adapter, below the folder that the service was told (manage=)")


class Health(BaseModel):
    status: str
    tasks: int
    waiting_rows: int
    oldest_row_seconds: float = Field(description="how long the oldest of them has waited")


class Problem(BaseModel):
    detail: Any


def format_validation_error(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as a sentence; parts of the body are named as in `items.2.text`, counted from 0."""
    where = ".".join(str(part) for part in error["loc"] if part not in ("body", ONE, MANY))
    return f"{where or 'body'}: {error['msg'].removeprefix('Value error, ')}."
