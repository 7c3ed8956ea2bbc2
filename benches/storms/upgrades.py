"""upgrades: pen executes a copy of its own program again and again, under 200 clients.

There are two pens: one for TCP, whose table knows 65536 clients, and one for TLS and HTTP. Before
each upgrade, the program file is replaced, as a package does it. No client may fail, no delay may
be long, and no server may have more connections than its limit. The supervisor must not grow, also
not when the first pen is upgraded many times without clients.
"""

import os
import shutil
import signal
import ssl
import statistics
import time

import ground
import visitors
from visitors import Era, Watch

CLIENTS = 65536
SHORT, DOWNLOADS, SESSIONS, REQUESTS = 100, 40, 40, 20
LIMIT = 10
# Seconds: the longest upgrade; the longest delay of a client that it may cause.
MOST_UPGRADE, MOST_DELAY = 0.2, 0.05
# Seconds in which no worker accepts.
MOST_GAP = 0.02
# Delays that begin so long after an upgrade are still its own.
AFTERMATH = 0.1
# How much the supervisor's resident size may grow. It varies by a few percent with each program.
GROWTH = 1.02
CONFIGURATION = """\
acl 1 permit 127.1.0.0 255.255.0.0
acl 2 permit 127.2.0.0 255.255.0.0
acl 9 permit 127.9.0.0 255.255.0.0
server 0 acl 9
server 1 acl 1
server 2 acl 1 max %d
server 3 acl 2
""" % LIMIT


class Upgraded:
    """A pen, its upgrades, and what its supervisor held after each."""

    def __init__(self, name, program, options, servers, places):
        self.name, self.program, self.era = name, program, Era(places)
        self.pen = ground.Pen(program, options, ground.addresses(servers))
        self.times, self.held = [], []

    def upgrade(self):
        """Replaces the program and upgrades to it. Returns None, or what pen said instead."""
        shutil.copy(self.program, self.program + ".new")
        os.rename(self.program + ".new", self.program)
        ground.until(self.era.has_room, 20)
        self.held.append(held(self.pen))
        before = len(self.pen.said())
        begun = time.monotonic()
        self.pen.signal(signal.SIGUSR2)
        done = ground.until(lambda: " is now pen " in self.pen.said()[before:], 30, 0.0005)
        self.times.append((begun, time.monotonic()))
        self.era.count()
        return None if done else self.pen.said()[before:] or "nothing"


def held(pen):
    """Of the supervisor: RSS and PSS in KiB, descriptors, children, zombies."""
    children = pen.children()
    zombies = sum(ground.state(child) == "Z" for child in children)
    return (*ground.memory(pen.pid), len(ground.descriptors(pen.pid)), len(children), zombies)


def settled(pen, children):
    """What the supervisor holds when only this number of its children is left."""
    ground.until(lambda: len(pen.children()) == children, 20)
    return held(pen)


def start(program, probed, farm, source, web):
    configuration = ground.path("upgrades.cfg")
    with open(configuration, "w") as file:
        file.write(CONFIGURATION)
    common = ["--workers", "2", "-x", "2000", "-c", str(CLIENTS)]
    servers = [probed.port, farm[0].port, farm[1].port, source.port]
    chain, key = ground.certificate()
    return (
        Upgraded("tcp", program, common + ["-F", configuration], servers, DOWNLOADS),
        Upgraded("tls", program, common + ["-H", "-E", chain, "-K", key], [web.port],
                 SESSIONS + REQUESTS))


def fill(pen):
    """Makes all addresses of 127.1.0.0/16 known to pen."""
    parts = [ground.process(visitors.fill, pen.port, first, first + CLIENTS // 4)
             for first in range(0, CLIENTS, CLIENTS // 4)]
    [part.join() for part in parts]


def clients(tcp, tls, seed):
    """Starts all clients; returns the mailbox and the number of reports that it will get."""
    box, context = ground.mailbox(), ssl.create_default_context(cafile=ground.certificate()[0])

    def kind(name, upgraded, visit, places):
        watch = Watch(name, upgraded.era, seed)
        ground.process(visitors.crowd, watch, box, lambda place: visit(watch, place), places)

    def over_tls(pause):
        return lambda watch, place: visitors.over_tls(watch, tls.pen.port, place, pause, context)

    kind("short", tcp, lambda watch, place: visitors.short(watch, tcp.pen.port, place),
         range(SHORT))
    kind("download", tcp, lambda watch, place: visitors.download(watch, tcp.pen.port, place),
         range(DOWNLOADS))
    kind("session", tls, over_tls(1.0), range(SESSIONS))
    kind("requests", tls, over_tls(0.1), range(SESSIONS, SESSIONS + REQUESTS))
    ground.process(visitors.probe, Watch("probe", tcp.era, seed), box, tcp.pen.port)
    return box, 5


def run(program, upgrades, alone, seed):
    verdict = ground.Verdict("upgrades")
    probed = visitors.Echo(visitors.has_priority)
    farm = [visitors.Echo(), visitors.Echo()]
    source, web = visitors.Source(), visitors.Web()
    both = tcp, tls = start(program, probed, farm, source, web)
    fill(tcp.pen)
    children = [len(upgraded.pen.children()) for upgraded in both]
    # The first upgrade changes what the supervisor holds: the state, for example.
    if not rage(verdict, both, 1):
        return verdict
    before = [settled(upgraded.pen, count) for upgraded, count in zip(both, children)]
    for upgraded in both:
        upgraded.times, upgraded.held = [], []
    box, reports = clients(tcp, tls, seed)
    begun = time.monotonic()
    time.sleep(max(5.0, min(upgrades * 0.5, 60.0)))
    farm[1].most.value = 0
    was_good = rage(verdict, both, upgrades)
    for upgraded in both:
        upgraded.era.over.value = 1
    reports = [box.get() for _ in range(reports)]
    if not was_good:
        verdict.figure("failures of clients: %s", [report.failures[:2] for report in reports])
        return verdict
    [judge_times(verdict, upgraded) for upgraded in both]
    judge_clients(verdict, both, reports, begun)
    verdict.check(farm[1].most.value <= LIMIT, "the server with a limit of %d had %d connections",
                  LIMIT, farm[1].most.value)
    verdict.figure("the server with a limit of %d had at most %d connections, %d times", LIMIT,
                   farm[1].most.value, farm[1].times_full.value)
    judge_growth(verdict, both, before, children)
    judge_alone(verdict, tcp, alone, children[0])
    for upgraded in both:
        pen = upgraded.pen
        left = pen.left(20)
        verdict.check(not left, "%s: connections are left: %s", upgraded.name, left)
        verdict.check(not pen.alarms(), "%s said: %s", upgraded.name, pen.alarms()[:2])
        status = pen.end()
        verdict.check(status == 0, "%s: the exit status after TERM is %s", upgraded.name, status)
    return verdict


def rage(verdict, both, upgrades):
    """Upgrades the two pens by turns. Returns whether all succeeded."""
    for number in range(upgrades):
        for upgraded in both:
            time.sleep(0.2)
            fault = upgraded.upgrade()
            if not verdict.check(fault is None, "%s: upgrade %d failed; pen said: %s",
                                 upgraded.name, number, fault):
                return False
    return True


def judge_times(verdict, upgraded):
    took = sorted(end - begun for begun, end in upgraded.times)
    middle = statistics.median(took)
    verdict.figure("%s: %d upgrades, from the signal to the message: median %.0f ms, most %.0f ms",
                   upgraded.name, len(took), middle * 1e3, took[-1] * 1e3)
    verdict.check(middle <= MOST_UPGRADE, "%s: half of the upgrades took more than %.0f ms",
                  upgraded.name, MOST_UPGRADE * 1e3)


def delays_of(report, times):
    """The delays that begin before, in and between the upgrades at these times."""
    before, during, between, at = [], [], [], 0
    for moment, delay in sorted(zip(report.moments, report.delays)):
        while at < len(times) and times[at][1] + AFTERMATH < moment:
            at += 1
        if not times or moment + delay < times[0][0]:
            before.append(delay)
        elif at < len(times) and moment + delay >= times[at][0]:
            during.append(delay)
        else:
            between.append(delay)
    return before, during, between


def spread(delays):
    """Median, the delay of one in a thousand, and the longest, in milliseconds."""
    if not delays:
        return "none"
    delays = sorted(delays)
    return "%.1f, %.1f, %.1f" % tuple(
        delays[min(len(delays) - 1, int(len(delays) * part))] * 1e3 for part in (0.5, 0.999, 1))


def gaps(report, begin, end):
    """The longest time without an answer, in seconds."""
    ends = sorted(moment + delay for moment, delay in zip(report.moments, report.delays)
                  if begin <= moment <= end)
    return max((second - first for first, second in zip(ends, ends[1:])), default=0.0)


def judge_clients(verdict, both, reports, begun):
    verdict.figure("delays in ms (median, 99.9 %%, longest) before, in and between the upgrades:")
    for report in reports:
        times = both[report.kind in ("session", "requests")].times
        before, during, between = delays_of(report, times)
        verdict.figure("  %-8s  %s  |  %s  |  %s  (%d answers)", report.kind, spread(before),
                       spread(during), spread(between), len(report.delays))
        failed = ["after %.2f s, for %.3f s: %s" % (at - begun, length, error)
                  for at, length, error in report.failures]
        verdict.check(not failed, "%s: %d failed: %s", report.kind, len(failed), failed[:3])
        if during and before:
            # A machine with other load delays clients without an upgrade too.
            most = max(MOST_DELAY, 2 * max(before + between))
            verdict.check(max(during) <= most, "%s: an upgrade delayed a client by %.0f ms",
                          report.kind, max(during) * 1e3)
        if report.kind == "probe":
            in_upgrades = [gaps(report, first, last + AFTERMATH) for first, last in times]
            calm = gaps(report, begun, times[0][0])
            verdict.figure("longest time in which no probe was answered: %.1f ms before, %.1f ms in"
                           " upgrades (median of each upgrade's: %.1f ms)", calm * 1e3,
                           max(in_upgrades) * 1e3, statistics.median(in_upgrades) * 1e3)
            verdict.check(max(in_upgrades) <= max(MOST_GAP, 2 * calm), "no probe was answered")


def judge_alone(verdict, upgraded, count, children):
    """Upgrades a pen without clients; its supervisor must stay as it is."""
    upgraded.times, upgraded.held = [], []
    first = settled(upgraded.pen, children)
    for number in range(count):
        fault = upgraded.upgrade()
        if not verdict.check(fault is None, "upgrade %d without clients failed; pen said: %s",
                             number, fault):
            return
    last = settled(upgraded.pen, children)
    verdict.check(first[2:] == last[2:], "descriptors, children, zombies were %s, and are %s",
                  first[2:], last[2:])
    if count:
        verdict.figure("without clients:")
        judge_times(verdict, upgraded)
    if count >= 100:
        early, late = compare_tenths(verdict, upgraded)
        verdict.check(late[0] <= early[0] * GROWTH, "the supervisor grew")


def compare_tenths(verdict, upgraded):
    """What the supervisor held: medians of the second and the last tenth of the upgrades."""
    tenth = max(1, len(upgraded.held) // 10)
    early, late = upgraded.held[tenth:2 * tenth] or upgraded.held, upgraded.held[-tenth:]
    early, late = ([int(statistics.median(column)) for column in zip(*some)]
                   for some in (early, late))
    verdict.figure("%s, second and last tenth of the upgrades: RSS %d, %d KiB; PSS %d, %d KiB; "
                   "%d, %d descriptors; %d, %d children; %d, %d zombies", upgraded.name,
                   *(figure for pair in zip(early, late) for figure in pair))
    return early, late


def judge_growth(verdict, both, before, children):
    """Compares the supervisors without clients, before and after, and under clients meanwhile."""
    for upgraded, first, count in zip(both, before, children):
        compare_tenths(verdict, upgraded)
        last = settled(upgraded.pen, count)
        verdict.check(first[2:] == last[2:] and not last[4],
                      "%s: without clients, descriptors, children, zombies were %s, and are %s",
                      upgraded.name, first[2:], last[2:])
