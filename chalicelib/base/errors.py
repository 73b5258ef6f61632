"""The errors that a caller can do something about; each has a code, which app.py alone maps to an HTTP status."""

MAX_RETRY_SECONDS = 300  # SDKs take no longer one, and browsers' timers overflow at 24 days


class TidemarkError(Exception):
    """A refusal with a stable `code` and a `message` that states the problem, the value and the limit."""

    code = "internal"
    retry_seconds: int | None = None  # when the same may succeed, MAX_RETRY_SECONDS at most

    def __init__(self, message: str, *, code: str | None = None, details: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.details = details or {}


class InvalidRequest(TidemarkError):
    """The request as a whole cannot be used."""

    code = "invalid_request"


class PayloadTooLarge(TidemarkError):
    """The body, or what it inflates to, is over the limit."""

    code = "payload_too_large"


class UnsupportedMediaType(TidemarkError):
    """The body is declared as something that is not read."""

    code = "unsupported_media_type"


class Unauthenticated(TidemarkError):
    """No key, or one that is not known."""

    code = "invalid_key"


class Forbidden(TidemarkError):
    """The key is known and lacks the scope."""

    code = "missing_scope"


class NotFound(TidemarkError):
    """What was named does not exist in this project."""

    code = "not_found"


class TooManyRequests(TidemarkError):
    """More than the key may send now; nothing of the request was taken."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_seconds: int, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_seconds = retry_seconds


class Unavailable(TidemarkError):
    """A store does not answer; nothing was acknowledged, and the caller may send the same again."""

    code = "unavailable"
    retry_seconds = 5


class HoursNotConsolidated(Exception):
    """Some hours of the lake could not be consolidated, and the others are done: the workflow is to fail, at last."""


def quoted(value: object) -> str:
    """A client's value as messages show it; of a list or an object only what it is, for a deep one has no repr."""
    return type(value).__name__ if isinstance(value, list | dict) else repr(value)[:64]
