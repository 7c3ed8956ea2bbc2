"""Streams in which every byte is known: servers, and clients with and without TLS.

A client sends a line, MODE UP DOWN SEED, and both ends compare what they receive:

    exchange  UP bytes to the server, their hash and DOWN bytes back; then the next line
    late      as exchange, but the server waits for the client's half-close, and then a while
    first     DOWN bytes and a half-close by the server, which then reads UP bytes until the end
    abort     as exchange, by a client that leaves before the end; this is no failure
"""

import collections
import contextlib
import hashlib
import random
import socket
import struct
import threading
import time

import ground

# Not a power of two, so that a lost or doubled block is detected.
BLOCK = random.Random(1).randbytes((1 << 20) + 7)
DIGEST = 64
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


class Wrong(Exception):
    """A connection carried wrong bytes."""


def stream(seed, length):
    start = seed * 7919 % len(BLOCK)
    return (BLOCK[start:] + BLOCK * (length // len(BLOCK) + 1))[:length]


def digest(data):
    return hashlib.sha256(data).hexdigest().encode()


class Flapping:
    """A server that accepts for `up` seconds and refuses for `down`; never, if `down` is 0."""

    def __init__(self, handler, up=0.0, down=0.0):
        self.port, self.handler, self.up, self.down = ground.port(), handler, up, down
        self.open, self.wrong = ground.shared(), ground.shared()
        self.closed_at, self.lock = ground.shared("d"), threading.Lock()
        self.process = ground.process(self._serve)

    def _serve(self):
        while True:
            end = time.monotonic() + self.up if self.down else float("inf")
            with socket.create_server(("127.0.0.1", self.port), backlog=1024) as listener:
                self._accept(listener, end)
            # A client that came after the last accept is reset; the storm expects that.
            self.closed_at.value = time.monotonic()
            time.sleep(self.down)

    def _accept(self, listener, end):
        """Accepts until the time is over and no client waits in the backlog."""
        while True:
            over = time.monotonic() > end
            listener.settimeout(0 if over else 0.2)
            try:
                connection = listener.accept()[0]
            except (TimeoutError, BlockingIOError):
                if over:
                    return
                continue
            connection.settimeout(None)
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        self._count(self.open, 1)
        with contextlib.suppress(OSError), connection:
            try:
                self.handler(connection)
            except (Wrong, ValueError, LookupError):
                # The bytes differ from the sent ones, or the handler cannot parse them.
                self._count(self.wrong, 1)
        self._count(self.open, -1)

    def _count(self, number, by):
        with self.lock:
            number.value += by


def serve(connection):
    with connection.makefile("rb") as file:
        while line := file.readline():
            words = line.split()
            if len(words) != 4 or not line.endswith(b"\n"):
                # Cut by an abort.
                return
            mode, (up, down, seed) = words[0], map(int, words[1:])
            if mode == b"first":
                connection.sendall(stream(seed + 1, down))
                connection.shutdown(socket.SHUT_WR)
                if file.read() != stream(seed, up):
                    raise Wrong("other bytes came after the server's half-close")
                return
            got = file.read() if mode == b"late" else file.read(up)
            if mode == b"late":
                time.sleep(0.2)
            connection.sendall(digest(got) + stream(seed + 1, down))
            if mode == b"late":
                return


def take(client, length, pace=None):
    """Reads this number of bytes, at once, or in small reads with a pause after each."""
    if not pace:
        return ground.exactly(client, length)
    parts = []
    while length:
        part = client.recv(min(length, 32768))
        if not part:
            break
        parts.append(part)
        length -= len(part)
        time.sleep(pace)
    return b"".join(parts)


def same(got, expected, what):
    if got != expected:
        how = "it was cut" if expected.startswith(got) else "others than were sent"
        raise Wrong("%s: %d of %d bytes, %s" % (what, len(got), len(expected), how))


def ended(client):
    if rest := client.recv(1):
        raise Wrong("%r came where the end should be" % rest)


def half_close(client):
    # This is the method of the socket: SSLSocket.shutdown() would drop the session.
    socket.socket.shutdown(client, socket.SHUT_WR)


def exchange(client, rng, up, down, pace=None):
    seed = rng.randrange(1 << 20)
    data = stream(seed, up)
    client.sendall(b"exchange %d %d %d\n" % (up, down, seed) + data)
    same(take(client, DIGEST + down, pace), digest(data) + stream(seed + 1, down), "answer")


def late(client, rng, up, down):
    seed = rng.randrange(1 << 20)
    data = stream(seed, up)
    client.sendall(b"late %d %d %d\n" % (up, down, seed) + data)
    half_close(client)
    expected = digest(data) + stream(seed + 1, down)
    same(take(client, DIGEST + down), expected, "answer behind a half-close")
    ended(client)


def first(client, rng, up, down):
    seed = rng.randrange(1 << 20)
    client.sendall(b"first %d %d %d\n" % (up, down, seed))
    same(take(client, down), stream(seed + 1, down), "stream before a half-close")
    ended(client)
    time.sleep(rng.uniform(0, 0.3))
    client.sendall(stream(seed, up))
    half_close(client)


def leave(client, rng):
    """Closes, or resets."""
    if rng.random() < 0.5:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def abort(client, rng):
    """Aborts within the line, within the stream, or before the answer."""
    up, down = rng.choice([(0, 1 << 22), (1 << 21, 100), (100, 100)])
    with contextlib.suppress(OSError):
        said = b"abort %d %d 1\n" % (up, down)
        if rng.random() < 0.3:
            client.sendall(said[:rng.randrange(1, len(said) + 1)])
        else:
            client.sendall(said + stream(1, up // 2))
        if rng.random() < 0.5:
            client.settimeout(0.2)
            client.recv(1000)
    leave(client, rng)


class Load:
    """Runs clients of many kinds in threads until the time is over; counts them and failures."""

    def __init__(self, seed, end):
        self.seed, self.end = seed, end
        self.done, self.failures, self.threads = collections.Counter(), [], []

    def add(self, kind, threads, pause, act):
        """`act` gets random numbers and one of many client addresses; `pause` is the mean."""
        for number in range(threads):
            rng = random.Random("%s %s %d" % (self.seed, kind, number))
            self.threads.append(ground.thread(self._repeat, kind, rng, pause, act))

    def _repeat(self, kind, rng, pause, act):
        while time.time() < self.end:
            begun = time.monotonic()
            address = rng.randrange(2, 5), rng.randrange(8), rng.randrange(1, 100)
            try:
                act(rng, "127.%d.%d.%d" % address)
                self.done[kind] += 1
            except (OSError, Wrong) as error:
                words = "%s: %s" % (type(error).__name__, error)
                self.failures.append((kind, begun, time.monotonic(), words))
            time.sleep(rng.expovariate(1 / pause))

    def idle(self, rng):
        """Keeps a connection idle for a while, or until the storm is over."""
        time.sleep(max(0.0, min(rng.uniform(10, 90), self.end - time.time())))

    def deliver(self, box):
        [thread.join() for thread in self.threads]
        box.put((dict(self.done), self.failures))


def add_streams(load, kind, opened, sizes):
    """The kinds of clients that are the same with and without TLS, each a number of threads."""

    def with_client(act, **how):
        def run(rng, address):
            with opened(address, **how) as client:
                act(client, rng)
        return run

    def idle(client, rng):
        exchange(client, rng, 100, 100)
        load.idle(rng)
        exchange(client, rng, 100, 100)

    def small(client, rng):
        exchange(client, rng, rng.randrange(2000), rng.randrange(20000))

    def bulk(client, rng):
        exchange(client, rng, rng.randrange(4 << 20), rng.randrange(8 << 20))

    def slow(client, rng):
        exchange(client, rng, 10, rng.randrange(1 << 20, 6 << 20), 0.03)

    def any_size(rng):
        return int(2 ** rng.uniform(0, 20))

    acts = {
        "short": (0.02, small),
        "bulk": (0.5, bulk),
        "slow reader": (0.5, slow),
        "client's half-close": (0.1, lambda c, rng: late(c, rng, any_size(rng), any_size(rng))),
        "server's half-close": (0.1, lambda c, rng: first(c, rng, any_size(rng), any_size(rng))),
        "idle": (1, idle),
        "abort": (0.05, abort),
    }
    for name, threads in sizes.items():
        pause, act = acts[name]
        load.add(kind + name, threads, pause, with_client(act))
    return with_client


def plain(pen_port, box, seed, end):
    load = Load(seed, end)

    def opened(address, **how):
        return ground.connect(pen_port, address, **how)

    with_client = add_streams(load, "", opened, {
        "short": 8, "bulk": 2, "slow reader": 8, "client's half-close": 4,
        "server's half-close": 4, "idle": 40, "abort": 4})
    slower = lambda c, rng: exchange(c, rng, 10, 1 << 18, 0.2)
    load.add("slower reader", 4, 0.5, with_client(slower, buffer=4096))
    load.deliver(box)


def tls(pen_port, box, seed, end, context):
    """The same within TLS, and clients that leave in the handshake."""
    load = Load(seed, end)

    @contextlib.contextmanager
    def opened(address):
        with ground.connect(pen_port, address) as bare:
            # Only an end with close_notify is valid.
            with context.wrap_socket(
                    bare, server_hostname="localhost", suppress_ragged_eofs=False) as client:
                yield client

    def broken_handshake(rng, address):
        with ground.connect(pen_port, address) as client:
            with contextlib.suppress(OSError):
                client.sendall(HELLO[:rng.randrange(len(HELLO) + 1)])
                client.settimeout(rng.uniform(0.001, 0.5))
                client.recv(100)
            leave(client, rng)

    add_streams(load, "TLS ", opened, {
        "short": 4, "slow reader": 6, "client's half-close": 2, "server's half-close": 2,
        "idle": 20, "abort": 3})
    load.add("TLS broken handshake", 3, 0.1, broken_handshake)
    load.deliver(box)
