"""HTTP/1.1 in which every byte is known, for a pen with -H.

The server returns to each client the name in X-Forwarded-For and a hash of its request. There are
many kinds of clients.
"""

import contextlib
import http.client
import time

import ground
from streams import Load, Wrong, digest, leave, same, stream


def body_of(file, fields):
    """The body of a request, by its length or in chunks."""
    if fields.get("transfer-encoding") != ["chunked"]:
        return file.read(int(fields.get("content-length", ["0"])[0]))
    parts = []
    while length := int(file.readline().split(b";")[0], 16):
        parts.append(file.read(length))
        file.readline()
    while file.readline().strip():
        pass
    return b"".join(parts)


def serve(connection):
    """Answers METHOD /DOWN/SEED with DOWN bytes; X-Digest is the hash of the request's body.

    A client that leaves may cut a body, but not a head, because pen passes complete heads only.
    """
    with connection.makefile("rb") as file:
        while line := file.readline():
            target, fields = line.split()[1].decode(), {}
            while field := file.readline().strip():
                name, _, value = field.decode().partition(":")
                fields.setdefault(name.strip().lower(), []).append(value.strip())
            try:
                got = body_of(file, fields)
            except ValueError:
                return
            down, seed = map(int, target.strip("/").split("/"))
            head = ("HTTP/1.1 200 OK", "Content-Length: %d" % down,
                    "X-Client: " + " | ".join(fields.get("x-forwarded-for", [])),
                    "X-Digest: " + digest(got).decode(), "", "")
            connection.sendall("\r\n".join(head).encode() + stream(seed, down))


def judge(answer, address, sent, seed, down, pace):
    parts = []
    while part := answer.read(32768 if pace else None):
        parts.append(part)
        time.sleep(pace or 0)
    if answer.status != 200 or answer.headers["X-Client"] != address:
        raise Wrong("status %s, and the server took the client for %s" % (
            answer.status, answer.headers["X-Client"]))
    same(answer.headers["X-Digest"].encode(), digest(sent), "hash of the body")
    same(b"".join(parts), stream(seed, down), "answer")


@contextlib.contextmanager
def opened(pen_port, address):
    connection = http.client.HTTPConnection("127.0.0.1", pen_port)
    connection.sock = ground.connect(pen_port, address)
    with contextlib.closing(connection):
        yield connection


def ask(connection, rng, address, up=0, down=100, chunked=False, pace=None):
    seed = rng.randrange(1 << 20)
    sent = stream(seed + 5, up)
    body, fields = sent or None, {}
    if chunked:
        body = (sent[at:at + 5000] for at in range(0, up, 5000))
        fields["Transfer-Encoding"] = "chunked"
    method = "POST" if up else "GET"
    connection.request(method, "/%d/%d" % (down, seed), body, fields, encode_chunked=chunked)
    judge(connection.getresponse(), address, sent, seed, down, pace)


def pipelined(bare, rng, address):
    seeds = [rng.randrange(1 << 20) for _ in range(rng.randrange(2, 6))]
    request = b"GET /%d/%d HTTP/1.1\r\nHost: x\r\n\r\n"
    bare.sendall(b"".join(request % (seed % 5000, seed) for seed in seeds))
    with bare.makefile("rb") as file:
        for seed in seeds:
            head = b""
            while line := file.readline().strip():
                head += line + b"\n"
            if not head:
                raise ConnectionError("the end came where an answer should be")
            if b"X-Client: %s\n" % address.encode() not in head:
                raise Wrong("a pipelined request has another client: %r" % head)
            same(file.read(seed % 5000), stream(seed, seed % 5000), "pipelined answer")


def abort(bare, rng, _):
    """Aborts within a head, within a body, or before the answer."""
    said = b"POST /%d/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" % (1 << 21)
    said += stream(1, 100000)
    length = rng.choice([rng.randrange(1, 60), rng.randrange(100, 90000), len(said)])
    with contextlib.suppress(OSError):
        bare.sendall(said[:length])
        if rng.random() < 0.5:
            bare.settimeout(0.2)
            bare.recv(1000)
    leave(bare, rng)


def http11(pen_port, box, seed, end):
    load = Load(seed, end)

    def kept_open(connection, rng, address):
        for _ in range(rng.randrange(1, 30)):
            ask(connection, rng, address, down=rng.randrange(10000))
            time.sleep(rng.uniform(0, 0.02))

    def upload(connection, rng, address):
        for chunked in (False, True, True, False):
            ask(connection, rng, address, up=rng.randrange(1, 1 << 20), chunked=chunked)

    def slow(connection, rng, address):
        ask(connection, rng, address, down=rng.randrange(1 << 20, 4 << 20), pace=0.03)

    def idle(connection, rng, address):
        ask(connection, rng, address)
        load.idle(rng)
        ask(connection, rng, address)

    def through(make, act):
        def run(rng, address):
            with make(pen_port, address) as connection:
                act(connection, rng, address)
        return run

    load.add("HTTP kept open", 6, 0.05, through(opened, kept_open))
    load.add("HTTP upload", 2, 0.2, through(opened, upload))
    load.add("HTTP slow reader", 4, 0.5, through(opened, slow))
    load.add("HTTP idle", 20, 1, through(opened, idle))
    load.add("HTTP pipelined", 2, 0.1, through(ground.connect, pipelined))
    load.add("HTTP abort", 3, 0.1, through(ground.connect, abort))
    load.deliver(box)
