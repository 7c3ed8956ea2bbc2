"""links: a local user swaps links, directories and files in the paths of a pen that root runs.

In each round some of the paths of -w, -l, -p, -F and -C lead through directories of nobody. Its
processes change them all the time while pen starts, reloads, reports and ends. A tree of root's
beside them is the victim: its owners, modes, times, inodes, links and content must stay.
"""

import collections
import contextlib
import hashlib
import os
import random
import shutil
import signal
import socket
import stat
import time

import ground
from farm import Farm

NOBODY, USER = 65534, "daemon"
NAMES = {"-w": "index.html", "-l": "log", "-p": "pid", "-F": "pen.cfg", "-C": "control"}
# The swapped part: the directory of the file, one above it, the file itself, or a file in a
# directory in which all users may create files.
PLACES = ("middle", "above", "end", "shared")
AT_FDCWD, RENAME_EXCHANGE = -100, 2
# A setting that only the victim has.
SECRET = 77
FACTS = ("mode", "owner", "group", "inode", "links", "size", "mtime", "ctime", "content")


def exchange(one, other):
    """Swaps two names in one step (renameat2(2)). It may fail."""
    names = os.fsencode(one), os.fsencode(other)
    ground.LIBC.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)


def remove(name):
    with contextlib.suppress(OSError):
        os.rmdir(name) if os.path.isdir(name) and not os.path.islink(name) else os.unlink(name)


class Victim:
    """The files that only root may touch, and their state."""

    def __init__(self, root):
        self.root, self.full, self.bare = root, root + "/victim", root + "/victim/bare"
        os.makedirs(self.full + "/b/www")
        os.makedirs(self.bare)
        for directory in (self.full, self.full + "/b/www"):
            for name in NAMES.values():
                self._precious(directory + "/" + name)
        os.chmod(self.full, 0o711)

    @staticmethod
    def _precious(name):
        if os.path.basename(name) == NAMES["-C"]:
            # A socket without a listener: pen removes such a socket at its own path.
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(name)
            return
        with open(name, "w") as file:
            file.write("blacklist %d\n" % SECRET)
        os.chmod(name, 0o600)

    def look(self):
        found = {}
        for where, directories, files in os.walk(self.full):
            for name in [where] + [os.path.join(where, below) for below in files + directories]:
                facts, content = os.lstat(name), ""
                if stat.S_ISREG(facts.st_mode):
                    with open(name, "rb") as file:
                        content = hashlib.sha256(file.read()).hexdigest()
                found[name] = (
                    facts.st_mode, facts.st_uid, facts.st_gid, facts.st_ino, facts.st_nlink,
                    facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, content)
        # The rounds create and remove directories in this one.
        facts = os.lstat(self.root)
        found[self.root] = facts.st_mode, facts.st_uid, facts.st_gid, facts.st_ino
        return found

    def changes(self, before):
        """The differences, each as one word or more."""
        after, found = self.look(), []
        for name in sorted(before.keys() | after.keys()):
            was, now = before.get(name), after.get(name)
            if was != now:
                what = ("made" if was is None else "gone" if now is None else
                        ", ".join(fact for fact, a, b in zip(FACTS, was, now) if a != b))
                found.append("%s: %s" % (os.path.relpath(name, self.root), what))
        return found


class Attack:
    """One path in a directory of the attacker, and the swapped part."""

    def __init__(self, victim, home, option, rng):
        self.option, self.place, self.name = option, rng.choice(PLACES), NAMES[option]
        self.home = "%s/%s" % (home, option[1:])
        os.mkdir(self.home)
        if self.place != "shared":
            os.chown(self.home, NOBODY, NOBODY)
        os.chmod(self.home, 0o1777 if self.place == "shared" else 0o755)
        below = {"above": "/b/www", "shared": ""}.get(self.place, "/www")
        self.directory = self.home + below
        self.path = self.directory + "/" + self.name
        # The place of the file, or of a file that could be created; absolute or relative.
        self.target = victim.bare if rng.random() < 0.3 else victim.full
        if rng.random() < 0.3:
            base = self.home if self.place in ("middle", "above") else self.directory
            self.target = os.path.relpath(self.target, base)

    def __str__(self):
        return "%s %s, to %s" % (self.option, self.place, self.target)

    def prepare(self):
        """Creates, as the attacker, a path that pen can use, and its counterpart."""
        os.makedirs(self.directory, exist_ok=True)
        self._file()
        if self.place in ("middle", "above"):
            os.symlink(self.target, self.home + "/away")
            os.makedirs(self.home + "/other/www")

    def _file(self):
        if self.option == "-F":
            with contextlib.suppress(OSError), open(self.path, "x") as file:
                file.write("blacklist 5\n")

    def strike(self, rng):
        """One change. Each call may fail because of pen or of an earlier change."""
        with contextlib.suppress(OSError):
            if self.place in ("end", "shared"):
                self._strike_the_end(rng)
                return
            directory = self.directory if self.place == "middle" else self.home + "/b"
            exchange(directory, self.home + ("/away" if rng.random() < 0.7 else "/other"))

    def _strike_the_end(self, rng):
        aside = "%s/.%d" % (self.directory, os.getpid())
        remove(aside)
        act = rng.randrange(6)
        if act == 0:
            os.mkdir(aside)
        elif act == 1:
            os.mkfifo(aside)
        elif act == 2 and self.place == "end":
            os.link(self.path, aside)
        else:
            os.symlink(self.target + "/" + self.name, aside)
        with contextlib.suppress(OSError):
            os.rename(aside, self.path) if rng.random() < 0.5 else exchange(aside, self.path)
        if rng.random() < 0.5:
            remove(self.path)
            self._file()


def become_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def prepare(attacks):
    become_nobody()
    [attack.prepare() for attack in attacks]


def attack_for_ever(attacks, seed, swaps):
    become_nobody()
    rng = random.Random(seed)
    while True:
        for _ in range(100):
            rng.choice(attacks).strike(rng)
        swaps.value += 100


@contextlib.contextmanager
def attacked(attacks, rng, swaps):
    """A context in which two processes attack."""
    attackers = [ground.process(attack_for_ever, attacks, rng.random(), swaps) for _ in range(2)]
    try:
        yield
    finally:
        [attacker.kill() for attacker in attackers]
        [attacker.join() for attacker in attackers]


class Round:
    """One start of pen, and its further life."""

    def __init__(self, victim, safe, rng, counts):
        self.rng, self.counts = rng, counts
        self.home = "%s/home%d" % (victim.root, counts["rounds"])
        os.mkdir(self.home)
        with open(safe + "/pen.cfg", "w") as file:
            file.write("blacklist 6\n")
        chosen = rng.sample(sorted(NAMES), rng.choice([1, 1, 2, 3, 5]))
        self.attacks = [Attack(victim, self.home, option, rng) for option in chosen]
        # The other paths belong to root.
        self.paths = {option: safe + "/" + name for option, name in NAMES.items()}
        self.paths.update((attack.option, attack.path) for attack in self.attacks)
        ground.process(prepare, self.attacks).join()

    def run(self, program, servers, swaps):
        """Returns the faults of pen itself."""
        with contextlib.ExitStack() as stack:
            begin = lambda: stack.enter_context(attacked(self.attacks, self.rng, swaps))
            # Otherwise the attack begins after the start, so that pen lives to reload and report.
            if self.rng.random() < 0.7:
                begin()
                return self._start(program, servers, "starts under attack", lambda: None)
            return self._start(program, servers, "calm starts", begin)

    def _start(self, program, servers, kind, then):
        options = []
        for option in ("-w", "-l", "-p", "-F"):
            options += [option, self.paths[option]]
        try:
            pen = ground.Pen(program, options, servers, control=self.paths["-C"], user=USER)
        except ground.DidNotStart as refused:
            self.counts["refused"] += 1
            status, said = refused.args
            good = status == 1 and len(said.splitlines()) == 1
            return "" if good else "a start ended with %s: %s" % (status, said[:300])
        self.counts[kind] += 1
        then()
        self._use(pen)
        status, said = pen.end(), pen.said()
        self.counts["refusals"] += said.count("symbolic link")
        if "blacklist %d" % SECRET in said:
            return "pen read a file of root's by a link of another user: %s" % said[-300:]
        if status != 0 or pen.alarms():
            return "it ended with %s: %s" % (status, said[-300:])
        return ""

    def _use(self, pen):
        """Reloads and reports, each followed by a client."""
        for _ in range(6):
            if not pen.alive():
                return
            pen.signal(signal.SIGHUP)
            pen.signal(signal.SIGUSR1)
            with contextlib.suppress(OSError), ground.connect(pen.port, timeout=5) as client:
                client.sendall(b"x")
                self.counts["answers"] += client.recv(2) != b""
            self.counts["requests"] += 1
            time.sleep(self.rng.uniform(0, 0.05))


def run(program, restarts, seed):
    rng, verdict, counts = random.Random(seed), ground.Verdict("links"), collections.Counter()
    victim, safe, swaps = Victim(ground.path("links")), ground.path("safe"), ground.shared()
    os.mkdir(safe)
    servers, before, written = Farm().servers, victim.look(), 0
    while counts["starts under attack"] < restarts and counts["rounds"] < 20 * restarts:
        counts["rounds"] += 1
        this = Round(victim, safe, rng, counts)
        counts.update("%s %s" % (attack.option, attack.place) for attack in this.attacks)
        where = "; ".join(map(str, this.attacks))
        wrong = this.run(program, servers, swaps)
        verdict.check(not wrong, "%s (%s)", wrong, where)
        changes = victim.changes(before)
        if not verdict.check(not changes, "written elsewhere: %s (%s)", ", ".join(changes), where):
            before, written = victim.look(), written + 1
        shutil.rmtree(this.home)
        if len(verdict.failures) >= 5:
            break
    judge(verdict, counts, restarts, swaps.value, len(before), written)
    return verdict


def judge(verdict, counts, restarts, swaps, victims, written):
    starts = counts["starts under attack"]
    verdict.check(starts >= restarts, "only so many starts in %d rounds", counts["rounds"])
    verdict.check(counts["answers"] == counts["requests"], "%d of %d requests were answered",
                  counts["answers"], counts["requests"])
    verdict.figure("%d starts under attack, %d refused, %d before it; %d of %d requests served",
                   starts, counts["refused"], counts["calm starts"], counts["answers"],
                   counts["requests"])
    verdict.figure("%d swaps; %d links refused by reloads and reports", swaps, counts["refusals"])
    verdict.figure("%d victims, changed in %d rounds", victims, written)
    kinds = sorted(kind for kind in counts if kind.startswith("-"))
    verdict.figure("attacked: %s", ", ".join("%s %d" % (kind, counts[kind]) for kind in kinds))
