//! A worker under an attacker's control, which writes random data everywhere: over the whole table,
//! and into the channel. The supervisor and the other worker go on, the bad one is replaced, and
//! nothing panics.

use std::time::Instant;

use rustix::process::Signal;

use super::{log, steered};
use crate::harness::{PATIENCE, eventually};

/// The number of hostile workers in a run of the tests; PEN_TEST_SEEDS sets it for longer runs.
const SEEDS: u64 = 24;

#[test]
fn a_hostile_worker_is_replaced_and_nobody_else_is() {
    let seeds = std::env::var("PEN_TEST_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let pen = steered(&format!("hostile {seed}")).start();
        let [hostile, other, _control] = pen.supervisor().children().try_into().unwrap();
        // The reports are read while the table holds random data.
        let deadline = Instant::now() + PATIENCE;
        while !hostile.gone() {
            assert!(Instant::now() < deadline, "seed {seed}: the worker lives: {}", pen.said());
            for line in [
                "status",
                "status json",
                "servers",
                "recent",
                "connection 0",
                "close 1",
                "clients_max 64",
            ] {
                assert!(!pen.tell(line).contains("killed"), "seed {seed}: {line}");
            }
            pen.supervisor().signal(Signal::USR1);
        }
        pen.hears(&format!("worker 0 (pid {}) ", hostile.pid()));
        eventually("a replacement runs", || log(&pen).matches("started\n").count() >= 2);
        assert!(!other.gone(), "seed {seed}: {}", pen.said());
        pen.tells("blacklist 17", "17");
    }
}
