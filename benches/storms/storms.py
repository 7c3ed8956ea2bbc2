#!/usr/bin/env python3
"""Storms: long runs with faults and attacks, which must harm neither pen nor its clients.

    unshare --net --mount benches/storms/storms.py PEN [STORM ...]

Each storm prints PASS, FAIL or SKIP and its figures. Without a name, all run, for 14 minutes.
The exit status is 1 if a storm fails, else 0.

    kills        60 s: workers and the control process are killed and pen is reloaded, under clients
                 that must keep their servers
    mixed        600 s: short, long, slow, half-closed, idle and aborted connections, TLS, HTTP,
                 servers that refuse and return
    links        100 restarts, with reloads and reports, while a local user swaps links, directories
                 and files in the paths of pen
    watchdog     16 and 64 workers with a tenth of a processor are not killed; a stopped worker is
                 replaced
    descriptors  with a limit of 64 descriptors, each of 4 workers serves connections
    upgrades     50 upgrades under 200 clients: none fails, none waits long, limits hold; 1000
                 without clients: the supervisor does not grow

--seconds changes the length of kills and mixed, --restarts the number of restarts of links, and
--upgrades and --alone the numbers of upgrades. mixed needs 120 s for a reliable
verdict on memory. --seed repeats a storm's choices, not its timing.

It needs root, Python 3, ip(8) and openssl(1). All traffic stays in the network namespace. All files
are in one directory below /tmp, which is removed. watchdog creates a control group and removes it.
"""

import argparse
import random
import signal
import sys
import time
import traceback

import descriptors
import ground
import kills
import links
import mixed
import upgrades
import watchdog

STORMS = {
    "kills": lambda choice: kills.run(choice.pen, choice.seconds or 60, choice.seed),
    "mixed": lambda choice: mixed.run(choice.pen, choice.seconds or 600, choice.seed),
    "links": lambda choice: links.run(choice.pen, choice.restarts, choice.seed),
    "watchdog": lambda choice: watchdog.run(choice.pen),
    "descriptors": lambda choice: descriptors.run(choice.pen),
    "upgrades": lambda choice: upgrades.run(
        choice.pen, choice.upgrades, choice.alone, choice.seed),
}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pen", metavar="PEN", help="the program")
    parser.add_argument("storms", metavar="STORM", nargs="*", help="those to run; without one all")
    parser.add_argument("--seconds", type=float, help="how long kills and mixed last")
    parser.add_argument("--restarts", type=int, default=100, help="how often links restarts pen")
    parser.add_argument("--upgrades", type=int, default=50, help="those under clients")
    parser.add_argument("--alone", type=int, default=1000, help="those without clients")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    choice = parser.parse_args()
    for name in choice.storms:
        if name not in STORMS:
            parser.error("no storm is called %s; there are %s" % (name, ", ".join(STORMS)))
    return choice


def verdict_of(name, choice):
    try:
        return STORMS[name](choice)
    except Exception:
        # A storm that breaks proves nothing. The others go on.
        verdict = ground.Verdict(name)
        verdict.check(False, "the storm itself broke: %s", traceback.format_exc())
        return verdict
    finally:
        ground.end_all()


def main():
    choice, failed = arguments(), False
    # An exit removes the files and ends the processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("storms: ended by SIGTERM"))
    with ground.workspace(choice.pen) as choice.pen:
        for name in choice.storms or STORMS:
            begun = time.monotonic()
            verdict = verdict_of(name, choice)
            took = time.monotonic() - begun
            print("%s\n  %.0f s, seed %d" % (verdict.text(), took, choice.seed), flush=True)
            failed |= bool(verdict.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
