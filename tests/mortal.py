"""Clients of a process that is killed at one of its writes."""

from collections.abc import Callable
from typing import Any


class Died(BaseException):
    """The process was killed."""


class Mortal:
    """A client whose process dies before its nth write, which is after the one before; `look` is called after each.

    Clients of one process share their `life`, in which each write is noted.
    """

    WRITES = (
        *("put_item", "update_item", "delete_item", "transact_write_items", "batch_write_item"),
        *("put_object", "delete_object", "upload_part", "complete_multipart_upload", "create_multipart_upload"),
    )

    def __init__(
        self, client: Any, dies_at: int = 0, look: Callable[[], None] | None = None, life: list[str] | None = None
    ) -> None:
        self.client, self.dies_at, self.look = client, dies_at, look
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
            if self.writes == self.dies_at:
                raise Died
            answer = found(**arguments)
            if self.look:
                self.look()
            return answer

        return write
