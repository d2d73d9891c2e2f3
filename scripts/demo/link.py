"""A TCP relay that can be cut: the demo's network cable."""

import contextlib
import selectors
import socket
import threading


class Link:
    """Relays 127.0.0.1:`port` to `target` until cut; a cut link refuses and drops everything."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._up = True
        self._pairs: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop every connection and refuse new ones."""
        with self._lock:
            self._up = False
            for end in self._pairs:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Relay again."""
        with self._lock:
            self._up = True

    def close(self) -> None:
        """Cut for good."""
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._up:
                near.close()
                continue
            threading.Thread(target=self._relay, args=(near,), daemon=True).start()

    def _relay(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._target, timeout=10)
        except OSError:
            near.close()
            return
        with self._lock:
            self._pairs |= {near, far}
        with near, far, selectors.DefaultSelector() as selector:
            selector.register(near, selectors.EVENT_READ, far)
            selector.register(far, selectors.EVENT_READ, near)
            with contextlib.suppress(OSError):
                self._shovel(selector)
        with self._lock:
            self._pairs -= {near, far}

    def _shovel(self, selector: selectors.BaseSelector) -> None:
        while True:
            for key, _ in selector.select():
                source = key.fileobj
                assert isinstance(source, socket.socket)
                data = source.recv(65536)
                if not data:
                    return
                key.data.sendall(data)
