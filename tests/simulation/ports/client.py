"""A boto3 client of a service in memory: its calls, exceptions and paginators, and the errors that botocore raises."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from botocore.exceptions import ClientError

Answer = dict[str, Any]
Effect = Callable[..., Answer]
Link = Callable[[str, str, dict[str, Any], Effect], Answer]

_CLASSES: dict[str, type[ClientError]] = {}

# By operation: what of an answer goes into the next request, and where the token of PaginationConfig's PageSize goes.
_PAGINATORS: dict[str, tuple[dict[str, str], str]] = {
    "query": ({"LastEvaluatedKey": "ExclusiveStartKey"}, "Limit"),
    "scan": ({"LastEvaluatedKey": "ExclusiveStartKey"}, "Limit"),
    "list_objects_v2": ({"NextContinuationToken": "ContinuationToken"}, "MaxKeys"),
    "get_query_results": ({"NextToken": "NextToken"}, "MaxResults"),
}


def exception_class(code: str) -> type[ClientError]:
    """The class that `client.exceptions` has for an error code."""
    if code not in _CLASSES:
        _CLASSES[code] = type(code, (ClientError,), {})
    return _CLASSES[code]


def refusal(code: str, message: str, *, status: int = 400, **more: Any) -> ClientError:
    """The error that botocore raises for a service's answer; `more` stands in the answer beside `Error`."""
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}, **more}
    return exception_class(code)(answer, "Operation")


class Exceptions:
    """`client.exceptions`: each name is a class that can be caught."""

    def __getattr__(self, name: str) -> type[ClientError]:
        return exception_class(name)


class Service:
    """A service in memory; each public method is an operation that takes boto3's arguments."""

    name: str


def at_once(_service: str, _operation: str, arguments: dict[str, Any], effect: Effect) -> Answer:
    """Carry the call out; nothing goes wrong."""
    return effect(**arguments)


class Client:
    """Calls a service through a link, which may let other actors go first, or have the call fail."""

    exceptions = Exceptions()

    def __init__(self, service: Service, link: Link = at_once) -> None:
        self._service = service
        self._link = link

    def __getattr__(self, operation: str) -> Callable[..., Answer]:
        if operation.startswith("_"):
            raise AttributeError(operation)
        effect, name, link = getattr(self._service, operation), self._service.name, self._link

        def call(**arguments: Any) -> Answer:
            return link(name, operation, arguments, effect)

        setattr(self, operation, call)
        return call

    def get_paginator(self, operation: str) -> "Paginator":
        """Reads on until there is no next page."""
        return Paginator(getattr(self, operation), *_PAGINATORS[operation])

    def generate_presigned_url(self, operation: str, Params: Mapping[str, str], ExpiresIn: int) -> str:
        """A link; making one is no call."""
        return f"https://{operation}.example/{Params['Bucket']}/{Params['Key']}?expires={ExpiresIn}"

    def close(self) -> None:
        """Nothing is open."""


class Paginator:
    """The pages of an operation; each is a call."""

    def __init__(self, call: Callable[..., Answer], tokens: Mapping[str, str], size: str) -> None:
        self._call, self._tokens, self._size = call, tokens, size

    def paginate(self, PaginationConfig: Mapping[str, Any] | None = None, **arguments: Any) -> Iterator[Answer]:
        """Each page when it is asked for."""
        if PaginationConfig and "PageSize" in PaginationConfig:
            arguments[self._size] = PaginationConfig["PageSize"]
        while True:
            page = self._call(**arguments)
            yield page
            following = {asked: page[token] for token, asked in self._tokens.items() if page.get(token)}
            if not following:
                return
            arguments |= following
