"""Query parameters by a marshmallow schema, with errors that name the parameter, the value and what is allowed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from chalicelib.base.errors import InvalidRequest

MAX_PAGE = 1000


class Page(NamedTuple):
    """Which part of a list: `before` is the `next` of the page before it."""

    limit: int
    before: str | None


class PageParameters(Schema):
    """The query string of a list."""

    class Meta:
        unknown = RAISE

    limit = fields.Integer(load_default=100, validate=validate.Range(1, MAX_PAGE))
    before = fields.String(
        load_default=None, validate=validate.Length(1, 256), metadata={"description": "The `next` of the page before."}
    )

    @post_load
    def _page(self, data: dict[str, Any], **_: Any) -> Page:
        return Page(**data)


def read_parameters(schema: Schema, parameters: Mapping[str, str]) -> Any:
    """Return what the schema makes of them; raises InvalidRequest."""
    try:
        return schema.load(parameters)
    except ValidationError as error:
        name, problems = next(iter(dict(error.messages_dict).items()))
        problem = problems[0] if isinstance(problems, list) else str(problems)
        value = f" (it is {parameters[name]!r})" if name in parameters else ""
        known = f"; known are {', '.join(schema.fields)}" if problem == "Unknown field." else ""
        raise InvalidRequest(f"{name}: {problem}{value}{known}", code="invalid_parameter") from error


def read_page(parameters: Mapping[str, str]) -> Page:
    """The page that is asked for; raises InvalidRequest."""
    page: Page = read_parameters(_PAGE, parameters)
    return page


_PAGE = PageParameters()
