"""descriptors: with a limit of 64 descriptors each of 4 workers serves connections."""

import contextlib
import os
import re
import resource
import signal

import ground
from farm import Farm

LIMIT, WORKERS, MANY, AT_ONCE = 64, 4, 200, 100
# An eighth of the limit for each worker: two descriptors for a connection, and three times as many
# for all else.
ENOUGH = WORKERS * LIMIT // 8


def narrow():
    ground.dies_with_us()
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))


def served(client):
    """Whether a connection carries data now."""
    with contextlib.suppress(OSError):
        client.sendall(b"ping")
        return client.recv(5)[-4:] == b"ping"
    return False


def through(pen, worker, others):
    """A connection of this worker: the others are stopped for the moment of the accept."""
    [os.kill(pid, signal.SIGSTOP) for pid in others]
    ground.until(lambda: all(ground.state(pid) == "T" for pid in others), 2, 0.001)
    try:
        client = ground.connect(pen.port, timeout=2)
        return client, served(client) and client.getsockname() in pen.clients_of(worker)
    finally:
        [os.kill(pid, signal.SIGCONT) for pid in others]


def one_each(verdict, pen, workers):
    held = [through(pen, worker, [pid for pid in workers if pid != worker]) for worker in workers]
    alone = sum(good for _, good in held)
    together = sum(served(client) for client, _ in held)
    [client.close() for client, _ in held]
    verdict.check(alone == WORKERS, "%d of %d workers served a client", alone, WORKERS)
    verdict.check(together == WORKERS, "%d of %d of them were served at once", together, WORKERS)
    return alone


def after_each_other(verdict, pen):
    count = 0
    for _ in range(MANY):
        with contextlib.suppress(OSError), ground.connect(pen.port, timeout=2) as client:
            count += served(client)
    verdict.check(count == MANY, "%d of %d connections after each other were served", count, MANY)
    return count


def at_once(verdict, pen):
    clients = []
    for _ in range(AT_ONCE):
        with contextlib.suppress(OSError):
            clients.append(ground.connect(pen.port, timeout=1))
    for client in clients:
        with contextlib.suppress(OSError):
            client.sendall(b"ping")
    count = 0
    for client in clients:
        # The others wait in the backlog.
        client.settimeout(0.05)
        with contextlib.suppress(OSError):
            count += client.recv(5)[-4:] == b"ping"
    [client.close() for client in clients]
    verdict.check(count >= ENOUGH, "%d of %d connections at once were served", count, AT_ONCE)
    return count


def run(program):
    verdict = ground.Verdict("descriptors")
    try:
        pen = ground.Pen(program, ["--workers", str(WORKERS)], Farm().servers, before=narrow)
    except ground.DidNotStart as error:
        verdict.check(False, "pen did not start with %d descriptors: %s", LIMIT, error)
        return verdict
    workers, _ = pen.worker_pids()
    for pid in workers:
        limits = re.search(r"Max open files +(\d+) +(\d+)", ground.read("/proc/%d/limits" % pid))
        verdict.check(limits.groups() == (str(LIMIT),) * 2, "the limits are %s", limits.groups())
    counts = one_each(verdict, pen, workers), after_each_other(verdict, pen), at_once(verdict, pen)
    left = pen.left(10)
    verdict.check(not left, "connections are left: %s", left)
    verdict.check(pen.worker_pids()[0] == workers, "workers died: %s", pen.said()[-300:])
    verdict.figure("%d of %d workers served one; %d of %d after each other; %d of %d at once",
                   counts[0], WORKERS, counts[1], MANY, counts[2], AT_ONCE)
    verdict.figure("descriptors (supervisor, workers) without clients: %s",
                   [len(ground.descriptors(pid)) for pid in [pen.pid] + workers])
    verdict.check(pen.end() == 0, "TERM did not end it with status 0")
    return verdict
