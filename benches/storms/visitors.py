"""Clients that must not notice an upgrade, and their servers. Each kind has a process of its own.

    short      connects, is answered twice with a pause between, and ends; each from another address
    download   reads an endless stream slowly, and compares each byte
    session    a TLS session with a request every second
    requests   requests one after the other on one TLS connection
    probe      connects every 2 ms, is answered once, and ends

A download, a session and the requests go on while there is room in pen's table for their worker. A
process reports the delay of each answer with its moment, and each failure.
"""

import array
import asyncio
import collections
import contextlib
import os
import random
import selectors
import socket
import time

import ground
from streams import BLOCK, stream

# How many upgrades every other long connection lasts, and the rest. The table has 194 rows, so with
# 2 workers of each program it has room for those of 97.
LONGEST, SHORTER = 60, 2
# A worker may accept a client for so long after pen told of the upgrade.
TURNOVER = 0.1
PROBE_PAUSE = 0.002
# Seconds: a longer delay of an answer is a failure.
PATIENCE = 20
NEVER = 1 << 60

Report = collections.namedtuple("Report", "kind moments delays failures")


def has_priority():
    """Before all other programs, so that the delays of this process are not taken for pen's."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


class Era:
    """The upgrades of a pen so far, and the moment since which each long connection is there."""

    def __init__(self, places):
        self.over, self.upgrades, self.at = (ground.shared(kind) for kind in "qqd")
        self.taken = ground.shared_list([NEVER] * places)

    def count(self):
        self.at.value = time.monotonic()
        self.upgrades.value += 1

    def now(self):
        """The upgrades before a connection that begins now."""
        recent = time.monotonic() < self.at.value + TURNOVER
        return self.upgrades.value - (1 if recent and self.upgrades.value else 0)

    def has_room(self):
        """Whether no connection is left that the next upgrade would end."""
        return all(self._upgrades_left(place) > 0 for place in range(len(self.taken)))

    def lasts(self, place):
        return not self.over.value and self._upgrades_left(place) > 0

    def _upgrades_left(self, place):
        most = LONGEST if place % 2 else SHORTER
        return self.taken[place] + most - self.upgrades.value

    @contextlib.contextmanager
    def place(self, place):
        self.taken[place] = self.now()
        try:
            yield
        finally:
            self.taken[place] = NEVER


class Echo:
    """A server that echoes, and knows the most connections that were open at one moment."""

    def __init__(self, before=lambda: None):
        self.port, self.most, self.times_full = ground.port(), ground.shared(), ground.shared()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        ground.process(self._serve, before)
        self._listener.close()

    def _serve(self, before):
        before()
        self._chooser, self._open = selectors.DefaultSelector(), set()
        self._chooser.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._chooser.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._open:
                    self._echo(key.fileobj)

    def _accept(self):
        connection = self._listener.accept()[0]
        connection.setblocking(False)
        # What ended before this one began is not open, although this process has not seen it yet.
        open_now = 1 + sum(not self._has_ended(other) for other in self._open)
        if open_now > self.most.value:
            self.most.value, self.times_full.value = open_now, 0
        self.times_full.value += open_now == self.most.value
        self._open.add(connection)
        self._chooser.register(connection, selectors.EVENT_READ)

    @staticmethod
    def _has_ended(connection):
        try:
            return not connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _echo(self, connection):
        with contextlib.suppress(OSError):
            if data := connection.recv(65536):
                connection.sendall(data)
                return
        self._chooser.unregister(connection)
        self._open.remove(connection)
        connection.close()


class Source:
    """A server that sends the bytes of BLOCK again and again."""

    def __init__(self):
        self.port = ground.port()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        ground.process(self._serve)
        self._listener.close()

    def _serve(self):
        chooser = selectors.DefaultSelector()
        chooser.register(self._listener, selectors.EVENT_READ)
        sent = {}
        while True:
            for key, _ in chooser.select():
                if key.fileobj is self._listener:
                    connection = self._listener.accept()[0]
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                    connection.setblocking(False)
                    chooser.register(connection, selectors.EVENT_WRITE)
                    sent[connection] = 0
                    continue
                at = sent[key.fileobj]
                try:
                    sent[key.fileobj] = (at + key.fileobj.send(BLOCK[at:at + 16384])) % len(BLOCK)
                except OSError:
                    chooser.unregister(key.fileobj)
                    del sent[key.fileobj]
                    key.fileobj.close()


class Web:
    """A server that answers GET /LENGTH/SEED."""

    def __init__(self):
        self.port = ground.port()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        ground.process(lambda: asyncio.run(self._serve()))
        self._listener.close()

    async def _serve(self):
        server = await asyncio.start_server(self._one, sock=self._listener)
        await server.serve_forever()

    @staticmethod
    async def _one(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length, seed = map(int, head.split()[1].strip(b"/").split(b"/"))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length
                             + stream(seed, length))
        writer.close()


class Watch:
    """Delays and failures of the clients of one kind."""

    def __init__(self, kind, era, seed):
        self.kind, self.era, self.rng = kind, era, random.Random("%s %d" % (kind, seed))
        self.moments, self.delays, self.failures = array.array("d"), array.array("d"), []

    def answered(self, begun):
        self.moments.append(begun)
        self.delays.append(time.monotonic() - begun)

    def failed(self, begun, error):
        self.failures.append((begun, time.monotonic() - begun, "%s: %s" % (
            type(error).__name__, error)))

    def send(self, box):
        box.put(Report(self.kind, self.moments, self.delays, self.failures))


def wrong_if(bad, what):
    if bad:
        raise ValueError(what)


def within(answer):
    return asyncio.wait_for(answer, PATIENCE)


async def exactly(loop, client, length):
    parts = b""
    while len(parts) < length:
        part = await within(loop.sock_recv(client, length - len(parts)))
        wrong_if(not part, "it ended after %d of %d bytes" % (len(parts), length))
        parts += part
    return parts


async def opened(port, source, buffer=None):
    """A connection; the caller closes it."""
    client = ground.unconnected(source, buffer)
    client.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    except BaseException:
        client.close()
        raise
    return client


async def short(watch, port, _):
    """One connection of many."""
    rng, loop = watch.rng, asyncio.get_running_loop()
    source = "127.1.%d.%d" % (rng.randrange(256), rng.randrange(256))
    spoken = rng.randbytes(rng.randrange(1, 3000))
    begun = time.monotonic()
    with await opened(port, source) as client:
        for pause in (rng.uniform(0.1, 0.3), 0):
            await loop.sock_sendall(client, spoken)
            wrong_if(await exactly(loop, client, len(spoken)) != spoken, "other bytes came back")
            watch.answered(begun)
            await asyncio.sleep(pause)
            begun = time.monotonic()
        if rng.random() < 0.5:
            client.shutdown(socket.SHUT_WR)
            wrong_if(await within(loop.sock_recv(client, 1)), "a byte came where the end should be")


async def download(watch, port, place):
    loop, at = asyncio.get_running_loop(), 0
    source = "127.2.0.%d" % (1 + place)
    with watch.era.place(place):
        with await opened(port, source, buffer=8192) as client:
            while watch.era.lasts(place):
                begun = time.monotonic()
                part = await within(loop.sock_recv(client, 8192))
                wrong_if(not part, "it ended at byte %d" % at)
                wrong_if(part != (BLOCK + BLOCK[:8192])[at:at + len(part)], "other bytes came")
                at = (at + len(part)) % len(BLOCK)
                watch.answered(begun)
                await asyncio.sleep(0.02)


async def ask(reader, writer, rng):
    length, seed = rng.randrange(1, 5000), rng.randrange(1 << 20)
    writer.write(b"GET /%d/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % (length, seed))
    head = await reader.readuntil(b"\r\n\r\n")
    wrong_if(not head.startswith(b"HTTP/1.1 200 "), "the answer began with %r" % head[:40])
    wrong_if(await reader.readexactly(length) != stream(seed, length), "another answer came")


async def over_tls(watch, port, place, pause, context):
    """A TLS connection with a request after each pause."""
    era = watch.era
    with era.place(place):
        client = await opened(port, "127.3.0.%d" % (1 + place))
        with client:
            reader, writer = await asyncio.open_connection(
                sock=client, ssl=context, server_hostname="localhost")
            while era.lasts(place):
                begun = time.monotonic()
                await within(ask(reader, writer, watch.rng))
                watch.answered(begun)
                until = time.monotonic() + pause
                while era.lasts(place) and (left := until - time.monotonic()) > 0:
                    await asyncio.sleep(min(left, 0.05))
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _again(watch, visit, place):
    while not watch.era.over.value:
        # Many handshakes at one moment would delay the clients themselves.
        await asyncio.sleep(watch.rng.uniform(0, 0.5))
        begun = time.monotonic()
        try:
            await visit(place)
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            watch.failed(begun, error)


def crowd(watch, box, visit, places):
    """Clients at these places, again and again; a process runs it."""
    async def all_of_them():
        await asyncio.gather(*(_again(watch, visit, place) for place in places))

    asyncio.run(all_of_them())
    watch.send(box)


def probe(watch, box, port):
    """A connection after each pause, however long the answers take; a process runs it."""
    has_priority()
    chooser, due, number = selectors.DefaultSelector(), time.monotonic(), 0
    while not watch.era.over.value or chooser.get_map():
        now = time.monotonic()
        if now >= due and not watch.era.over.value:
            due, number = max(due + PROBE_PAUSE, now), number + 1
            try:
                client = ground.connect(port, "127.9.0.%d" % (1 + number % 250), PATIENCE)
                client.sendall(b"%d" % number)
                client.setblocking(False)
                chooser.register(client, selectors.EVENT_READ, (now, b"%d" % number))
            except OSError as error:
                watch.failed(now, error)
        for key, _ in chooser.select(max(0.0, due - time.monotonic())):
            begun, spoken = key.data
            try:
                heard = key.fileobj.recv(100)
                wrong_if(heard != spoken, "%r came back for %r" % (heard, spoken))
                watch.answered(begun)
            except (OSError, ValueError) as error:
                watch.failed(begun, error)
            chooser.unregister(key.fileobj)
            key.fileobj.close()
        for key in list(chooser.get_map().values()):
            if now > key.data[0] + PATIENCE:
                watch.failed(key.data[0], TimeoutError("no answer"))
                chooser.unregister(key.fileobj)
                key.fileobj.close()
    watch.send(box)


def fill(port, first, last):
    """One connection from each address of 127.1.0.0/16 from the first to the last."""
    for number in range(first, last):
        with ground.connect(port, "127.1.%d.%d" % divmod(number, 256)) as client:
            client.sendall(b"x")
            ground.exactly(client, 1)
