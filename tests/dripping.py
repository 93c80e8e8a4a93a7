"""A server on loopback whose answer's head never ends: a letter now and then, so that no single read takes long."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LONGEST = 30.0
"""Seconds after which it closes the connection: who waited for that waited for ever."""


@contextmanager
def dripping() -> Iterator[str]:
    """Its address."""
    over = threading.Event()

    def answer(client: socket.socket) -> None:
        with client, suppress(OSError):  # Nobody waits any more
            client.sendall(b"HTTP/1.1 200 OK\r\nX-Head: ")
            for _ in range(int(LONGEST / 0.1)):
                if over.wait(0.1):
                    break
                client.sendall(b"a")

    def listen() -> None:
        while not over.is_set():
            with suppress(OSError):
                threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=listen, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            over.set()
            socket.create_connection(server.getsockname()).close()  # It waits for the next one
