#!/usr/bin/env python3
"""Compares pen with the other balancers of this machine in one run; writes a report and plots.

    cargo build --release --bins --examples
    benches/compare/compare.py --report report.md

The main figure is CPU time per unit of work: user and kernel, of all processes of a program. It
hardly depends on other load of the machine; rates and latencies do. Rounds are interleaved (A B C,
B C A, ...), and the report shows medians. All traffic stays on loopback. The script ends only
processes that it started, installs nothing, and changes no setting of the machine.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

import plot
from machine import Child, free_ports, is_free, processor_time, processors, tree
from machine import proportional_memory
from programs import Job, found

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVERS = 1000
P256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
RSA = ["-newkey", "rsa:2048"]


class Bench:
    """The programs, the servers and the report of a run, and a directory for files."""

    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.programs = [program for program in found(options.pen)
                         if not options.only or program.name in options.only]
        self.balancers = [program for program in self.programs if program.plain]
        # A single worker has a CPU for itself. The kernel places several workers as it likes.
        self.own, self.rest = {processors()[-1]}, set(processors()[:-1]) or set(processors())
        self.first = free_ports(SERVERS)
        self.servers = self.serve(self.first, SERVERS)
        self.port = self.first + SERVERS
        self.report = []

    def serve(self, port, count):
        child = Child([self.options.generator, "serve", f"127.0.0.1:{port}", str(count)], self.rest)
        child.process.stdout.readline()
        return child

    def job(self, servers=2, **more):
        """The next job. Each has other ports than the one before, whose closed connections would
        slow it down."""
        self.port += 1
        while not is_free(self.port):
            self.port += 1
        skip = (self.port * 7) % (SERVERS - servers + 1)
        return Job(self.port, list(range(self.first + skip, self.first + skip + servers)), **more)

    def start(self, program, job):
        cores = self.own if job.workers == 1 else None
        log = os.path.join(self.directory, f"{program.name}.log")
        child = Child(program.command(job, self.directory), cores, log)
        if not child.wait_for_port(job.port):
            child.stop()
            with open(child.log.name, encoding="utf-8") as log:
                raise SystemExit(f"compare: {program.name} does not start: {log.read()[-300:]}")
        time.sleep(0.2)
        if cores:
            # hitch chooses a CPU for its worker by itself.
            for pid in tree(child.pid):
                os.sched_setaffinity(pid, cores)
        return child

    def load(self, port, mode, cores=None, **options):
        words = [f"{name.replace('_', '-')}={value}" for name, value in options.items()]
        command = [self.options.generator, mode, f"127.0.0.1:{port}", *words]
        return Child(command, cores or self.rest)

    def cost(self, child, port, mode, unit="units", **options):
        """The result of a load, with the program's CPU time in microseconds for each unit."""
        pids = tree(child.pid)
        before = processor_time(pids)
        result = self.load(port, mode, **options).result()
        result["cost"] = (processor_time(pids) - before) * 1e6 / max(result[unit], 1)
        result["rate"] = result[unit] / result["seconds"]
        return result

    def compare(self, make, measure):
        """Runs all rounds with all programs: {name: [result, ...]}. `make` returns the job, and
        `measure` measures a running program."""
        results = {}
        for number in range(self.options.rounds):
            turn = number % len(self.programs)
            for program in self.programs[turn:] + self.programs[:turn]:
                job = make()
                if program.can(job):
                    child = self.start(program, job)
                    try:
                        results.setdefault(program.name, []).append(measure(child, job))
                    finally:
                        child.stop()
        return results

    def table(self, title, head, rows):
        lines = ["", f"#### {title}", ""]
        lines += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
        self.say("\n".join(lines))

    def say(self, text):
        print(text, flush=True)
        self.report.append(text)


def median(results, name):
    return statistics.median(result[name] for result in results)


def costs(bench, title, unit, make, mode, digits=2, **load):
    """A table with the cost of a unit for each program."""
    milliseconds = bench.options.milliseconds

    def measure(child, job):
        bench.load(job.port, mode, **{**load, "milliseconds": 300}).result()
        kind = "bytes" if unit == "byte" else "units"
        return bench.cost(child, job.port, mode, kind, milliseconds=milliseconds, **load)

    results = bench.compare(make, measure)
    factor, name = (1000, "ns") if unit == "byte" else (1, "µs")
    peers = [median(rounds, "cost") for program, rounds in results.items() if program != "pen"]
    best = min(peers, default=0)
    rows = []
    for program, rounds in results.items():
        cost = median(rounds, "cost")
        ratio = f"{cost / best:.2f}" if best else "-"
        row = [program, f"{cost * factor:.{digits}f}", ratio]
        if unit != "byte":
            row += [f"{median(rounds, name):.0f}" for name in ("rate", "p50", "p99", "p999")]
        if "resume" in load:
            resumed = sum(result["resumed"] for result in rounds)
            units = sum(result["units"] for result in rounds)
            row.append(f"{resumed / units:.0%}")
        rows.append(row + [sum(result["errors"] for result in rounds)])
    head = ["program", f"{name} per {unit}", "ratio"]
    head += [] if unit == "byte" else ["per second", "p50 µs", "p99 µs", "p99.9 µs"]
    head += ["resumed"] if "resume" in load else []
    bench.table(title, [*head, "errors"], rows)


def workers_of(number):
    """Words for a number of workers."""
    return "1 worker" if number == 1 else f"{number} workers"


def short(bench):
    """connections with one request"""
    for workers in (1, 2):
        for sticky in (True, False):
            how = "back to the client's server" if sticky else "round robin"
            costs(bench, f"Short connections, {how}, {workers_of(workers)}", "connection",
                  lambda: bench.job(workers=workers, sticky=sticky), "short", clients=1000)


def requests(bench):
    """requests on open connections"""
    for workers in (1, 2):
        costs(bench, f"Requests on 64 open connections, 1 kB, {workers_of(workers)}", "request",
              lambda: bench.job(workers=workers), "requests")
    for size in (16, 64, 256):
        costs(bench, f"Answers of {size} kB", "request", lambda: bench.job(splice=True),
              "requests", bytes=size * 1024)


def bulk(bench):
    """streams"""
    for mode, title in (("down", "Download, 8 connections"), ("up", "Upload, 8 connections")):
        costs(bench, title, "byte", lambda: bench.job(splice=True), mode, 3, at_once=8)


def certificate(directory, kind, options):
    """A file with a key and a self-signed certificate, which all users can read."""
    path = os.path.join(directory, f"{kind}.pem")
    made = path + ".crt"
    subprocess.run(["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost", "-keyout", path, "-out", made,
                    *options], check=True, capture_output=True)
    with open(path, "a", encoding="ascii") as file, open(made, encoding="ascii") as certificates:
        file.write(certificates.read())
    os.chmod(path, 0o644)
    os.chmod(directory, 0o755)
    return path


def tls(bench):
    """handshakes and streams over TLS"""
    # Each handshake is that of a short connection with an answer of 1 kB.
    if not shutil.which("openssl"):
        return
    files = {kind: certificate(bench.directory, kind, options)
             for kind, options in (("P-256", P256), ("RSA-2048", RSA))}
    for version in (13, 12):
        spoken = f"TLS 1.{version - 10}"
        for kind, file in files.items():
            costs(bench, f"{spoken}, full handshake, {kind}", "connection",
                  lambda: bench.job(certificate=file), "short", tls=version)
        file = files["P-256"]
        costs(bench, f"{spoken}, resumed handshake", "connection",
              lambda: bench.job(certificate=file), "short", tls=version, resume=1)
        costs(bench, f"{spoken}, download, 8 connections", "byte",
              lambda: bench.job(certificate=file), "down", 3, at_once=8, tls=version)


def stalls(bench):
    """answers in several writes by a server with Nagle's algorithm"""
    # A client that waits for a delayed acknowledgement waits 40 ms.
    rows = []
    for program in bench.balancers:
        job = bench.job()
        child = bench.start(program, job)
        row = [program.name]
        for size in (4, 1000, 16_000, 100_000, 1_000_000):
            few = {"at_once": 1, "units": 20, "bytes": size}
            first = bench.load(job.port, "short", **few, pieces=4).result()
            later = bench.load(job.port, "requests", **few).result()
            row.append(f"{first['p50'] / 1000:.1f} / {later['p50'] / 1000:.1f}")
        child.stop()
        rows.append(row)
    head = ["program", *(f"{size} B" for size in ("4", "1 k", "16 k", "100 k", "1 M"))]
    title = "Milliseconds for an answer: in 4 writes on a new connection / in one on an open one"
    bench.table(title, head, rows)


def idle(bench):
    """memory"""
    memory(bench, "Memory (PSS of all processes, 2 workers)", bench.options.idle)
    if shutil.which("openssl"):
        file = certificate(bench.directory, "idle", P256)
        for version in (13, 12):
            memory(bench, f"Memory with TLS 1.{version - 10}", bench.options.idle // 3, file,
                   tls=version)


def memory(bench, title, count, file="", **load):
    """The memory of each program at the start, and for each idle connection."""
    rows = []
    for program in bench.programs:
        job = bench.job(workers=2 if program.multi else 1, certificate=file)
        if not program.can(job):
            continue
        child = bench.start(program, job)
        pids = tree(child.pid)
        bench.load(job.port, "short", units=200, clients=100, **load).result()
        start = proportional_memory(pids)
        holder, held = hold(bench, job.port, count, **load)
        each = (proportional_memory(pids) - start) / max(held, 1)
        release(holder)
        child.stop()
        rows.append([program.name, f"{start / 1e6:.1f}", held, f"{each:.0f}"])
    bench.table(title, ["program", "MB at the start", "idle connections", "bytes for each"], rows)


def hold(bench, port, count, **more):
    holder = bench.load(port, "hold", at_once=count, clients=1000, milliseconds=60000, **more)
    line = holder.process.stdout.readline()
    time.sleep(0.5)
    return holder, int(re.search(r'"held":(\d+)', line).group(1))


def release(holder):
    holder.process.stdin.close()
    holder.process.stdin = None
    holder.process.communicate(timeout=60)


def growth(bench):
    """the cost of a short connection beside a growing number of something"""
    quick = {"milliseconds": bench.options.milliseconds, "clients": 1000}

    def clients(child, job, count):
        bench.load(job.port, "short", units=count, clients=count, milliseconds=250_000).result()
        return bench.cost(child, job.port, "short", **{**quick, "clients": count})

    def beside(child, job, count):
        holder, _ = hold(bench, job.port, count)
        result = bench.cost(child, job.port, "short", **quick)
        release(holder)
        return result

    plain = lambda child, job, count: bench.cost(child, job.port, "short", **quick)
    idle_counts = [1000, 5000, bench.options.idle]
    series = [
        ("clients", "known clients", bench.options.clients, lambda n: bench.job(clients=n),
         clients),
        ("servers", "servers", [2, 16, 200, 1000], lambda n: bench.job(n), plain),
        ("connections", "idle connections", idle_counts, lambda n: bench.job(), beside),
        ("workers", "workers", [1, 2, 4, 8], lambda n: bench.job(workers=n), plain),
    ]
    for name, title, counts, make, measure in series:
        lines, rows = {}, {}
        for number in range(bench.options.rounds):
            for count in counts if number % 2 == 0 else reversed(counts):
                for program in bench.balancers:
                    job = make(count)
                    if not program.can(job):
                        continue
                    child = bench.start(program, job)
                    row = rows.setdefault(program.name, {})
                    row.setdefault(count, []).append(measure(child, job, count)["cost"])
                    child.stop()
        for program, row in rows.items():
            lines[program] = [(count, statistics.median(costs)) for count, costs in row.items()]
        table = []
        for program, points in lines.items():
            found_costs = [cost for _, cost in sorted(points)]
            ratio = max(found_costs) / min(found_costs)
            table.append([program, *(f"{cost:.1f}" for cost in found_costs), f"{ratio:.2f}"])
        bench.table(f"µs per short connection, by {title}",
                    ["program", *map(str, sorted(counts)), "most / least"], table)
        if bench.options.plots:
            path = os.path.join(bench.options.plots, f"{name}.svg")
            heading = f"Processor time of a short connection, by {title}"
            with open(path, "w", encoding="utf-8") as file:
                file.write(plot.line_plot(heading, title, "µs", lines))


def death(bench):
    """a server that dies under load"""
    rows = []
    for program in bench.balancers:
        for sticky in (True, False):
            first = free_ports(2, bench.port + 1)
            servers = [bench.serve(first + n, 1) for n in range(2)]
            job = bench.job(sticky=sticky)
            job.servers = [first, first + 1]
            child = bench.start(program, job)
            load = bench.load(job.port, "short", rate=2000, milliseconds=7000, clients=500)
            time.sleep(2)
            servers[1].stop(signal.SIGKILL)
            time.sleep(2)
            servers[1] = bench.serve(first + 1, 1)
            result = load.result()
            child.stop()
            for server in servers:
                server.stop()
            how = "sticky" if sticky else "round robin"
            figures = [result[name] for name in ("units", "errors", "p99", "most")]
            rows.append([program.name, how, *figures])
    bench.table("A server dies under 2000 connections a second and is back 2 s later",
                ["program", "choice", "served", "failed", "p99 µs", "longest µs"], rows)


def hups(bench):
    """reloads under load"""
    job, control = bench.job(SERVERS), bench.port + 1
    bench.port += 1
    path = os.path.join(bench.directory, "pen.cfg")

    def configure(value):
        with open(path + ".new", "w", encoding="ascii") as file:
            file.write(f"blacklist {value}\n")
            for n, port in enumerate(job.servers):
                file.write(f"server {n} address 127.0.0.1 port {port}\n")
        os.replace(path + ".new", path)

    def ask():
        with socket.create_connection(("127.0.0.1", control), 5) as operator:
            operator.sendall(b"blacklist\n")
            return operator.recv(100).decode().strip()

    # With several workers, the rate would depend on the number of busy connections that each gets.
    configure(30)
    os.chmod(bench.directory, 0o755)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    command = [bench.options.pen, "-f", "-x", "12000", "-S", str(SERVERS), "--workers", "1",
               "-C", f"127.0.0.1:{control}", *user, "-F", path, f"127.0.0.1:{job.port}"]
    child = Child(command, None, os.path.join(bench.directory, "hups.log"))
    if not child.wait_for_port(job.port) or not child.wait_for_port(control):
        with open(child.log.name, encoding="utf-8") as log:
            raise SystemExit(f"compare: pen does not start: {log.read()[-300:]}")
    holder, held = hold(bench, job.port, bench.options.idle)
    pids, value, times, results = tree(child.pid), 30, [], {False: [], True: []}
    for _ in range(bench.options.rounds):
        # Commands are sent without reloads too, so that they do not count as cost of a reload.
        for reloads in (False, True):
            before = [processor_time([pid]) for pid in pids]
            load = bench.load(job.port, "requests", milliseconds=4000)
            for _ in range(100):
                value += reloads
                configure(value)
                began = time.monotonic()
                if reloads:
                    os.kill(child.pid, signal.SIGHUP)
                while ask() != str(value):
                    if time.monotonic() > began + 5:
                        raise SystemExit("compare: a reload is not in force after 5 s")
                    time.sleep(0.001)
                if reloads:
                    times.append((time.monotonic() - began) * 1000)
                time.sleep(0.02)
            result = load.result()
            spent = [processor_time([pid]) - had for pid, had in zip(pids, before)]
            # The process that was started is the supervisor: milliseconds for each of 100 reloads.
            result["supervisor"] = spent[0] * 10
            result["others"] = sum(spent[1:]) * 1e6 / result["units"]
            result["rate"] = result["units"] / result["seconds"]
            results[reloads].append(result)
    release(holder)
    child.stop()
    times.sort()
    rows = []
    for name, reloads in (("no reloads", False), ("reloads", True)):
        rounds = results[reloads]
        rows.append([name, f"{median(rounds, 'rate'):.0f}", f"{median(rounds, 'others'):.2f}",
                     f"{median(rounds, 'supervisor'):.2f}",
                     sum(result["errors"] for result in rounds)])
    bench.table(f"100 reloads in 4 s, {SERVERS} servers, {held} idle connections, 64 busy ones",
                ["", "requests/s", "µs per request, without supervisor",
                 "ms of the supervisor per reload", "errors"], rows)
    bench.say(f"\nThe new settings are in force after {times[len(times) // 2]:.1f} ms (median), "
              f"{times[len(times) * 99 // 100]:.1f} ms (99 %), {times[-1]:.1f} ms (longest of "
              f"{len(times)}).")


def calls(bench):
    """system calls of a short connection, by strace"""
    if not shutil.which("strace"):
        return
    counts = {}
    for program in bench.balancers:
        job = bench.job()
        child = bench.start(program, job)
        bench.load(job.port, "short", units=100).result()
        path = os.path.join(bench.directory, "calls")
        targets = [word for pid in tree(child.pid) for word in ("-p", str(pid))]
        command = ["strace", "-f", "-c", "-o", path, *targets]
        strace = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        units = bench.load(job.port, "short", units=2000, at_once=16, clients=100).result()["units"]
        strace.send_signal(signal.SIGINT)
        strace.wait()
        child.stop()
        with open(path, encoding="ascii") as file:
            fields = [line.split() for line in file if re.match(r"\s*\d", line)]
        counts[program.name] = {field[-1]: int(field[3]) / units
                                for field in fields if field[-1] != "total"}
    names = sorted({name for count in counts.values()
                    for name, times in count.items() if times >= 0.05})
    rows = [[name, *(f"{count.get(name, 0):.2f}" for count in counts.values())] for name in names]
    rows.append(["**all**", *(f"**{sum(count.values()):.1f}**" for count in counts.values())])
    bench.table("System calls of a short connection, 16 at a time", ["call", *counts], rows)


GROUPS = [short, requests, bulk, tls, calls, stalls, idle, growth, death, hups]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pen", default=os.path.join(ROOT, "target/release/pen"))
    parser.add_argument("--generator",
                        default=os.path.join(ROOT, "target/release/examples/generator"))
    parser.add_argument("--groups", type=lambda text: text.split(","),
                        help="of " + ", ".join(group.__name__ for group in GROUPS))
    parser.add_argument("--only", type=lambda text: text.split(","), help="programs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--milliseconds", type=int, default=1000, help="of each measurement")
    parser.add_argument("--idle", type=int, default=9000,
                        help="idle connections, at most a third of the descriptor limit")
    parser.add_argument("--clients", type=lambda text: [int(count) for count in text.split(",")],
                        default=[2000, 20_000, 200_000])
    parser.add_argument("--report", help="file for the tables")
    parser.add_argument("--plots", help="directory for the plots")
    options = parser.parse_args()
    if options.plots:
        os.makedirs(options.plots, exist_ok=True)
    for path in (options.pen, options.generator):
        if not os.access(path, os.X_OK):
            parser.error(f"{path} is missing: cargo build --release --bins --examples")
    unknown = set(options.groups or []) - {group.__name__ for group in GROUPS}
    if unknown:
        parser.error(f"no such group: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(options, directory)
        try:
            for group in GROUPS:
                if not options.groups or group.__name__ in options.groups:
                    bench.say(f"\n### Group `{group.__name__}`: {group.__doc__}")
                    group(bench)
        finally:
            bench.servers.stop()
            if options.report:
                with open(options.report, "w", encoding="utf-8") as file:
                    file.write("\n".join(bench.report).strip() + "\n")


if __name__ == "__main__":
    main()
