//! A fake worker: it takes and answers all messages of the supervisor, and writes what it did into
//! the request log. Some behaviours are bad.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;

use pen_config::ids::ClientKey;
use pen_config::settings::Settings;
use pen_ipc::channel::{Channel, Received};
use pen_ipc::codec;
use pen_ipc::message::{
    Event, FromStartingWorker, FromWorker, LastingFromWorker, LastingToWorker, ReportPage, ToWorker,
};
use pen_ipc::start::{RequestLog, WorkerStart};
use pen_ipc::stats::{ConnectionInfo, Counters};
use pen_table::Table;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::SendFlags;

use crate::{BEHAVIOUR, hostile, sandbox};

/// Behaves as the test asks; bad behaviour is that of worker 0.
pub fn entry(start: WorkerStart, table: &Table) -> i32 {
    let bad = start.id.0 == 0;
    match BEHAVIOUR[..] {
        ["try", "worker", action] => fail(start, sandbox::attempt(action)),
        ["dies"] => 3,
        ["fails"] => fail(start, "worker cannot\nstart".into()),
        ["never-ready"] => sleep(),
        // Only the second worker in this slot: the start waits for the first, and the third is a
        // normal one.
        ["oversleeps"]
            if bad && hostile::marks(table).next().unwrap().fetch_add(1, Relaxed) == 1 =>
        {
            sleep()
        }
        ["hostile", seed] if bad && hostile::is_first(table) => {
            hostile::live(start, table, seed.parse().unwrap())
        }
        ["hostage"] => with_the_lock(start, table),
        ["nonsense"] if bad => {
            let worker = Worker::new(start);
            worker.await_report();
            rustix::net::send(&worker.channel, b"\xff\xff\xff", SendFlags::empty()).unwrap();
            worker.obey()
        }
        ["panics"] if bad => {
            Worker::new(start).await_report();
            // Other panics are failures of the test, which reads standard error.
            std::panic::set_hook(Box::new(|_| {}));
            panic!("on purpose")
        }
        ["floods"] if bad => {
            let worker = Worker::new(start);
            worker.await_report();
            let flood = LastingFromWorker::Event(Event::LockStuck).into();
            // Until the supervisor kills it.
            while worker.channel.send(&flood, None).is_ok() {}
            worker.obey()
        }
        ["spins"] if bad => {
            let _worker = Worker::new(start);
            loop {
                std::hint::spin_loop();
            }
        }
        ["overreports"] if bad => Worker { page: Some(overfull()), ..Worker::new(start) }.obey(),
        ["boasts"] => {
            // Only the sum of the two counters overflows.
            let accepted = if bad { u64::MAX - 2 } else { 5 };
            let worker = Worker::new(start);
            let counters = Counters { accepted, ..Counters::default() };
            worker.send(&LastingFromWorker::from(counters).into());
            worker.obey()
        }
        // Fills the shared eventfd, so that nobody can write to it, and dies while its sibling
        // waits for a slot.
        ["jams"] if bad && is_empty(&start.freed) => {
            let worker = Worker::new(start);
            table.worker_table(1).await_connection();
            rustix::io::write(&worker.freed, &(u64::MAX - 1).to_ne_bytes()).unwrap();
            1
        }
        ["finds-manager"] => {
            let worker = Worker::new(start);
            let found = MANAGER.iter().find(|name| std::env::var_os(name).is_some());
            worker.log(found.unwrap_or(&"no manager"));
            worker.obey()
        }
        ["rebalances", how] => {
            let (number, row) = (start.id.0, u32::from(start.id.0));
            let worker_table = table.worker_table(row);
            (0..30).for_each(|_| assert!(worker_table.reserve(0, None)));
            let answer = |most: u32| match how {
                "refuses" => Some(if bad { 0 } else { most }),
                "ignores" => (!bad).then_some(most),
                "boasts" => Some(u32::MAX),
                unknown => panic!("no such behaviour: {unknown:?}"),
            };
            let rebalance = |most: u32| {
                let closed = answer(most)?;
                (0..closed.min(most)).for_each(|_| worker_table.release(0));
                Some(closed)
            };
            Worker { rebalance: Some((number, &rebalance)), ..Worker::new(start) }.obey()
        }
        // The others than the one that is bad, and behaviours of other processes.
        ["works" | "oversleeps" | "nonsense" | "panics" | "floods" | "spins" | "overreports"]
        | ["jams"]
        | ["hostile", _]
        | ["lack", _]
        | ["checker", _]
        | ["try", "control", _] => Worker::new(start).obey(),
        ref unknown => panic!("no such behaviour: {unknown:?}"),
    }
}

/// The variables by which a service manager speaks to a process.
const MANAGER: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];

fn fail(start: WorkerStart, reason: String) -> i32 {
    start.channel.send(&FromStartingWorker::Failed { reason }, None).unwrap();
    1
}

fn sleep() -> ! {
    loop {
        std::thread::park();
    }
}

/// Runs the real worker, except in the first process of worker 0: it takes the lock of the client
/// table and sleeps.
fn with_the_lock(start: WorkerStart, table: &Table) -> i32 {
    let worker_table = table.worker_table(0);
    // The byte counts outlive a worker. There is no other sign of an earlier process, because a
    // jailed process makes no file.
    if start.id.0 != 0 || table.server_totals(1).sent > 0 {
        return pen_worker::entry(start, table);
    }
    worker_table.add_server_bytes(1, 1, 0);
    start.channel.send(&FromStartingWorker::Ready, None).unwrap();
    let _locked = worker_table.lock([0; 16]).unwrap();
    eprintln!("the table is locked now");
    // It cannot stop itself, because it may not send signals.
    sleep()
}

/// Whether the eventfd has no value, so that no earlier process has filled it.
fn is_empty(eventfd: &OwnedFd) -> bool {
    rustix::io::read(eventfd, &mut [0; 8]) == Err(rustix::io::Errno::AGAIN)
}

/// A report without connections.
fn empty(serial: u32) -> ReportPage {
    ReportPage { serial, last: true, counters: Box::default(), connections: Vec::new() }
}

/// A page with more connections than there can be.
fn overfull() -> ReportPage {
    let info = ConnectionInfo {
        number: 0,
        state: 0,
        downfd: 0,
        upfd: 0,
        pending_down: 0,
        pending_up: 0,
        client: 0,
        server: 0,
    };
    ReportPage {
        serial: 1,
        last: false,
        counters: Counters { accepted: u64::MAX, ..Counters::default() }.into(),
        connections: vec![info; 300],
    }
}

/// What a worker answers to an order to end so many connections, if it does.
type Closes<'f> = &'f dyn Fn(u32) -> Option<u32>;

/// A worker that is ready.
struct Worker<'f> {
    channel: Channel<FromWorker, ToWorker>,
    log: Option<RequestLog>,
    freed: OwnedFd,
    /// What else a worker keeps: the listener and the other eventfd.
    _kept: [OwnedFd; 2],
    /// The answer to a request for a report, instead of an empty one.
    page: Option<ReportPage>,
    /// Its number, and how it obeys orders to end connections.
    rebalance: Option<(u8, Closes<'f>)>,
}

impl Worker<'_> {
    /// Tells the supervisor that it is ready.
    fn new(start: WorkerStart) -> Worker<'static> {
        start.channel.send(&FromStartingWorker::Ready, None).unwrap();
        Worker {
            channel: start.channel.into_phase(),
            log: start.log,
            freed: start.freed,
            _kept: [start.listener, start.vacancy],
            page: None,
            rebalance: None,
        }
    }

    fn send(&self, message: &FromWorker) {
        self.channel.send(message, None).unwrap();
    }

    fn log(&self, line: &str) {
        if let Some(RequestLog::File(file)) = &self.log {
            let mut file = File::from(file.try_clone().unwrap());
            file.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    }

    fn await_report(&self) {
        await_report(&self.channel);
    }

    /// Takes messages until the supervisor stops it.
    fn obey(mut self) -> i32 {
        self.log("started");
        loop {
            let (message, descriptor) = match self.channel.receive() {
                Ok(Received::Message(message, descriptor)) => (message, descriptor),
                Ok(Received::Empty) => {
                    wait(&self.channel);
                    continue;
                }
                Ok(Received::Closed) | Err(_) => return 1,
            };
            match message {
                ToWorker::Lasting(message) => {
                    if let Some(status) = self.obey_lasting(message, descriptor) {
                        return status;
                    }
                }
                ToWorker::Begin => self.log("began"),
                ToWorker::Report { serial } => {
                    let page = self.page.clone();
                    self.send(&FromWorker::Report(page.unwrap_or_else(|| empty(serial))));
                }
                ToWorker::Tls
                | ToWorker::TicketSecret
                | ToWorker::ServerTls
                | ToWorker::NoServerTls => self.log("keys"),
                ToWorker::Settings => {
                    let Settings { generation, blacklist, .. } = read_settings(descriptor.unwrap());
                    self.log(&format!("settings {generation} {blacklist}"));
                    self.send(&FromWorker::Applied { generation });
                }
                ToWorker::Listen => {
                    assert!(descriptor.is_some());
                    self.log("listening");
                    self.send(&FromWorker::Listening);
                }
                ToWorker::Explain { serial, client } => {
                    // A malicious worker would send more to the operator's terminal.
                    let text = format!("explained {}\x1b[2J", ClientKey::from_bytes(client));
                    self.send(&FromWorker::Explained { serial, text });
                }
                ToWorker::Syslog => assert!(descriptor.is_some()),
            }
        }
    }

    /// Obeys a message that every release understands. Some: leave with this exit status.
    fn obey_lasting(
        &mut self,
        message: LastingToWorker,
        descriptor: Option<OwnedFd>,
    ) -> Option<i32> {
        match message {
            LastingToWorker::Drain => {
                self.log("drained");
                return Some(0);
            }
            LastingToWorker::Stop => {
                self.log("stopped");
                return Some(0);
            }
            LastingToWorker::Log { .. } => {
                self.log = descriptor.map(RequestLog::File);
                self.log("reopened");
            }
            LastingToWorker::NoLog => self.log = None,
            // These tests have no connection log.
            LastingToWorker::ConnectionLog { .. } | LastingToWorker::NoConnectionLog => {
                self.log("connection log");
            }
            LastingToWorker::Freed => self.log("freed"),
            LastingToWorker::Republish => self.log("republished"),
            LastingToWorker::Close { number, .. } => self.log(&format!("close {number}")),
            LastingToWorker::CloseServer { server, .. } => {
                self.log(&format!("close server {server}"));
            }
            LastingToWorker::Rebalance(order) => {
                if let Some((number, answer)) = &self.rebalance {
                    self.log(&format!("rebalance {number} {}", order.most));
                    if let Some(closed) = answer(order.most) {
                        let serial = order.serial;
                        self.send(&LastingFromWorker::Rebalanced { serial, closed }.into());
                    }
                }
            }
            LastingToWorker::LimitClients(limits) => self.log(&format!("limits {}", limits.max)),
            LastingToWorker::Admit(admission) => self.log(&format!("admit {admission:?}")),
            LastingToWorker::Ping { serial } => {
                self.send(&LastingFromWorker::Pong { serial }.into())
            }
        }
        None
    }
}

/// Waits until the test asks for a report. Until then it takes messages and answers none.
pub fn await_report(channel: &Channel<FromWorker, ToWorker>) {
    while !matches!(channel.receive(), Ok(Received::Message(ToWorker::Report { .. }, _))) {
        wait(channel);
    }
}

fn wait(channel: &Channel<FromWorker, ToWorker>) {
    let _ = poll(&mut [PollFd::new(channel, PollFlags::IN)], None);
}

/// The settings in a memfd.
pub fn read_settings(memory: OwnedFd) -> Settings {
    // Not by `File::metadata`: that call names a file, although by an empty name, and the sandbox
    // forbids names to a worker.
    let length = rustix::fs::fstat(&memory).unwrap().st_size;
    let mut bytes = vec![0; length as usize];
    File::from(memory).read_exact_at(&mut bytes, 0).unwrap();
    codec::decode_settings(&bytes).unwrap()
}
