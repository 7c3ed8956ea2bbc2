#!/usr/bin/env python3
"""How evenly pen and haproxy place clients: 9800 clients that stay, each from an address of its
own, on 3, 16 and 200 servers of mixed weights. For each method, the largest deviation of a server
from its ideal share, in connections and in percent: the median of the rounds, the least and the
most. Each round has other client addresses and other ports of servers.

    benches/placement.py target/release/pen [/path/to/haproxy [ROUNDS]]

The clients come one after the other, or 50 at a time. Run it as root. Nothing leaves the loopback
interface.
"""

import multiprocessing
import os
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time

# With 20 000 descriptors, haproxy has room for them.
CLIENTS = 9_800
WEIGHTS = [1, 2, 3, 5, 8]
METHODS = {
    "leastconn": ("leastconn", "balance leastconn"),
    "p2c": ("p2c", "balance random(2)"),
    "maglev": ("maglev", "balance source\n hash-type consistent"),
    "maglev bounded 125": (
        "maglev bounded 125", "balance source\n hash-type consistent\n hash-balance-factor 125"
    ),
    "weight": ("weight", None),
    "hash": ("hash", None),
}


def listeners(count):
    made = []
    for _ in range(count):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(4096)
        listener.setblocking(False)
        made.append(listener)
    return made


class Farm:
    """Servers that keep each connection, in a process of their own."""

    def __init__(self, count):
        made = listeners(count)
        self.ports = [listener.getsockname()[1] for listener in made]
        self.counts = multiprocessing.Array("I", count, lock=False)
        self.process = multiprocessing.Process(target=self.serve, args=(made,), daemon=True)
        self.process.start()
        for listener in made:
            listener.close()

    def serve(self, made):
        selector, kept = selectors.DefaultSelector(), []
        for number, listener in enumerate(made):
            selector.register(listener, selectors.EVENT_READ, number)
        while True:
            for key, _ in selector.select():
                while True:
                    try:
                        kept.append(key.fileobj.accept()[0])
                    except BlockingIOError:
                        break
                    self.counts[key.data] += 1

    def end(self):
        self.process.kill()
        self.process.join()


def client(lap, number, port):
    """A client from an address of its own, another one in each round."""
    made = socket.socket()
    made.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    made.bind((f"127.{100 + lap}.{number // 250 % 240}.{number % 250 + 1}", 0))
    made.setblocking(False)
    made.connect_ex(("127.0.0.1", port))
    return made


def place(farm, port, at_once, lap):
    """Lets the clients come, and waits until each has a server."""
    kept, begun = [], time.monotonic()
    for number in range(CLIENTS):
        kept.append(client(lap, number, port))
        wanted = number + 1 - (at_once - 1 if number + 1 < CLIENTS else 0)
        while sum(farm.counts) < wanted:
            time.sleep(0.0005)
            if time.monotonic() - begun > 300:
                sys.exit(f"only {sum(farm.counts)} clients have a server")
    counts = list(farm.counts)
    for each in kept:
        each.close()
    return counts


def deviation(counts, weights):
    ideal = [CLIENTS * weight / sum(weights) for weight in weights]
    by = [abs(count - share) for count, share in zip(counts, ideal)]
    return max(by), max(100 * one / share for one, share in zip(by, ideal))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def reachable(port, process):
    for _ in range(200):
        if process.poll() is not None:
            sys.exit("the balancer has ended")
        if subprocess.run(["ss", "-Hltn", f"sport = :{port}"], capture_output=True).stdout:
            return
        time.sleep(0.05)
    sys.exit("the balancer does not listen")


def run_pen(binary, farm, weights, command, directory):
    port = free_port()
    lines = [command, f"conn_max {CLIENTS + 100}", f"clients_max {CLIENTS}", "workers 2"]
    lines += [f"max_servers {len(weights)}", "accept_batch 1"]
    for number, (to, weight) in enumerate(zip(farm.ports, weights)):
        lines.append(f"server {number} address 127.0.0.1 port {to} weight {weight}")
    path = os.path.join(directory, "pen.conf")
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
    return port, subprocess.Popen([binary, "-f", "-u", "nobody", "-F", path, f"127.0.0.1:{port}"])


def run_haproxy(binary, farm, weights, balance, directory):
    port = free_port()
    text = f"global\n maxconn {CLIENTS + 100}\n nbthread 2\ndefaults\n mode tcp\n"
    text += " timeout connect 5s\n timeout client 600s\n timeout server 600s\n"
    text += f"listen all\n bind 127.0.0.1:{port}\n maxconn {CLIENTS + 100}\n {balance}\n"
    for number, (to, weight) in enumerate(zip(farm.ports, weights)):
        text += f" server s{number} 127.0.0.1:{to} weight {weight}\n"
    path = os.path.join(directory, "haproxy.cfg")
    with open(path, "w") as file:
        file.write(text)
    return port, subprocess.Popen([binary, "-f", path], stderr=subprocess.DEVNULL)


def one_round(start, binary, words, count, at_once, lap):
    """The largest deviations of one balancer with servers and clients of its own."""
    weights = [WEIGHTS[number % len(WEIGHTS)] for number in range(count)]
    farm = Farm(count)
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        port, process = start(binary, farm, weights, words, directory)
        try:
            reachable(port, process)
            counts = place(farm, port, at_once, lap)
        finally:
            process.terminate()
            process.wait()
            farm.end()
    return deviation(counts, weights)


def told(deviations):
    """The median of the rounds, the least and the most."""
    each = []
    for values, unit in zip(zip(*deviations), ["", " %"]):
        middle, least, most = statistics.median(values), min(values), max(values)
        each.append(f"{middle:.1f}{unit} [{least:.1f} .. {most:.1f}]")
    return ", ".join(each)


def main():
    pen, haproxy = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else None)
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("| servers | method | at once | pen | haproxy |\n|---|---|---|---|---|", flush=True)
    for count in [3, 16, 200]:
        for method, (command, balance) in METHODS.items():
            balancers = [(run_pen, pen, command), (run_haproxy, haproxy, balance)]
            for at_once in [1, 50]:
                found = {start: [] for start, _, _ in balancers}
                for lap in range(rounds):
                    for start, binary, words in balancers:
                        if binary and words:
                            of = one_round(start, binary, words, count, at_once, lap)
                            found[start].append(of)
                each = [told(of) if of else "-" for of in found.values()]
                print(f"| {count} | {method} | {at_once} | {' | '.join(each)} |", flush=True)


main()
