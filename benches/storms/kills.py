"""kills: workers and the control process die at random moments; pen is reloaded all the time.

Before a worker is killed, it is stopped and its connections are recorded. Only these may fail. Each
other client must be served by the server that it used last, unless that server was full.
"""

import collections
import contextlib
import os
import random
import signal
import threading
import time

import ground
from farm import Farm

WORKERS, ADDRESSES, AT_ONCE, IN_A_HURRY = 4, 256, 32, 8
# The server with a limit.
LIMITED, SOFT, HARD = 2, 4, 8
# KiB by which the supervisor may have grown.
SLACK = 1024


class Crowd:
    """The clients: the result of each connection, and the last server of each address."""

    def __init__(self, pen, rng):
        self.pen, self.rng = pen, rng
        self.home, self.doomed = {}, {}
        self.served, self.lost, self.moved, self.slowest = 0, 0, 0, 0.0
        self.wrong = []
        self.lock, self.over = threading.Lock(), threading.Event()

    def visit(self, address, holds=()):
        """One connection, with an echo after each pause. It may fail only if its worker dies."""
        begun, name, spoken = time.monotonic(), None, b"x" * self.rng.randrange(1, 3000)
        try:
            with ground.connect(self.pen.port, address) as client:
                name = client.getsockname()
                client.sendall(spoken)
                answer = ground.exactly(client, len(spoken) + 1)
                waited = time.monotonic() - begun
                if len(answer) != len(spoken) + 1:
                    raise ConnectionError("it ended after %d bytes" % len(answer))
                self._placed(address, int(answer[:1]), answer[1:] == spoken)
                for pause in holds:
                    self.over.wait(pause)
                    client.sendall(spoken)
                    if ground.exactly(client, len(spoken)) != spoken:
                        raise ConnectionError("it ended while it was held")
        except OSError as error:
            time.sleep(0.05)
            self._failed(name or address, begun, error)
            return
        with self.lock:
            self.served += 1
            self.slowest = max(self.slowest, waited)

    def _failed(self, name, begun, error):
        with self.lock:
            self.lost += 1
            if self.doomed.get(name, 0) < begun:
                self.wrong.append("%s failed, but not its worker: %s" % (name, error))

    def _placed(self, address, server, whole):
        with self.lock:
            before = self.home.get(address, server)
            self.home[address] = server
            if not whole:
                self.wrong.append("%s got other bytes than it sent" % address)
            if before == LIMITED and server != before:
                self.moved += 1
            elif before != server:
                self.wrong.append("%s was moved from server %d to %d" % (address, before, server))

    def come_and_go(self, addresses, hurry):
        """Short connections one after the other, or long ones, some longer than a worker lives."""
        rng = random.Random(self.rng.random())
        while not self.over.is_set():
            holds = [rng.uniform(0, 0.3) for _ in range(rng.randrange(4))]
            if rng.random() < 0.02:
                holds = [1.0] * 4
            self.visit(rng.choice(addresses), [] if hurry else holds)
            time.sleep(0.005 if hurry else 0)


def over_the_limit(port):
    """The number of connections that two looks in a row find open, if it is above the limit."""
    def look():
        return {row.local for row in ground.sockets()
                if row.remote[1] == port and row.state == ground.ESTABLISHED}

    both = look() & look()
    return len(both) if len(both) > HARD else 0


def kill_one(pen, crowd, rng, killed):
    workers, control = pen.worker_pids()
    victims = workers + ([control] if control else [])
    if not victims:
        return
    victim = rng.choice(victims)
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGSTOP)
        ground.until(lambda: ground.state(victim) in "TZ", 1, 0.001)
        with crowd.lock:
            now = time.monotonic()
            crowd.doomed.update((client, now) for client in pen.clients_of(victim))
        os.kill(victim, signal.SIGKILL)
        killed["control" if victim == control else "worker"] += 1


def reload(pen, configuration, count):
    """Replaces the file by one with another access list, and reloads pen."""
    with open(configuration + ".new", "w") as file:
        file.write("no acl 7\nacl 7 permit 127.0.0.0/%d\n" % (8 + count % 8))
        file.write("server %d max %d hard %d\n" % (LIMITED, SOFT, HARD))
    os.rename(configuration + ".new", configuration)
    pen.signal(signal.SIGHUP)


def operate(pen, crowd, told):
    while not crowd.over.wait(0.1):
        try:
            told["answered" if pen.tell("servers").count("\n") == 3 else "cut off"] += 1
        except OSError:
            told["failed"] += 1


def rage(pen, crowd, farm, configuration, seconds, rng, killed):
    """Kills and reloads until the time is over. Returns the reloads, and the largest excess."""
    end, reloads, excess = time.monotonic() + seconds, 0, 0

    def kill():
        while time.monotonic() < end and pen.alive():
            kill_one(pen, crowd, rng, killed)
            time.sleep(rng.uniform(0.1, 0.4))

    killer = ground.thread(kill)
    while time.monotonic() < end and pen.alive():
        turn = time.monotonic()
        reload(pen, configuration, reloads)
        reloads += 1
        excess = max(excess, over_the_limit(farm.ports[LIMITED]))
        time.sleep(max(0.0, turn + 0.2 - time.monotonic()))
    killer.join()
    return reloads, excess


def census(pen):
    """Descriptors of supervisor, workers and control process; None if one is missing."""
    workers, control = pen.worker_pids()
    if len(workers) != WORKERS or control is None:
        return None
    counts = [len(ground.descriptors(pid)) for pid in [pen.pid] + workers + [control]]
    return counts[:1] + sorted(counts[1:-1]) + counts[-1:]


def settled(pen):
    """The census, when two in a row are the same."""
    def twice():
        first = census(pen)
        time.sleep(0.3)
        return first if first == census(pen) else None

    return ground.until(twice, 20)


def run(program, seconds, seed):
    rng, verdict, farm = random.Random(seed), ground.Verdict("kills"), Farm()
    configuration, log = ground.path("kills.cfg"), ground.path("kills.log")
    with open(configuration, "w") as file:
        file.write("server %d max %d hard %d\n" % (LIMITED, SOFT, HARD))
    options = ["--workers", str(WORKERS), "-F", configuration, "-l", log]
    pen = ground.Pen(program, options, farm.servers)
    crowd, killed, told = Crowd(pen, rng), collections.Counter(), collections.Counter()
    addresses = ["127.1.%d.%d" % (n >> 6, 1 + n % 64) for n in range(ADDRESSES)]
    [crowd.visit(address) for address in addresses]
    reload(pen, configuration, 0)
    before, size = settled(pen), ground.memory(pen.pid)[1]
    verdict.check(before is not None, "not all processes were there before the storm")
    threads = [ground.thread(crowd.come_and_go, addresses[n::AT_ONCE], n < IN_A_HURRY)
               for n in range(AT_ONCE)]
    threads.append(ground.thread(operate, pen, crowd, told))
    reloads, excess = rage(pen, crowd, farm, configuration, seconds, rng, killed)
    crowd.over.set()
    [thread.join(60) for thread in threads]
    verdict.figure("%d workers and %d control processes killed, %d reloads; control port: %s",
                   killed["worker"], killed["control"], reloads,
                   ", ".join("%d %s" % (count, kind) for kind, count in told.items()))
    verdict.check(not excess, "the limit was %d, and %d were open at one moment", HARD, excess)
    status = pen.process.poll()
    if verdict.check(status is None, "pen ended with status %s: %s", status, pen.said()[-300:]):
        judge_processes(verdict, pen, farm, before, size)
        judge_clients(verdict, crowd, addresses)
        judge_log(verdict, log)
    verdict.check(not pen.alarms(), "pen said: %s", pen.alarms()[:2])
    status = pen.end()
    verdict.check(status == 0, "the exit status after TERM is %s", status)
    return verdict


def judge_processes(verdict, pen, farm, before, size):
    after, left = settled(pen), pen.left(15)
    verdict.check(not left, "connections are left: %s", left)
    held = [value.value for value in farm.open]
    verdict.check(not any(held), "the servers have connections left: %s", held)
    verdict.check(after == before, "the descriptors are not as before")
    zombies = [pid for pid in pen.children() if ground.state(pid) == "Z"]
    verdict.check(not zombies, "%d children are zombies", len(zombies))
    now = ground.memory(pen.pid)[1]
    verdict.check(now <= size + SLACK, "the supervisor grew from %d to %d KiB", size, now)
    verdict.figure("descriptors (supervisor, workers, control): %s, then %s", before, after)
    verdict.figure("the supervisor's PSS: %d, then %d KiB", size, now)


def judge_clients(verdict, crowd, addresses):
    """All clients connect again while no worker is killed: each gets the server that it had."""
    homes, lost, moved = dict(crowd.home), crowd.lost, crowd.moved
    [crowd.visit(address) for address in addresses]
    stayed = sum(crowd.home[address] == home for address, home in homes.items())
    verdict.check(stayed == len(homes) and crowd.lost == lost,
                  "%d of %d addresses were where they had been", stayed, len(homes))
    verdict.check(not crowd.wrong, "%d clients went wrong, the first: %s",
                  len(crowd.wrong), "; ".join(crowd.wrong[:3]))
    verdict.figure("%d connections served, %d lost with their workers; slowest answer %.2f s",
                   crowd.served, lost, crowd.slowest)
    verdict.figure("%d of %d addresses at their servers at the end; %d left the full one before",
                   stayed, len(homes), moved)


def judge_log(verdict, log):
    lines = ground.read(log).splitlines()
    odd = [line for line in lines if not line.startswith("127.1.") or line.count(" ") != 3]
    verdict.check(lines and not odd, "%d of %d lines of the request log are not whole: %s",
                  len(odd), len(lines), odd[:1])
    verdict.figure("%d whole lines in the request log", len(lines))
