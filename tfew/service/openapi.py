"""OpenAPI schemas of JSON bodies: the service parses these itself, so FastAPI does not know them."""

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

REFERENCE = "#/components/schemas/{model}"


def json_body(kind: TypeAdapter[Any], **examples: Any) -> dict[str, Any]:
    """`openapi_extra` of a route; `add_schemas` adds what it refers to. `examples`: bodies by name."""
    schema = kind.json_schema(ref_template=REFERENCE)
    schema.pop("$defs", None)
    named = {name: {"value": value} for name, value in examples.items()}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": named}}}}


def add_schemas(app: FastAPI, *kinds: TypeAdapter[Any]) -> None:
    """Adds the schemas of these bodies to the app's description."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        described = made()
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        for kind in kinds:
            schemas.update(kind.json_schema(ref_template=REFERENCE).get("$defs", {}))
        return described

    app.openapi = openapi  # type: ignore[method-assign]
