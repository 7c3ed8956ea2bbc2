"""Processes, CPUs, memory and ports of this machine, from /proc and the kernel."""

import json
import os
import resource
import signal
import socket
import subprocess
import time

PATIENCE = 10


def processors():
    return sorted(os.sched_getaffinity(0))


def tree(pid):
    """A process and all its descendants."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo.extend(children.get(found[-1], []))
    return found


def processor_time(pids):
    """CPU time in seconds of all threads, user and kernel, exact to the nanosecond."""
    total = 0
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/schedstat", encoding="ascii") as file:
                    total += int(file.read().split()[0])
        except OSError:
            pass
    return total / 1e9


def proportional_memory(pids):
    """Bytes of memory; each shared page is divided by the number of its users (PSS)."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    return total


def free_ports(count, first=20000):
    """The first of `count` free ports in a row, below those that the kernel assigns."""
    while first + count < 32768:
        taken = next((port for port in range(first, first + count) if not is_free(port)), None)
        if taken is None:
            return first
        first = taken + 1
    raise SystemExit("compare: no free ports")


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Child:
    """A process that this script started and ends."""

    def __init__(self, command, cores=None, log=None, **more):
        def prepare():
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
            if cores:
                os.sched_setaffinity(0, cores)
        # The log is read only after a failure.
        self.log = subprocess.DEVNULL
        if log:
            self.log = open(log, "w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(command, preexec_fn=prepare, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE if not log else self.log,
                                        stderr=self.log, text=True, **more)
        self.pid = self.process.pid

    def wait_for_port(self, port):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                return True
            except OSError:
                time.sleep(0.02)
        return False

    def result(self):
        """The JSON that a generator prints last."""
        out, _ = self.process.communicate(timeout=300)
        return json.loads(out.splitlines()[-1])

    def stop(self, how=signal.SIGTERM):
        pids = tree(self.pid)
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        for pid in pids:
            if pid != self.pid or self.process.poll() is None:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()
