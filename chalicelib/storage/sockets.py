"""The management API of the WebSocket gateway: push to a connection, or end it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from chalicelib.domain.access import Connection


class Gone(Exception):
    """The connection is no longer there."""


class PushFailed(Exception):
    """The gateway did not take the frame, and the connection may still be there."""


@dataclass(frozen=True, slots=True)
class Sockets:
    """`client_of` gives the management client of a connection's own endpoint."""

    client_of: Callable[[Connection], Any]

    def push(self, connection: Connection, frame: bytes) -> None:
        """Send one text frame; raises Gone or PushFailed."""
        try:
            self.client_of(connection).post_to_connection(ConnectionId=connection.id, Data=frame)
        except ClientError as error:
            if error.response["Error"]["Code"] == "GoneException":
                raise Gone(connection.id) from error
            raise PushFailed(str(error)) from error
        except BotoCoreError as error:
            raise PushFailed(str(error)) from error

    def end(self, connection: Connection) -> None:
        """Close the connection, if the gateway lets us; its client comes back and gets a snapshot.

        One that stays open gets neither frames nor pongs once it is forgotten, and its client ends it by itself.
        """
        with suppress(ClientError, BotoCoreError):
            self.client_of(connection).delete_connection(ConnectionId=connection.id)
