"""The AWS services in the tests' own process: one for all of them, for MiniStack's state is its modules'."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest

from localcloud.athena_executions import Executions
from localcloud.emulator import Emulator
from localcloud.places import Places
from localcloud.pump import Waker
from localcloud.server import AsgiServer
from localcloud.wire import CloudApi


@dataclass
class Services:
    """MiniStack on a port of its own."""

    port: int
    emulator: Emulator
    server: AsgiServer
    waker: Waker
    api: CloudApi
    queries: Executions
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        """A boto3 client of it."""
        if service not in self.clients:
            self.clients[service] = boto3.client(
                service,
                endpoint_url=f"http://127.0.0.1:{self.port}",
                region_name="us-east-1",
                aws_access_key_id="test",
                aws_secret_access_key="test",
            )
        return self.clients[service]


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The AWS services, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3_PERSIST", "1")  # what the emulator sets is taken back at the end
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        port = listener.getsockname()[1]
        places = Places(tmp_path_factory.mktemp("services"))
        emulator = Emulator(places, port)
        from localcloud import athena

        queries = athena.install(places.root / "athena")
        server = AsgiServer(emulator.app, listener, "services")
        waker = Waker()
        emulator.wake(waker.notify)
        services = Services(port, emulator, server, waker, CloudApi(port), queries)
        yield services
        for client in services.clients.values():
            client.close()
        server.stop()
