"""Clients of a process that is killed at one of its writes."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError


class Died(BaseException):
    """The process was killed."""


def nobody() -> None:
    """Looks at nothing."""


class Mortal:
    """A client whose process dies before or after its nth write; after each write somebody looks.

    Clients of one process share their `life`, a list that each write is noted in.
    """

    WRITES = (
        *("put_item", "update_item", "delete_item", "transact_write_items", "batch_write_item"),
        *("put_object", "delete_object", "upload_part", "complete_multipart_upload", "create_multipart_upload"),
    )

    def __init__(
        self,
        client: Any,
        dies_at: int,
        *,
        after: bool,
        look: Callable[[], None] = nobody,
        life: list[str] | None = None,
    ) -> None:
        self.client, self.dies_at, self.after, self.look = client, dies_at, after, look
        self.life: list[str] = [] if life is None else life

    @property
    def writes(self) -> int:
        """How many there were."""
        return len(self.life)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)
        if name not in self.WRITES:
            return found

        def write(**arguments: Any) -> Any:
            self.life.append(name)
            dies = self.writes == self.dies_at
            if dies and not self.after:
                raise Died
            try:
                answer = found(**arguments)
            except ClientError:  # a condition that did not hold is an answer as well
                if dies:
                    raise Died from None
                raise
            self.look()
            if dies:
                raise Died
            return answer

        return write
