"""Serves an ASGI app on a socket of its own thread and loop."""

import asyncio
import socket
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from hypercorn.asyncio import serve
from hypercorn.config import Config

T = TypeVar("T")

KEEP_ALIVE_SECONDS = 75
STOP_SECONDS = 9.0  # for the requests in progress at the end
WORKERS = 32  # functions that sockets wait for at one time


class AsgiServer:
    """Starts at once; `stop` ends it gracefully, the app's lifespan included."""

    def __init__(self, app: Any, listener: socket.socket, name: str, *, max_message_bytes: int | None = None) -> None:
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.keep_alive_timeout = KEEP_ALIVE_SECONDS
        config.graceful_timeout = 1.0
        config.loglevel = "WARNING"
        config.backlog = 1024
        config.include_server_header = False
        if max_message_bytes is not None:
            config.websocket_max_message_size = max_message_bytes
        self.loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(app, config), name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run something on the server's own loop and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def stop(self, within_seconds: float = STOP_SECONDS) -> bool:
        """Whether the app has shut down by then; what clients have not taken after a third of the time is dropped."""
        until = time.monotonic() + within_seconds
        with suppress(RuntimeError):  # it has ended already
            self.loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(within_seconds / 3)
            while self._thread.is_alive() and time.monotonic() < until:
                self.loop.call_soon_threadsafe(self._abort)
                self._thread.join(0.1)
        return not self._thread.is_alive()

    def _abort(self) -> None:
        """Hypercorn waits for what it has written to be taken, and gives no way to its connections; asyncio does."""
        transports: Any = self.loop._transports  # type: ignore[attr-defined]
        for transport in list(transports.values()):
            transport.abort()

    def _run(self, app: Any, config: Config) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.set_default_executor(ThreadPoolExecutor(WORKERS))  # MiniStack then sets its own
        try:
            self.loop.run_until_complete(serve(app, config, shutdown_trigger=self._stop.wait))
        finally:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
