"""What `POST /query`, `GET /query/{id}` and saved queries may be asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from chalicelib.base.parameters import read_parameters

MAX_SQL_LENGTH = 65_536
MAX_PAGE = 1000
ROWS, PARQUET = "rows", "parquet"
MAX_NAME = 64
NAME = validate.Regexp(r"^[a-z][a-z0-9_-]{0,63}\Z", error=f"a letter, then {MAX_NAME - 1} of a-z, 0-9, _ and - at most")

Value = str | int | float | bool | None | Sequence[str | int | float | bool]  # of a parameter


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """SQL, or the name of a saved query; the values of its parameters; what is wanted of the result."""

    sql: str | None
    name: str | None
    parameters: Mapping[str, Value]
    format: str
    limit: int


@dataclass(frozen=True, slots=True)
class ResultPage:
    """Which rows of a result: `page` is the `next` of an answer."""

    limit: int
    page: str | None = None


@dataclass(frozen=True, slots=True)
class QueryToSave:
    """A query under its name."""

    name: str
    sql: str
    description: str


_LIMIT = fields.Integer(
    load_default=MAX_PAGE,
    validate=validate.Range(1, MAX_PAGE),
    metadata={"description": "Rows of one answer."},
)
_SQL = {"description": "One SELECT on `events`, in Athena's dialect.", "example": "SELECT count(*) FROM events"}


class QueryBody(Schema):
    """The body of `POST /query`."""

    class Meta:
        unknown = RAISE

    sql = fields.String(load_default=None, validate=validate.Length(1, MAX_SQL_LENGTH), metadata=_SQL)
    name = fields.String(
        load_default=None, validate=NAME, metadata={"description": "Of a saved query, in place of `sql`."}
    )
    parameters = fields.Dict(
        keys=fields.String(),
        load_default=dict,
        metadata={"description": "What stands as `:name` in the query: text, a number, a boolean, null, or a list."},
    )
    format = fields.String(
        load_default=ROWS,
        validate=validate.OneOf([ROWS, PARQUET]),
        metadata={"description": "`parquet` answers links to files, and no rows."},
    )
    limit = _LIMIT

    @post_load
    def _request(self, data: dict[str, Any], **_: Any) -> QueryRequest:
        if (data["sql"] is None) == (data["name"] is None):
            raise ValidationError("the body needs either sql, such as SELECT count(*) FROM events, or a name", "sql")
        return QueryRequest(**data)


class ResultParameters(Schema):
    """The query string of `GET /query/{id}`."""

    class Meta:
        unknown = RAISE

    limit = _LIMIT
    page = fields.String(
        load_default=None, validate=validate.Length(1, 1024), metadata={"description": "The `next` of an answer."}
    )

    @post_load
    def _page(self, data: dict[str, Any], **_: Any) -> ResultPage:
        return ResultPage(**data)


class SavedQueryBody(Schema):
    """The body of `POST /queries`."""

    class Meta:
        unknown = RAISE

    name = fields.String(required=True, validate=NAME, metadata={"example": "signups-by-day"})
    sql = fields.String(required=True, validate=validate.Length(1, MAX_SQL_LENGTH), metadata=_SQL)
    description = fields.String(load_default="", validate=validate.Length(0, 500))

    @post_load
    def _query(self, data: dict[str, Any], **_: Any) -> QueryToSave:
        return QueryToSave(**data)


_BODY, _PAGE, _SAVED = QueryBody(), ResultParameters(), SavedQueryBody()


def read_query(body: Mapping[str, Any]) -> QueryRequest:
    """Raises InvalidRequest naming the field, the value and what is allowed."""
    request: QueryRequest = read_parameters(_BODY, body)
    return request


def read_result(parameters: Mapping[str, str]) -> ResultPage:
    """Raises InvalidRequest naming the parameter, the value and what is allowed."""
    page: ResultPage = read_parameters(_PAGE, parameters)
    return page


def read_saved(body: Mapping[str, Any]) -> QueryToSave:
    """Raises InvalidRequest naming the field, the value and what is allowed."""
    query: QueryToSave = read_parameters(_SAVED, body)
    return query
