"""API Gateway's `@connections` in memory: frames for open sockets, 410 for those that are gone."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.ports.client import Answer, Service, refusal

MAX_FRAME_BYTES = 128 * 1024


@dataclass
class Socket:
    """An open connection: `receive` gets each frame, `closed` is called when it is ended from this side."""

    receive: Callable[[bytes], None]
    closed: Callable[[], None]
    hangs: bool = False  # takes nothing, and says nothing: a push runs into its time-out


@dataclass
class Connections(Service):
    """Sockets by their connection's id."""

    open: dict[str, Socket] = field(default_factory=dict)
    most_bytes: int = MAX_FRAME_BYTES  # of a frame
    name: str = "apigatewaymanagementapi"

    def post_to_connection(self, ConnectionId: str, Data: bytes | str) -> Answer:
        """Send a frame."""
        frame = Data.encode() if isinstance(Data, str) else bytes(Data)
        socket = self._socket(ConnectionId)
        if len(frame) > self.most_bytes:
            message = f"the frame has {len(frame)} bytes; the limit is {self.most_bytes}"
            raise refusal("PayloadTooLargeException", message, status=413)
        socket.receive(frame)
        return {}

    def get_connection(self, ConnectionId: str) -> Answer:
        """That it is there."""
        self._socket(ConnectionId)
        return {"Identity": {}}

    def delete_connection(self, ConnectionId: str) -> Answer:
        """End a connection."""
        self._socket(ConnectionId)
        self.open.pop(ConnectionId).closed()
        return {}

    def _socket(self, connection: str) -> Socket:
        if connection not in self.open:
            raise refusal("GoneException", "410 Gone", status=410)
        return self.open[connection]
