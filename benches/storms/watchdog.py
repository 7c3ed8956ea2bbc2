"""watchdog: a worker that works is not killed, however little CPU time it gets.

A stopped worker is replaced.
"""

import contextlib
import os
import signal
import ssl
import threading
import time

import ground
from farm import Farm

PERCENT, SECONDS, CLIENTS, REPLACED_WITHIN = 10, 16, 400, 5.5
# Microseconds of the period to which the CPU quota applies.
PERIOD = 100000


class Share:
    """A control group with a share of one processor (cgroups(7)); OSError where there is none."""

    def __init__(self, percent):
        quota, error = PERIOD * percent // 100, OSError("no hierarchy of them is mounted")
        first = {"cpu.cfs_period_us": PERIOD, "cpu.cfs_quota_us": quota}
        second = {"cpu.max": "%d %d" % (quota, PERIOD)}
        for root, settings in (("/sys/fs/cgroup/cpu", first), ("/sys/fs/cgroup/cpu,cpuacct", first),
                               ("/sys/fs/cgroup", second)):
            self.root, self.group = root, "%s/pen-storm-%d" % (root, os.getpid())
            if not os.path.exists(root + "/cgroup.procs"):
                continue
            try:
                self._make(settings)
                return
            except OSError as failed:
                error = failed
                with contextlib.suppress(OSError):
                    os.rmdir(self.group)
        raise error

    def _make(self, settings):
        with contextlib.suppress(OSError):
            # Version 2, where no other group has the controller yet.
            self._write(self.root + "/cgroup.subtree_control", "+cpu")
        os.mkdir(self.group)
        for name, value in settings.items():
            self._write("%s/%s" % (self.group, name), value)

    @staticmethod
    def _write(name, value):
        # open() must not create a file: a missing one means that there is no such setting.
        descriptor = os.open(name, os.O_WRONLY)
        try:
            os.write(descriptor, str(value).encode())
        finally:
            os.close(descriptor)

    def take(self, pid):
        self._write(self.group + "/cgroup.procs", pid)

    def throttled(self):
        """The number of periods in which the quota was used up, and the number of all periods."""
        lines = ground.read(self.group + "/cpu.stat").splitlines()
        found = dict(line.split() for line in lines)
        return int(found.get("nr_throttled", 0)), int(found.get("nr_periods", 0))

    def remove(self):
        def gone():
            for pid in ground.read(self.group + "/cgroup.procs").split():
                with contextlib.suppress(OSError):
                    self._write(self.root + "/cgroup.procs", pid)
            with contextlib.suppress(OSError):
                os.rmdir(self.group)
            return not os.path.exists(self.group)

        ground.until(gone, 10)


def handshakes(port, end, done):
    """Clients that only do handshakes, in threads of this process."""
    context, lock = ssl.create_default_context(cafile=ground.certificate()[0]), threading.Lock()

    def repeat():
        while time.time() < end:
            try:
                with ground.connect(port, timeout=60) as bare:
                    with context.wrap_socket(bare, server_hostname="localhost"), lock:
                        done.value += 1
            except OSError:
                time.sleep(0.05)

    [thread.join() for thread in [ground.thread(repeat) for _ in range(CLIENTS)]]


def short_of_time(verdict, program, farm, workers):
    chain, key = ground.certificate()
    options = ["--workers", str(workers), "-x", "2000", "-E", chain, "-K", key]
    pen = ground.Pen(program, options, farm.servers)
    before, done, share = set(pen.children()), ground.shared(), Share(PERCENT)
    try:
        [share.take(pid) for pid in [pen.pid, *before]]
        load = ground.process(handshakes, pen.port, time.time() + SECONDS, done)
        time.sleep(SECONDS)
        after, throttled = set(pen.children()), share.throttled()
    finally:
        share.remove()
    load.join(90)
    killed = sum("it hung" in line for line in pen.said().splitlines())
    verdict.check(not killed and before <= after,
                  "%d workers: %d killed, %d processes gone; last: %s", workers, killed,
                  len(before - after), pen.said().splitlines()[-1:])
    verdict.check(done.value > 0, "%d workers: no handshake came to an end", workers)
    verdict.check(throttled[0] > throttled[1] // 2,
                  "%d workers: time was short in %d of %d periods only", workers, *throttled)
    verdict.figure("%d workers at %d %% of a processor for %d s: %d killed, %d handshakes; "
                   "the share was used up in %d of %d periods",
                   workers, PERCENT, SECONDS, killed, done.value, *throttled)
    verdict.check(pen.end() == 0, "%d workers: TERM did not end it with status 0", workers)


def stopped(verdict, program, farm):
    pen = ground.Pen(program, ["--workers", "4"], farm.servers)
    times = []
    for _ in range(3):
        victim = pen.worker_pids()[0][0]

        def replaced():
            workers, _ = pen.worker_pids()
            return victim not in workers and len(workers) == 4

        begun = time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        if not verdict.check(ground.until(replaced, 20), "a stopped worker was not replaced"):
            os.kill(victim, signal.SIGCONT)
        times.append(time.monotonic() - begun)
    verdict.check(max(times) <= REPLACED_WITHIN, "replaced only after %.1f s", max(times))
    verdict.figure("stopped workers were replaced after %s s", ", ".join("%.1f" % t for t in times))
    verdict.check(pen.end() == 0, "TERM did not end it with status 0")


def run(program):
    verdict, farm = ground.Verdict("watchdog"), Farm()
    stopped(verdict, program, farm)
    for workers in (16, 64):
        try:
            short_of_time(verdict, program, farm, workers)
        except OSError as error:
            verdict.skip("%d workers: NO CONTROL GROUP CAN BE MADE HERE: %s", workers, error)
    return verdict
