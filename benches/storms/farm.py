"""Three servers in one process: each echoes, and says its number before the first data."""

import contextlib
import selectors
import socket

import ground


class Farm:
    def __init__(self):
        self.ports = [ground.port() for _ in range(3)]
        self.servers = ground.addresses(self.ports)
        self.open = [ground.shared() for _ in self.ports]
        self._listeners = [
            socket.create_server(("127.0.0.1", port), backlog=1024) for port in self.ports]
        ground.process(self._serve)

    def _serve(self):
        chooser = selectors.DefaultSelector()
        for number, listener in enumerate(self._listeners):
            listener.setblocking(False)
            chooser.register(listener, selectors.EVENT_READ, (number, True))
        while True:
            for key, _ in chooser.select():
                if key.fileobj in self._listeners:
                    self._accept(chooser, key.fileobj, key.data[0])
                elif not self._echo(chooser, key.fileobj, *key.data):
                    chooser.unregister(key.fileobj)
                    key.fileobj.close()
                    self.open[key.data[0]].value -= 1

    def _accept(self, chooser, listener, number):
        with contextlib.suppress(OSError):
            chooser.register(listener.accept()[0], selectors.EVENT_READ, (number, True))
            self.open[number].value += 1

    def _echo(self, chooser, connection, number, first):
        """Whether the connection goes on."""
        with contextlib.suppress(OSError):
            if data := connection.recv(65536):
                connection.sendall((b"%d" % number if first else b"") + data)
                chooser.modify(connection, selectors.EVENT_READ, (number, False))
                return True
        return False
