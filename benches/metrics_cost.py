#!/usr/bin/env python3
"""Measures the processor time of a collection of the metrics of many servers.

    unshare --net benches/metrics_cost.py PEN [SERVERS]

It starts PEN with so many servers (1000), lets clients reach each of them, and then collects the
metrics twenty times by the page, and by the command `metrics`, a little less often than once a
second, so that each is made anew. The figures are milliseconds of processor time for one
collection, of all processes of pen that take part: the supervisor, the reporter that it forks, and
the page or control process. What they use anyway in that time is subtracted.
"""

import contextlib
import json
import os
import pathlib
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROUNDS = 20
PAUSE = 1.05
TICK = 1000 / os.sysconf("SC_CLK_TCK")


def serve(listeners):
    """Accepts connections, and closes each when its client does."""
    selector = selectors.DefaultSelector()
    for listener in listeners:
        selector.register(listener, selectors.EVENT_READ, True)
    while True:
        for key, _ in selector.select():
            if key.data:
                connection, _ = key.fileobj.accept()
                selector.register(connection, selectors.EVENT_READ, False)
            elif not key.fileobj.recv(4096):
                selector.unregister(key.fileobj)
                key.fileobj.close()


def used(pid):
    """Processor time of a process, and of its children that have ended, in milliseconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    own, children = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
    return own * TICK, children * TICK


def child(supervisor, title):
    """The pid of a child with this title."""
    children = pathlib.Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for pid in children:
        if title in pathlib.Path(f"/proc/{pid}/cmdline").read_text():
            return int(pid)
    raise SystemExit(f"there is no {title}")


def command(path):
    """The reply to the command metrics."""
    with socket.socket(socket.AF_UNIX) as operator:
        operator.connect(path)
        operator.sendall(b"metrics\n")
        return sum(map(len, iter(lambda: operator.recv(1 << 20), b"")))


def page(port, accept):
    """The size of the metrics of the page."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request) as answer:
        return len(answer.read())


def until(what, condition):
    """Waits until the condition is true, half a minute at most."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within 30 s: {what}")
        time.sleep(0.05)


def answers(port):
    """Whether something listens there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def open_connections(port):
    """How many connections of clients the page tells of."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status.json") as answer:
        return json.load(answer)["connections"]


def measure(what, collect, supervisor, helper):
    """Prints what a collection costs."""

    def over(act):
        before = [*used(supervisor), used(helper)[0]]
        size = 0
        for _ in range(ROUNDS):
            size = act()
            time.sleep(PAUSE)
        after = [*used(supervisor), used(helper)[0]]
        return size, [(now - then) / ROUNDS for then, now in zip(before, after)]

    _, idle = over(lambda: 0)
    size, busy = over(collect)
    own, reporter, other = (max(0.0, now - then) for then, now in zip(idle, busy))
    print(
        f"{what}: {own + reporter + other:.1f} ms (supervisor {own:.1f}, reporter {reporter:.1f}, "
        f"the process that answers {other:.1f}), {size / 1e6:.1f} MB"
    )


def main():
    """Starts pen, and measures."""
    pen, count = sys.argv[1], int((sys.argv[2:] or ["1000"])[0])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    listeners = []
    for number in range(count):
        address = f"127.1.{number // 250}.{number % 250 + 1}"
        listeners.append(socket.create_server((address, 8080), backlog=64))
    threading.Thread(target=serve, args=(listeners,), daemon=True).start()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        control = f"{directory}/ctl"
        names = (listener.getsockname()[0] for listener in listeners)
        servers = "".join(
            f"server {number} address {name} port 8080\n" for number, name in enumerate(names)
        )
        file = pathlib.Path(directory, "pen.conf")
        file.write_text(f"max_servers {count}\nroundrobin\npage 9110\n{servers}")
        words = f"{pen} -f -u root -C {control} -F {file} --workers 2 127.0.0.1:80".split()
        process = stack.enter_context(subprocess.Popen(words, stderr=subprocess.DEVNULL))
        stack.callback(process.terminate)
        until("pen listens", lambda: os.path.exists(control) and answers(80) and answers(9110))
        for _ in range(2 * count):
            with socket.create_connection(("127.0.0.1", 80)) as client:
                client.sendall(b"x" * 100)
        until("all clients are gone", lambda: open_connections(9110) == 0)
        pid = process.pid
        text, open_metrics = "text/plain", "application/openmetrics-text"
        measure("page, OpenMetrics", lambda: page(9110, open_metrics), pid, child(pid, "page"))
        measure("page, Prometheus", lambda: page(9110, text), pid, child(pid, "page"))
        measure("command", lambda: command(control), pid, child(pid, "control"))


if __name__ == "__main__":
    main()
