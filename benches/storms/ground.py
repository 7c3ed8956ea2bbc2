"""The common part of all storms: network, directory, a pen with its processes, and verdicts."""

import collections
import contextlib
import ctypes
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1
# Linux has it since 4.2; Python does not name it yet.
IP_BIND_ADDRESS_NO_PORT = 24
ESTABLISHED, TIME_WAIT, LISTEN = "01", "06", "0A"
# Messages of pen that no storm explains.
ALARMING = re.compile(
    r"panic|no such system call|nonsense|SIGSEGV|SIGABRT|SIGSYS|assert|corrupt", re.IGNORECASE)

_ports = iter(range(10000, 19000))
_fork = multiprocessing.get_context("fork")
directory = None


@contextlib.contextmanager
def workspace(program):
    """Prepares the network and a directory that all users can enter; yields a copy of pen there."""
    global directory
    up = subprocess.run(
        ["ip", "-o", "link", "show", "up"], check=True, capture_output=True, text=True).stdout
    if os.geteuid() != 0 or any(not re.match(r"\d+: lo:", line) for line in up.splitlines()):
        sys.exit("storms: they need root and a network of their own: unshare --net --mount %s PEN"
                 % sys.argv[0])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # Ended connections make the kernel's list of sockets long, and reading it slow.
    with open("/proc/sys/net/ipv4/tcp_max_tw_buckets", "w") as buckets:
        buckets.write("256")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    directory = tempfile.mkdtemp(prefix="pen-storms-")
    os.chmod(directory, 0o755)
    try:
        yield shutil.copy(program, os.path.join(directory, "pen"))
    finally:
        shutil.rmtree(directory)


def path(name):
    return os.path.join(directory, name)


def port():
    """The next port of 127.0.0.1, below the range of local ports."""
    return next(_ports)


def addresses(servers):
    """Servers as words of a command line."""
    return ["127.0.0.1:%d" % server for server in servers]


class Verdict:
    """The result of a storm: a line for the whole, and one for each figure and failure."""

    def __init__(self, storm):
        self.storm, self.figures, self.failures, self.skipped = storm, [], [], []

    def figure(self, text, *values):
        self.figures.append(text % values)

    def check(self, good, text, *values):
        if not good:
            self.failures.append(text % values)
        return good

    def skip(self, text, *values):
        self.skipped.append(text % values)

    def text(self):
        word = "FAIL" if self.failures else "SKIP" if self.skipped else "PASS"
        return "\n".join(["%s: %s" % (self.storm, word)]
                         + ["  " + line for line in self.figures]
                         + ["  SKIPPED: " + line for line in self.skipped]
                         + ["  FAILED: " + line for line in self.failures])


def until(condition, seconds, pause=0.02):
    """Waits until a condition holds; returns its last value."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found or time.monotonic() > end:
            return found
        time.sleep(pause)


def dies_with_us():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def process(function, *arguments):
    """Runs a function in a process that ends with this one."""

    def run():
        dies_with_us()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        function(*arguments)

    child = _fork.Process(target=run, daemon=True)
    child.start()
    return child


def end_all():
    """Ends the pens and the processes of a storm."""
    while Pen.all:
        Pen.all.pop().end()
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def shared(kind="q"):
    """A number that all processes of a storm share; no lock, because its writer may be killed."""
    return _fork.RawValue(kind, 0)


def shared_list(values):
    return _fork.RawArray("q", values)


def mailbox():
    return _fork.SimpleQueue()


def thread(function, *arguments):
    made = threading.Thread(target=function, args=arguments, daemon=True)
    made.start()
    return made


def read(name):
    """The text of a file; empty if it cannot be read."""
    try:
        with open(name) as file:
            return file.read()
    except OSError:
        return ""


def unconnected(source=None, buffer=None):
    """A socket of one of the many addresses of this machine."""
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    if source:
        client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        client.bind((source, 0))
    return client


def connect(port, source=None, timeout=20, buffer=None):
    """A connection to a port of 127.0.0.1, from one of the many addresses of this machine."""
    client = unconnected(source, buffer)
    try:
        client.settimeout(timeout)
        client.connect(("127.0.0.1", port))
        return client
    except BaseException:
        client.close()
        raise


def exactly(client, length):
    """This number of bytes, or fewer if the connection ends before."""
    parts = []
    while length:
        part = client.recv(min(length, 1 << 18))
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


Socket = collections.namedtuple("Socket", "local remote state inode")


def sockets():
    """All TCP sockets of this network over IPv4 that have not ended."""

    def address(text):
        host, number = text.split(":")
        return socket.inet_ntoa(bytes.fromhex(host)[::-1]), int(number, 16)

    found = []
    for line in read("/proc/net/tcp").splitlines()[1:]:
        words = line.split(None, 10)
        if words[3] != TIME_WAIT:
            found.append(Socket(address(words[1]), address(words[2]), words[3], int(words[9])))
    return found


def descriptors(pid):
    """The target of each descriptor of a process; empty for a process that is gone."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/%d/fd" % pid):
            with contextlib.suppress(OSError):
                found.append(os.readlink("/proc/%d/fd/%s" % (pid, name)))
    return found


def inodes(pid):
    """The targets of the descriptors that are sockets."""
    return {int(name[8:-1]) for name in descriptors(pid) if name.startswith("socket:[")}


def state(pid):
    """The state letter of /proc/PID/stat, or an empty text."""
    return read("/proc/%d/stat" % pid).rpartition(")")[2].strip()[:1]


def memory(pid):
    """Resident and proportional size in KiB; zeros for a process that is gone."""
    rollup = dict(re.findall(r"^(Rss|Pss): *(\d+)", read("/proc/%d/smaps_rollup" % pid), re.M))
    return int(rollup.get("Rss", 0)), int(rollup.get("Pss", 0))


def certificate():
    """A self-signed certificate for localhost; returns its file and that of its key."""
    names = path("localhost.crt"), path("localhost.key")
    if not os.path.exists(names[0]):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
             "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
             "-out", names[0], "-keyout", names[1]], check=True, stderr=subprocess.DEVNULL)
    return names


class DidNotStart(Exception):
    """pen did not start: its exit status and its messages."""


class Pen:
    """A pen in the foreground that is ready, with a control port, and its messages in a file."""

    all = []
    _count = 0

    def __init__(self, program, options, servers, before=dies_with_us, control=None, user="nobody"):
        Pen._count += 1
        self.port, self.control_port = port(), port()
        self._messages = path("messages.%d" % Pen._count)
        control = control or "127.0.0.1:%d" % self.control_port
        command = [program, "-f", "-u", user, "-C", control, *options]
        with self._notified(path("notify.%d" % Pen._count)) as notify:
            with open(self._messages, "w") as messages:
                self.process = subprocess.Popen(
                    command + addresses([self.port]) + servers, stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=messages, preexec_fn=before,
                    env=dict(os.environ, NOTIFY_SOCKET=notify.getsockname()))
            self.pid = self.process.pid
            Pen.all.append(self)
            self._wait(notify)

    @staticmethod
    @contextlib.contextmanager
    def _notified(name):
        """The socket to which pen reports that it is ready, as to systemd."""
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(name)
        notify.setblocking(False)
        try:
            yield notify
        finally:
            notify.close()
            os.unlink(name)

    def _wait(self, notify):
        def ready():
            with contextlib.suppress(BlockingIOError):
                while True:
                    if b"READY=1" in notify.recv(4096):
                        return True
            return self.process.poll() is not None

        if not until(ready, 60, 0.005) or self.process.poll() is not None:
            self.process.kill()
            raise DidNotStart(self.process.wait(), self.said())

    def said(self):
        return read(self._messages)

    def signal(self, number):
        os.kill(self.pid, number)

    def alive(self):
        return self.process.poll() is None

    def children(self):
        return [int(pid) for pid in read("/proc/%d/task/%d/children" % ((self.pid,) * 2)).split()]

    def worker_pids(self):
        """The pids of the workers, and that of the control process or None; found by listeners."""
        listeners = {row.local[1]: row.inode for row in sockets() if row.state == LISTEN}
        workers, control = [], None
        for pid in self.children():
            held = inodes(pid)
            # A child that was just forked has both listeners.
            has = listeners.get(self.port) in held, listeners.get(self.control_port) in held
            if has == (True, False):
                workers.append(pid)
            elif has == (False, True):
                control = pid
        return workers, control

    def clients_of(self, worker):
        """Addresses and ports of the clients whose connections a worker has open."""
        held = inodes(worker)
        return [row.remote for row in sockets()
                if row.inode in held and row.local[1] == self.port and row.state != LISTEN]

    def tell(self, command):
        """The reply to a command."""
        with socket.create_connection(("127.0.0.1", self.control_port), timeout=10) as operator:
            operator.sendall(command.encode() + b"\n")
            parts = []
            while part := operator.recv(65536):
                parts.append(part)
        return b"".join(parts).decode()

    def left(self, seconds):
        """The counts that are not 0 after this time; empty if all are 0."""
        def counted():
            try:
                status = json.loads(self.tell("status json"))
            except (OSError, ValueError) as error:
                return "the control port does not answer: %s" % error
            counts = {"connections": status["connections_used"]}
            counts["listed"] = len(status["connections"])
            counts.update(("server %d" % s["number"], s["connections"]) for s in status["servers"])
            return {what: count for what, count in counts.items() if count}

        until(lambda: not counted(), seconds)
        return counted()

    def alarms(self):
        """The messages that no storm explains."""
        return [line for line in self.said().splitlines() if ALARMING.search(line)]

    def end(self):
        """Sends TERM; returns the exit status."""
        if self.alive():
            self.signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "none within 10 s"
