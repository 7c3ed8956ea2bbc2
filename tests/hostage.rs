//! A worker stops while it holds the lock of the client table. The other workers continue to serve;
//! after the worker is killed and replaced, the table is as before.
//!
//! The program under test is this program: the real relay in all workers except the first, which
//! takes the lock and stops itself. The program must have a single thread, so this file has its own
//! harness.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is how a failure is said")]

#[path = "it/harness/mod.rs"]
mod harness;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use harness::{Backend, Pen, Process, eventually};
use pen_config::address::{Host, Local, Service};
use pen_config::command::{Command, Number};
use pen_config::configuration::{Configuration, SourcedCommand};
use pen_config::parse::grammar::ServerSpec;
use pen_ipc::message::FromStartingWorker;
use pen_ipc::start::WorkerStart;
use pen_supervisor::{Entries, Launch};
use pen_table::Table;
use rustix::process::Signal;

/// Set for the program under test.
const HOSTAGE: &str = "PEN_TEST_HOSTAGE";

fn main() -> ExitCode {
    if std::env::var_os(HOSTAGE).is_some() {
        return pen();
    }
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let name = "a_worker_that_stops_with_the_lock_of_the_table_stops_nobody_else";
    if wanted.is_empty() || wanted.iter().any(|part| name.contains(part)) {
        a_worker_that_stops_with_the_lock_of_the_table_stops_nobody_else();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 33, 0, n)
}

fn a_worker_that_stops_with_the_lock_of_the_table_stops_nobody_else() {
    let farm = Backend::farm(["a", "b"]);
    let builder = Pen::builder().workers(3);
    let this = std::env::current_exe().unwrap();
    let mut pen = builder.binary(&this).env(HOSTAGE, "1").servers(&farm).start();
    // The first worker is the first child.
    let mut workers = pen.supervisor().children();
    let hostage = workers.remove(0);
    pen.hears(LOCKED);
    hostage.signal(Signal::STOP);
    eventually("it has stopped", || hostage.state() == Some('T'));
    let mut served = 0_u32;
    eventually("it is replaced", || {
        assert!(
            pen.ask(client((served % 250) as u8)).is_some(),
            "clients are served without being remembered"
        );
        served += 1;
        hostage.gone()
    });
    assert!(
        pen.said().contains("the client table is locked by a worker that does not go on"),
        "{}",
        pen.said()
    );
    pen.hears("it hung");
    // From now on all workers remember clients again.
    let homes: Vec<String> = (0..10).map(|n| pen.ask(client(n)).unwrap()).collect();
    for (n, home) in homes.iter().enumerate() {
        for worker in 0..3 {
            assert_eq!(pen.only(worker, || pen.ask(client(n as u8))).as_ref(), Some(home));
        }
    }
    assert!(workers.iter().all(|worker: &Process| !worker.gone()), "{}", pen.said());
    assert!(pen.said().contains("the client table was rebuilt"), "{}", pen.said());
    pen.settle();
    pen.end_by(Signal::TERM);
}

// The code below runs in the program under test.

fn pen() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let after = |option: &str| {
        PathBuf::from(&words[words.iter().position(|word| word == option).unwrap() + 1])
    };
    let [listen, first, second] = words.last_chunk().unwrap();
    let inet = |word: &str| {
        let address: std::net::SocketAddr = word.parse().unwrap();
        (Host::Ip(address.ip()), Service::Port(address.port()))
    };
    let server = |word: &String| {
        let (host, port) = inet(word);
        ServerSpec { host, port: Some(port), soft: 0, hard: 0, weight: 1, prio: 0 }
    };
    let (host, port) = inet(listen);
    let placed = |command| SourcedCommand { source_line: "a test".into(), command };
    let launch = Launch {
        configuration: Configuration {
            local: Some(Local::Inet { host: Some(host), port }),
            servers: vec![server(first), server(second)],
            commands: vec![
                placed(Command::Number(Number::Workers, Some(3))),
                placed(Command::WebStats(Some(after("-w")))),
            ],
            emergency: None,
            abuse: None,
            server_slots: None,
            accept_batch: 100,
            hash_always: false,
            tls: Default::default(),
        },
        show: false,
        foreground: true,
        jail: None,
        user: None,
        pid_file: Some(after("-p")),
        control: None,
        allow_exit: false,
        config: None,
        require_sandbox: false,
        check: false,
        command_line: "pen of the tests".into(),
    };
    let entries =
        Entries { relay, control: pen_worker::control_entry, examine_tls: pen_worker::examine_tls };
    match pen_supervisor::run(launch, entries) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("pen: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the real worker, except in the first process of worker 0.
fn relay(start: WorkerStart, table: &Table) -> i32 {
    let worker_table = table.worker_table(0);
    // The byte counts outlive a worker. There is no other sign of an earlier process, because a
    // jailed process makes no file.
    if start.id.0 != 0 || table.server_totals(1).sent > 0 {
        return pen_worker::entry(start, table);
    }
    worker_table.add_server_bytes(1, 1, 0);
    start.channel.send(&FromStartingWorker::Ready, None).unwrap();
    let _locked = worker_table.lock([0; 16]).unwrap();
    eprintln!("{LOCKED}");
    loop {
        // It cannot stop itself either, because it may not send signals.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

/// The hostage's message.
const LOCKED: &str = "the table is locked now";
