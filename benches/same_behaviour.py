#!/usr/bin/env python3
"""Compares the output of two builds of pen in a fixed scenario, for changes without visible effect.

    unshare --net --mount benches/same_behaviour.py OLD NEW

OLD and NEW are directories with pen and penctl. Both run the same scenario one after the other, at
the same ports and in a directory of the same name. Compared are help texts, checks, replies,
reports, settings files and logs. Process numbers, times, durations and byte counts of clients are
masked. The script prints the differences as a unified diff, and exits with status 1 if there are
any.
"""

import atexit
import difflib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

PORT, CONTROL = 18080, 18888
WORDS = ["penctl", "server", "acl"]


def masked(text):
    """The text without the parts that differ in each run."""
    text = re.sub(r"(?m)^\d{2,7}$", "N", text)
    zone = r"( ?(Z|UTC|[+-]\d\d:?\d\d))?"
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?" + zone, "TIME", text)
    text = re.sub(r"\bpid \d+", "pid N", text)
    fields = "pid|time|unix|started|uptime|age|last|now|since"
    text = re.sub(rf'"({fields})[a-z_]*":-?[\d.]+', r'"\1":N', text)
    text = re.sub(r"\b(age|time|uptime|up) \d+( ?s\b)?", r"\1 N", text)
    text = re.sub(r"127\.0\.0\.1:(?!18)\d{4,5}", "127.0.0.1:EPHEMERAL", text)
    text = re.sub(r"\b1[7-9]\d{8}(\.\d+)?\b", "UNIX", text)
    text = re.sub(r"\b(\d+ (s|min|h)( \d+ s)?) (ago|more)\b", r"N s \4", text)
    return re.sub(r"\b(\d+) ms\b", "N ms", text)


def server(name, port):
    """Answers every line with its name."""
    listener = socket.create_server(("127.0.0.1", port))

    def serve(connection):
        with connection:
            while connection.recv(100):
                connection.sendall(name)

    def accept():
        while True:
            try:
                connection = listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


def wait_for(what, condition):
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("waited in vain for " + what)
        time.sleep(0.01)


def ask(source):
    with socket.create_connection(("127.0.0.1", PORT), 5, (source, 0)) as client:
        client.sendall(b"x\n")
        return client.recv(100).decode()


class Record:
    """The output of one build, in order."""

    def __init__(self, directory):
        self.directory, self.lines = directory, []

    def note(self, title, text):
        self.lines.append("== " + title)
        self.lines.extend(masked(text).splitlines())

    def run(self, program, *arguments, **options):
        command = [os.path.join(self.directory, program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
        output = "[%d]\n%s%s" % (done.returncode, done.stdout, done.stderr)
        self.note(" ".join([program, *arguments]), output)
        return done.stdout


def settle(record):
    """Waits until no connection is open."""
    penctl = [os.path.join(record.directory, "penctl"), str(CONTROL), "servers"]

    def idle():
        lines = subprocess.run(penctl, capture_output=True, text=True).stdout.splitlines()
        return lines and all(" conn 0 " in line for line in lines)

    wait_for("the last connection's end", idle)


def texts(record):
    for words in (["--help"], ["--version"], ["--nonsense"], [], ["8080"],
                  ["-r", "x", "y:z:1:2:3:4"]):
        record.run("pen", *words)
    for words in (["--help"], ["--version"], [], ["nowhere", "x"]):
        record.run("penctl", *words)


def checks(record):
    files = {
        "good": "listen 127.0.0.1:%d\nserver 0 address 127.0.0.1 port 9\nroundrobin\n" % PORT,
        "bad": "frob\nserver 0 adress x\ntimeout x\nacl 1 deny 1.2.3.4 5\nlisten a b\nconn_max 3\n",
        "empty": "",
        "tls": "listen 127.0.0.1:%d\nserver 0 address 127.0.0.1 port 9\nssl_ciphers x\n" % PORT,
    }
    for name, text in files.items():
        with open(name, "w") as file:
            file.write(text)
        record.run("pen", "--check", "-u", "nobody", "-F", name)
        record.run("pen", "--check", "--show", "-u", "nobody", "-F", name)


def commands(record):
    """Every command, without arguments and with invalid ones; then valid settings."""
    listed = record.run("penctl", str(CONTROL), "help")
    listed_words = {line.split()[0] for line in listed.splitlines() if line.strip()}
    words = sorted(listed_words - {"exit", "no"})
    for word in words:
        record.run("penctl", str(CONTROL), word)
        record.run("penctl", str(CONTROL), "help", word)
        record.run("penctl", str(CONTROL), *word.split(), "x", "y", "z")
        record.run("penctl", str(CONTROL), "no", word)
    for line in ("blacklist 7", "server 1 max 5 hard 9", "acl 3 permit 10.0.0.0/8", "client_acl 0",
                 "tracking 77", "prio on", "no prio", "weight", "no weight", "roundrobin off",
                 "http", "no http", "timeout 4", "mode", "exit", "nonsense"):
        record.run("penctl", str(CONTROL), *line.split())
    for form in ("servers", "status", "recent", "mode", "show", "sandbox", "explain 127.0.0.9",
                 "write -", "write"):
        record.run("penctl", str(CONTROL), *form.split())
        record.run("penctl", "--json", str(CONTROL), *form.split())


def scenario(record):
    """A pen with three servers, one of them dead: clients, commands, reloads, reports, the death of
    a worker, the end."""
    texts(record)
    checks(record)
    listeners = [server(b"a", 19001), server(b"b", 19002)]
    with open("pen.cfg", "w") as file:
        file.write("blacklist 600\nserver 2 address 127.0.0.1 port 19003\n")
    errors = open("errors", "w+")
    words = ["-f", "-u", "nobody", "-C", str(CONTROL), "-F", "pen.cfg", "-w", "page.html",
             "-l", "requests", "-p", "pid", "--workers", "2", "-S", "5", "-r", str(PORT),
             "127.0.0.1:19001", "127.0.0.1:19002:7"]
    pen = subprocess.Popen([os.path.join(record.directory, "pen"), *words], stderr=errors)
    atexit.register(pen.kill)
    wait_for("the start", lambda: os.path.exists("pid") and open("pid").read())
    said = lambda: open("errors").read()
    record.note("clients", " ".join(ask("127.0.1.%d" % n) for n in range(1, 10)))
    settle(record)
    pen.send_signal(signal.SIGUSR1)
    wait_for("the report", lambda: os.path.exists("page.html"))
    record.note("page", open("page.html").read())
    commands(record)
    for text in ("blacklist 600\ntracking 5\n", "frob\nblacklist x\n",
                 "blacklist 600\ntracking 6\nserver 0 max 3\n"):
        before = said().count("\n")
        with open("pen.cfg", "w") as file:
            file.write(text)
        pen.send_signal(signal.SIGHUP)
        wait_for("the reload", lambda: said().count("\n") > before)
        record.run("penctl", str(CONTROL), "show")
    before = said().count("\n")
    pen.send_signal(signal.SIGUSR1)
    wait_for("the report as text", lambda: said().count("\n") > before + 5)
    children = open("/proc/%d/task/%d/children" % (pen.pid, pen.pid)).read().split()
    os.kill(int(children[0]), signal.SIGKILL)
    wait_for("the replacement", lambda: "killed by signal 9" in said())
    record.note("clients", " ".join(ask("127.0.1.%d" % n) for n in range(1, 4)))
    pen.send_signal(signal.SIGTERM)
    pen.wait(10)
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    record.note("end", str(pen.returncode))
    record.note("errors", said())
    record.note("requests", "\n".join(sorted(open("requests").read().splitlines())))
    record.note("files", " ".join(sorted(os.listdir("."))))


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    programs = [os.path.abspath(path) for path in sys.argv[1:3]]
    said = []
    place = tempfile.mkdtemp()
    os.chmod(place, 0o755)
    for directory in programs:
        work = os.path.join(place, "work")
        os.mkdir(work)
        os.chdir(work)
        record = Record(directory)
        scenario(record)
        said.append(record.lines)
        os.chdir("/")
        shutil.rmtree(work)
    os.rmdir(place)
    differences = list(difflib.unified_diff(*said, "old", "new", lineterm="", n=2))
    print("\n".join(differences) if differences else "no difference in %d lines" % len(said[0]))
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
