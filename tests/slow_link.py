"""A network between two processes that can be slow, stand still, or be cut: a proxy on loopback."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

AT_ONCE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing resets the connection, as a router does that has lost it."""


class Link:
    """What lies between whoever connects to `address` and a server.

    Attributes:
        address: to connect to, as Dask writes it.
        delay: seconds by which each packet is late.
        carried: packets so far.
    """

    def __init__(self, server: str) -> None:
        host, port = server.removeprefix("tcp://").split(":")
        self.delay, self.carried = 0.0, 0
        self._server = host, int(port)
        self._flows = threading.Event()
        self._flows.set()
        self._ends: set[socket.socket] = set()
        self._far: set[socket.socket] = set()
        self._deaf: set[socket.socket] = set()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._take, daemon=True).start()

    def pause(self) -> None:
        """Carry nothing any more; connections stay open, and what is sent waits."""
        self._flows.clear()

    def resume(self) -> None:
        """Carry what has waited, and all that follows."""
        self._flows.set()

    def cut(self) -> None:
        """Reset all connections. New ones are taken."""
        self._reset(list(self._ends))
        self._ends.clear()

    def cut_far(self) -> None:
        """Reset the server's ends alone; the near ones learn of it when they next send. New ones are taken."""
        far = [end for end in self._ends if end in self._far]
        self._deaf |= self._ends - self._far
        self._reset(far)

    def _reset(self, ends: list[socket.socket]) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        """Cut, and take no new ones."""
        self._door.close()
        self.cut()
        self.resume()

    def _take(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._door.accept()
                try:
                    far = socket.create_connection(self._server, timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._ends |= {near, far}
                self._far.add(far)
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay)
                self._flows.wait()
                target.sendall(data)
                self.carried += 1
        for end in (source, target) if target not in self._deaf else (source,):
            self._ends.discard(end)
            end.close()


@contextmanager
def slow_link(server: str) -> Iterator[Link]:
    """A link to a server (tcp://host:port) that is closed in the end."""
    link = Link(server)
    try:
        yield link
    finally:
        link.close()
