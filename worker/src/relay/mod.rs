//! The relay worker: accepts clients, chooses a server for each, and moves bytes between them until
//! both are done.
//!
//! It has one thread and one event loop, and it never blocks. Each line uses only those above it,
//! tests apart:
//!
//! - `http`, `proxy`, `select`, and `crate::tls`: protocols and the choice of a server, without a
//!   socket.
//! - `connection`: the state of connections, and the lists that they are in.
//! - `transfer`: moving bytes by copying or splice(2).
//! - `accept`, `preface`, `upstream`: from the listener to a connected server.
//!
//! The last line and the files here share the state of a worker, `Relay`. `events` and `closing`
//! handle connected clients, and `xff` handles those with `-H`. `commands` carries out the
//! supervisor's messages, and `explain` answers one of them. `limits` judges new clients, and
//! `recount` counts the open ones again. `link`,
//! `request_log`, `connection_log` and `debug` are the outputs of the jailed process.

pub(crate) mod accept;
pub(crate) mod closing;
pub(crate) mod commands;
pub mod connection;
pub mod connection_log;
mod debug;
pub(crate) mod events;
mod explain;
pub mod http;
pub(crate) mod limits;
pub(crate) mod link;
pub mod log_writer;
pub(crate) mod preface;
pub mod proxy;
pub(crate) mod recount;
pub mod request_log;
pub mod select;
#[cfg(test)]
mod tests;
pub(crate) mod transfer;
pub mod upstream;
pub(crate) mod xff;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use pen_config::ids::Target;
use pen_config::settings::Settings;
use pen_ipc::channel::{Channel, Sent};
use pen_ipc::message::{Event, FromStartingWorker, ToWorker};
use pen_ipc::start::WorkerStart;
use pen_table::{Table, WorkerTable};

use crate::clock;
use crate::relay::accept::acceptor::{Acceptor, Wakeups};
use crate::relay::accept::hold::Held;
use crate::relay::connection::FirstStep;
use crate::relay::connection::connections::Connections;
use crate::relay::connection::end::ConnectionEnd;
use crate::relay::connection::idle_timeout::SilenceLimits;
use crate::relay::connection::{ConnectionState, Timer};
use crate::relay::connection_log::ConnectionLogger;
use crate::relay::debug::Debug;
use crate::relay::http::Wait;
use crate::relay::limits::Tarpit;
use crate::relay::link::{Link, Rated};
use crate::relay::log_writer::LogWriter;
use crate::relay::recount::Recount;
use crate::relay::select::choices::Choices;
use crate::relay::transfer::Io;
use crate::relay::upstream::Upstreams;
use crate::relay::upstream::attempts::Attempts;
use crate::relay::upstream::closes::ServerCloses;
use crate::relay::upstream::idlers::Idlers;
use crate::relay::upstream::rebalance::Rebalancing;
use crate::tls::TlsContext;
use crate::tls::servers::ServersTls;

/// The channel to the supervisor is readable or writable.
const CHANNEL: Token = Token(usize::MAX);
/// Another worker leaves clients to this one, or connection numbers were freed.
const FREED: Token = Token(usize::MAX - 1);
/// A client waits to be accepted.
const LISTENER: Token = Token(usize::MAX - 2);
/// A connection number under `-x` may be free, and this worker waits for one.
const VACANCY: Token = Token(usize::MAX - 3);

/// Events read from the kernel at a time.
const EVENTS: usize = 512;

/// After this many steps of a round the clock is read, and after this many milliseconds the
/// supervisor's messages are read. Each step may be a TLS handshake: hundreds of them would delay
/// the answer to a ping for seconds.
const STEPS_PER_CHECK: usize = 16;
const LONG_ROUND: u64 = 50;

/// A worker and its state.
struct Relay<'t> {
    poll: Poll,
    settings: Settings,
    /// The addresses of each target as the request log shows them, by table row and position.
    shown: Vec<Vec<String>>,
    worker_table: WorkerTable<'t>,
    acceptor: Acceptor,
    connections: Connections,
    attempts: Attempts,
    /// What new clients get first.
    first_step: FirstStep,
    /// Clients who wait for a server, or for the end of a pause.
    held: Held,
    /// What is derived from the settings to choose a server.
    choices: RefCell<Choices>,
    /// Connections beyond a limit per client that are kept open and silent.
    tarpit: Tarpit,
    /// The count of all open connections for the limits per client, if one is under way.
    recount: Recount,
    /// This worker's state of each server.
    upstreams: Upstreams,
    /// The servers whose connections are being ended.
    closes: ServerCloses,
    /// The servers that have more than their share, and whose silent connections are looked for.
    rebalancing: Rebalancing,
    idlers: Idlers,
    io: Io,
    log: Option<LogWriter>,
    connection_log: ConnectionLogger,
    debug: Debug,
    link: Link,
    /// The TLS configuration, if clients use TLS.
    tls: Option<TlsContext>,
    /// What TLS with servers needs, if a server speaks TLS.
    server_tls: Option<ServersTls>,
    /// Monotonic milliseconds, read once per round of events.
    now: u64,
    /// The same in nanoseconds.
    precise: u64,
}

/// Runs a relay worker until the supervisor tells it to stop or has gone. Returns the exit status.
pub fn run(start: WorkerStart, table: &Table) -> i32 {
    let (channel, settings) = (start.channel, start.settings);
    let poll = match Poll::new()
        .and_then(|poll| watch_own(&poll, &channel, &start.freed).map(|()| poll))
    {
        Ok(poll) => poll,
        Err(error) => return fail(&channel, format!("cannot wait for events: {error}")),
    };
    let wakeups = Wakeups { freed: start.freed, vacancy: start.vacancy };
    let acceptor = Acceptor::new(
        &poll,
        start.listener,
        wakeups,
        start.workers,
        start.begins,
        &settings,
        start.descriptor_limit,
    );
    let acceptor = match acceptor {
        Ok(acceptor) => acceptor,
        Err(error) => return fail(&channel, format!("cannot watch the listener: {error}")),
    };
    let tls = match start.tls.map(TlsContext::new).transpose() {
        Ok(tls) => tls,
        Err(reason) => return fail(&channel, reason),
    };
    let server_tls = match start.server_tls.map(ServersTls::new).transpose() {
        Ok(tls) => tls,
        Err(reason) => return fail(&channel, reason),
    };
    match channel.send(&FromStartingWorker::Ready, None) {
        Ok(Sent::Queued) => {}
        Ok(Sent::Full) | Err(_) => return 1,
    }
    let mut connection_log = ConnectionLogger::new(start.id, &start.host, start.utc_offset);
    if let Some(log) = start.connection_log {
        connection_log.open(log, &settings);
    }
    let mut relay = Relay {
        poll,
        shown: request_log::shown(&settings),
        worker_table: table.worker_table(start.row),
        connections: Connections::new(SilenceLimits::of(&settings)),
        attempts: Attempts::default(),
        first_step: FirstStep::new(settings.admission, tls.is_some()),
        held: Held::new(start.workers),
        choices: RefCell::new(Choices::new(&settings, start.row.into())),
        tarpit: Tarpit::default(),
        recount: Recount::default(),
        upstreams: Upstreams::new(settings.table_size() + 2),
        closes: ServerCloses::default(),
        rebalancing: Rebalancing::default(),
        idlers: Idlers::new(start.id.0.into(), start.workers),
        io: Io::new(acceptor.pipes()),
        acceptor,
        log: start.log.map(LogWriter::new),
        connection_log,
        debug: Debug::new(&settings, start.debug, start.utc_offset),
        link: Link::new(channel.into_phase()),
        tls,
        server_tls,
        now: clock::now(),
        precise: clock::precise(),
        settings,
    };
    relay.prepare_limits();
    relay.adjust_idlers();
    relay.serve()
}

/// Reports why the start failed.
fn fail(channel: &Channel<FromStartingWorker, ToWorker>, reason: String) -> i32 {
    // If the supervisor cannot be told, the exit status still says that the start failed.
    let _ = channel.send(&FromStartingWorker::Failed { reason }, None);
    1
}

fn watch_own(
    poll: &Poll,
    channel: &Channel<FromStartingWorker, ToWorker>,
    freed: &OwnedFd,
) -> io::Result<()> {
    let registry = poll.registry();
    let both = Interest::READABLE | Interest::WRITABLE;
    registry.register(&mut SourceFd(&channel.as_fd().as_raw_fd()), CHANNEL, both)?;
    // Edge-triggered: each write wakes every worker once, and none has to read.
    registry.register(&mut SourceFd(&freed.as_raw_fd()), FREED, Interest::READABLE)
}

impl Relay<'_> {
    /// The event loop.
    fn serve(&mut self) -> i32 {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.acceptor.publish(self.connections.pool.open(), &self.worker_table);
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return 1,
            }
            self.read_clock();
            self.attempts.begin_turn();
            self.upstreams.next_turn();
            let mut listener = false;
            for (step, event) in events.iter().enumerate() {
                if let Some(status) = self.poll_control(step) {
                    return status;
                }
                match event.token() {
                    CHANNEL => {
                        if let Some(status) = self.read_messages() {
                            return status;
                        }
                    }
                    FREED => self.acceptor.on_freed(&self.poll, self.now),
                    VACANCY => self.acceptor.on_vacancy(),
                    LISTENER => listener = true,
                    _ => {
                        self.on_event(event);
                        self.bound_unfinished();
                    }
                }
            }
            self.on_newcomers();
            self.on_retries();
            self.close_ordered();
            self.rebalance();
            self.recount();
            if let Some(status) = self.on_ready() {
                return status;
            }
            // Last, so that connections that ended in this round make room first.
            match listener {
                true => self.accept(),
                false => self.acceptor.no_client(),
            }
            self.on_time();
            // Connection numbers that were freed in this round and not used since.
            self.use_vacancy();
            self.count_lines();
            self.count_connection_lines();
            let needs_daemon = self.debug.needs_daemon() || self.connection_log.needs_daemon();
            if needs_daemon && self.link.may_report(Rated::NoSyslog, self.now) {
                self.link.request_syslog();
            }
            self.link.schedule_counters(self.now);
            if self.acceptor.is_drained() && self.connections.pool.open() == 0 && self.is_over() {
                return 0;
            }
        }
    }

    /// Writes out the log and sends the last counters of a worker without connections. False: the
    /// channel is full. The worker goes on until the supervisor has read it.
    fn is_over(&mut self) -> bool {
        self.end_log();
        self.end_connection_log();
        self.link.lift_rates();
        self.link.report_pending(self.now);
        self.link.flush();
        if !self.link.has_told_all() {
            self.link.send_counters(self.now);
        }
        self.link.has_told_all()
    }

    /// Reads the supervisor's messages during a round that takes long. Some: leave with this exit
    /// status.
    fn poll_control(&mut self, step: usize) -> Option<i32> {
        if step % STEPS_PER_CHECK != STEPS_PER_CHECK - 1 {
            return None;
        }
        if clock::now() < self.now + LONG_ROUND {
            return None;
        }
        self.read_clock();
        self.read_messages()
    }

    fn read_clock(&mut self) {
        let moment = clock::Moment::read();
        (self.now, self.precise) = (moment.millis, moment.nanos);
    }

    /// How long the next wait may be.
    fn timeout(&self) -> Option<Duration> {
        let must_connect = self.attempts.has_some() || self.upstreams.has_due();
        let must_close = self.closes.has_some() || self.rebalancing.has_some();
        let must_count = self.recount.is_under_way();
        if must_connect
            || must_close
            || must_count
            || self.connections.has_ready()
            || self.acceptor.has_vacancy
        {
            return Some(Duration::ZERO);
        }
        let others = [
            // In one place, because each costs a step of each round.
            match self.upstreams.next_deadline(&self.connections.pool, self.connect_timeout()) {
                Some(at) => Some(self.waiting_due().map_or(at, |due| due.min(at))),
                None => self.waiting_due(),
            },
            self.connections.idle.next_deadline(&self.connections.pool),
            self.idlers.retry_at(),
            self.io.rechecks.due(),
            self.acceptor.resume_at(),
            self.link.counters_due(),
            self.log.as_ref().and_then(LogWriter::due),
            self.connection_log.due(),
            self.link.pending_due(),
        ];
        // Loops, because a chain of iterators costs 300 instructions in each round.
        let mut next = u64::MAX;
        for at in others.into_iter().flatten() {
            next = next.min(at);
        }
        for timer in Timer::ALL {
            if let Some(at) = self.connections.next_deadline(timer, self.time_limit(timer)) {
                next = next.min(at);
            }
        }
        let has_deadline = next < u64::MAX;
        has_deadline.then(|| Duration::from_millis(next.saturating_sub(clock::now())))
    }

    /// When something is due for the clients who are held, or for the tarpit.
    fn waiting_due(&self) -> Option<u64> {
        let held = self.held.due();
        match self.tarpit.due(&self.connections.pool, self.settings.per_client.tarpit) {
            Some(at) => Some(held.map_or(at, |due| due.min(at))),
            None => held,
        }
    }

    /// A target's row of the shared table.
    fn row(&self, target: Target) -> u32 {
        target.row(self.settings.table_size())
    }

    /// Milliseconds that a connect may take.
    fn connect_timeout(&self) -> u64 {
        u64::from(self.settings.connect_timeout) * 1000
    }

    /// Milliseconds of a time limit.
    fn time_limit(&self, timer: Timer) -> u64 {
        match timer {
            Timer::Preface => self.preface_timeout(),
            Timer::Connect => self.connect_timeout(),
            Timer::Linger => closing::LINGER,
            Timer::Http(Wait::Head) => xff::HEAD,
            Timer::Http(Wait::Protocol) => xff::PROTOCOL,
            Timer::Http(Wait::Answers) => xff::ANSWERS,
        }
    }

    /// Does everything that is due.
    fn on_time(&mut self) {
        for timer in Timer::ALL {
            let time = self.time_limit(timer);
            while let Some(slot) = self.connections.due(timer, time, self.now) {
                self.on_time_limit(slot, timer);
            }
        }
        let time = self.connect_timeout();
        while let Some(slot) = self.upstreams.overdue(&self.connections.pool, time, self.now) {
            self.waiting_ends(slot);
        }
        self.on_held();
        self.on_tarpit();
        while let Some(slot) = self.connections.idle.due(&self.connections.pool, self.now) {
            self.idle_ends(slot);
        }
        if self.idlers.retry_at().is_some_and(|at| at <= self.now) {
            self.open_idlers();
        }
        if self.io.rechecks.due().is_some_and(|at| at <= self.now) {
            self.io.rechecks.run(&mut self.connections, self.now);
        }
        if self.acceptor.resume_at().is_some_and(|at| at <= self.now) {
            self.pause_ends();
        }
        if self.log.as_ref().and_then(LogWriter::due).is_some_and(|due| due <= self.now) {
            self.flush_log();
        }
        if self.connection_log.due().is_some_and(|due| due <= self.now) {
            self.flush_connection_log();
        }
        if self.link.pending_due().is_some_and(|due| due <= self.now) {
            self.link.report_pending(self.now);
        }
        if self.link.counters_due().is_some_and(|due| due <= self.now) {
            self.io.unfinished.give_memory_back(self.connections.pool.open());
            self.link.send_counters(self.now);
        }
    }

    /// Handles a connection whose time limit is up.
    fn on_time_limit(&mut self, slot: u32, timer: Timer) {
        match timer {
            Timer::Preface => self.preface_timed_out(slot),
            Timer::Connect => self.connect_timed_out(slot),
            Timer::Linger => self.linger_ends(slot),
            Timer::Http(Wait::Head) => self.head_is_late(slot),
            Timer::Http(Wait::Protocol) => self.protocol_is_late(slot),
            Timer::Http(Wait::Answers) => self.answers_are_late(slot),
        }
    }

    /// Writes out the log and releases all entries of the table. The sockets close with the
    /// process.
    fn stop(&mut self) {
        self.flush_log();
        self.link.lift_rates();
        self.link.report_pending(self.now);
        for slot in 0..self.connections.pool.slots() {
            if self.connections[slot].state != ConnectionState::Free {
                self.note_end(slot, ConnectionEnd::Shutdown);
                self.cut(slot);
            }
        }
        self.end_connection_log();
        if self.acceptor.is_drained() && self.acceptor.has_vacancy {
            // Others go on, and wait for the numbers.
            self.acceptor.wake_one();
        }
        self.link.send_counters(self.now);
    }

    fn flush_log(&mut self) {
        let Some(log) = &mut self.log else { return };
        log.flush(self.now);
        if !log.has_lost() {
            return;
        }
        if !self.link.may_report(Rated::LogLost, self.now) {
            return log.remind(self.now + link::RATE);
        }
        if let Some((lines, errno)) = log.take_lost() {
            self.link.counters.log_lost += lines;
            self.link.report(Event::LogLost { lines, errno });
        }
    }
}
