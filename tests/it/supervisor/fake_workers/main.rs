//! pen with fake workers: the whole program, except that its jailed processes do what a test asks
//! for.
//!
//! This is a program of its own, because a supervisor must have a single thread, and the tests run
//! in threads.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

mod checker;
mod control;
mod hostile;
#[path = "../../harness/numbers.rs"]
mod numbers;
mod page;
#[allow(dead_code, reason = "its main starts the real workers")]
#[path = "../../../../src/main.rs"]
mod pen;
mod sandbox;
mod worker;

use std::process::ExitCode;
use std::sync::LazyLock;

use pen_supervisor::{Build, Entries};

/// The behaviour that the test asks for, as words.
static BEHAVIOUR: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let words = std::env::var("PEN_TEST_BEHAVIOUR").expect("only the tests run this program");
    words.leak().split(' ').collect()
});

fn main() -> ExitCode {
    // This also reads the variable before pen wipes its environment.
    if let ["lack", feature] = BEHAVIOUR[..] {
        sandbox::remove(feature);
    }
    pen::run(Entries {
        relay: worker::entry,
        control: control::entry,
        page: page::entry,
        checker: checker::entry,
        examine_tls: |_| Ok(Default::default()),
        examine_server_tls: |_| Ok(Default::default()),
        build: Build::OWN,
    })
}
