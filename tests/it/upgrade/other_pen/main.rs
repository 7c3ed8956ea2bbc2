//! Another release of pen: the whole program with another version, and with the faults that a test
//! asks for.
//!
//! The words of its behaviour are `VERSION [layout N] [FAULT]`. With `layout N`, its table has this
//! layout for other releases, although it is the same. A fault is one of
//!
//! - `lacks FEATURE`: it has all features that a state may require but this one;
//! - `rows N`: it knows tables of so many rows at most;
//! - `format N`: its states have this format;
//! - `rehearsal HOW`, `adoption HOW`: it fails when it rehearses, or when it takes over;
//! - `return HOW`: it fails when a program that took over gives back to it;
//! - `worker HOW`, `control HOW`: worker 0 or the control process fails at its start.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

mod behaviour;
#[allow(dead_code, reason = "its main starts another release")]
#[path = "../../../../src/main.rs"]
mod pen;
mod processes;

use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, raise};
use pen_supervisor::{Build, Entries, Succession};

/// The version, and what goes wrong.
static WORDS: LazyLock<Vec<&str>> = LazyLock::new(behaviour::read);

fn main() -> ExitCode {
    let version = WORDS[0];
    let format = match fault() {
        ["format", number] => number.parse().unwrap(),
        _ => Build::OWN.format,
    };
    let entries = Entries {
        relay: processes::relay,
        control: processes::control,
        page: pen_worker::page_entry,
        checker: pen_worker::checker_entry,
        examine_tls: pen_worker::examine_tls,
        examine_server_tls: pen_worker::examine_server_tls,
        build: Build {
            version,
            format,
            features: features(),
            table_layout: layout(),
            table_rows: rows(),
        },
    };
    let task = task();
    // From here on, pen's own code takes care of what goes wrong.
    let Some(succession) = Succession::find() else { return pen::run(entries) };
    match fault() {
        [when, how @ ..] if Some(*when) == task => fail(how),
        _ => {}
    }
    match succession.run(entries) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("pen: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The words about what goes wrong.
fn fault() -> &'static [&'static str] {
    match &WORDS[1..] {
        ["layout", _, fault @ ..] => fault,
        fault => fault,
    }
}

/// The layout of its table.
fn layout() -> u32 {
    match WORDS[1..] {
        ["layout", number, ..] => number.parse().unwrap(),
        _ => Build::OWN.table_layout,
    }
}

/// The features that it has.
fn features() -> &'static [&'static str] {
    match fault() {
        ["lacks", lacking] => {
            let others = Build::OWN.features.iter().copied().filter(|name| name != lacking);
            let others: Vec<_> = others.collect();
            assert!(others.len() < Build::OWN.features.len(), "no such feature: {lacking}");
            others.leak()
        }
        _ => Build::OWN.features,
    }
}

/// Most rows of its table.
fn rows() -> u32 {
    match fault() {
        ["rows", number] => number.parse().unwrap(),
        _ => Build::OWN.table_rows,
    }
}

/// What this program was executed for, if a pen executed it.
fn task() -> Option<&'static str> {
    if std::env::args_os().nth(1).is_some_and(|word| word == "--rehearse") {
        return Some("rehearsal");
    }
    let marker = std::env::var("PEN_HANDOVER").ok()?;
    Some(if marker.starts_with("to ") { "adoption" } else { "return" })
}

/// Fails in this way, or only waits.
fn fail(how: &[&str]) {
    match *how {
        ["panics"] => panic!("on purpose"),
        ["crashes"] => {
            // A real fault takes effect even if its signal is blocked. The first handler of the
            // library only removes itself, because a real fault comes again.
            SigSet::from(Signal::SIGSEGV).thread_unblock().unwrap();
            (0..2).for_each(|_| raise(Signal::SIGSEGV).unwrap());
        }
        ["overflows"] => println!("{}", overflow(1)),
        ["aborts"] => std::process::abort(),
        ["exits"] => std::process::exit(3),
        ["hangs"] => loop {
            std::thread::park();
        },
        // Until the test makes this file.
        ["waits", path] => wait_for(Path::new(path)),
        // The same, and then it fails.
        ["waits", path, ref how @ ..] => {
            wait_for(Path::new(path));
            fail(how);
        }
        ref unknown => panic!("no such fault: {unknown:?}"),
    }
}

/// Says that it waits, by a file beside this one, and waits for this file.
fn wait_for(path: &Path) {
    std::fs::write(path.with_extension("waiting"), "").unwrap();
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Uses up the stack, so that only a handler with its own stack can run.
#[expect(unconditional_recursion)]
fn overflow(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    overflow(depth + 1) + room[511]
}
