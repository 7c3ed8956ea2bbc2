#!/usr/bin/env python3
"""Measures the effect of a problem of one server on the clients of two others.

    unshare --net benches/one_server_in_trouble.py PEN

There is one pen for each kind of problem and one without a problem, all with -r -b 0. The rounds
are interleaved, so that the load of the machine is the same for all. Each client connects, sends 64
bytes and waits for them. Only the clients of the two good servers count. The result is their 99th
percentile, with and without the problem.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS, CLIENTS, AT_ONCE = 10, 100, 4


def echo_server(delay=0.0, name=b"."):
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)

    def serve(connection):
        with connection:
            data = connection.recv(64)
            time.sleep(delay)
            connection.sendall(name + data)

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return "127.0.0.1:%d" % listener.getsockname()[1]


def silent_server(held):
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    held.append(listener)
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        held.append(filler)
    return "127.0.0.1:%d" % listener.getsockname()[1]


def without_ports(held):
    """A server to which no local port is free; the script has made the port range small."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    held.append(listener)
    while True:
        taken = socket.socket()
        if taken.connect_ex(listener.getsockname()):
            return "127.0.0.1:%d" % listener.getsockname()[1]
        held.append(taken)
        held.append(listener.accept()[0])


def pen(program, number, third):
    # Below the range of local ports. The network namespace belongs to this script.
    address = "127.0.0.1:%d" % (10000 + len(thirds) + number)
    directory = tempfile.mkdtemp()
    options = [program, "-f", "--workers", "2", "-r", "-b", "0", "-t", "5", "-x", "1000",
               "-p", directory + "/pid"]
    process = subprocess.Popen(options + [address] + SOUND + [third], stderr=subprocess.DEVNULL)
    while not os.path.exists(directory + "/pid") or not open(directory + "/pid").read():
        time.sleep(0.01)
    return process, ("127.0.0.1", int(address.rsplit(":", 1)[1]))


def ask(address, times):
    begun = time.perf_counter()
    try:
        with socket.create_connection(address, timeout=0.2) as client:
            client.sendall(b"x" * 64)
            answer = client.recv(65)
    except OSError:
        answer = b""
    # Only clients of the two good servers are measured.
    if answer[:1] == b".":
        times.append(time.perf_counter() - begun)


def round_of(address, times):
    def some():
        for _ in range(CLIENTS // AT_ONCE):
            ask(address, times)

    threads = [threading.Thread(target=some) for _ in range(AT_ONCE)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as ports:
    ports.write("20000 22999")
with open("/proc/sys/net/ipv4/tcp_tw_reuse", "w") as reuse:
    reuse.write("1")
SOUND, held = [echo_server(), echo_server()], []
dead = socket.create_server(("127.0.0.1", 0))
nobody = "127.0.0.1:%d" % dead.getsockname()[1]
dead.close()
thirds = {
    "none": echo_server(),
    "dead": nobody,
    "slow": echo_server(0.5, b"s"),
    "silent": silent_server(held),
    "without ports": without_ports(held),
    "unroutable": "198.51.100.1:80",
}
pens = {kind: pen(sys.argv[1], number, third)
        for number, (kind, third) in enumerate(thirds.items())}
times = {kind: [] for kind in pens}
for _ in range(ROUNDS):
    for kind, (_, address) in pens.items():
        round_of(address, times[kind])
for process, _ in pens.values():
    process.terminate()
for kind, list_ in times.items():
    list_.sort()
    p50, p99 = list_[len(list_) // 2], list_[len(list_) * 99 // 100]
    base = sorted(times["none"])
    print("%-14s %5d answers  p50 %.2f ms  p99 %.2f ms  p99/none %.2f" % (
        kind, len(list_), p50 * 1e3, p99 * 1e3, p99 / base[len(base) * 99 // 100]))
