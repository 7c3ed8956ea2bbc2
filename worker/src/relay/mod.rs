//! The relay worker: accepts clients, chooses a server for each, and moves bytes between them until
//! both are done.
//!
//! It has one thread and one event loop, and it never blocks. The folders follow the life of a
//! connection:
//!
//! - `accept`: the listener, `-x`, pauses, and `dummy`.
//! - `preface`: what comes before the choice of a server (TLS handshake, PROXY protocol header).
//! - `upstream`: choosing a server, connecting to it, failover, and `idlers`.
//! - `connection`: the state of connections, their events, timeouts and closing.
//! - `transfer`: moving bytes by copying or splice(2).
//! - `http`: the parsing for `-H`. `tls`: sessions, keys and certificates.
//!
//! `commands` carries out the supervisor's messages, and `explain` answers one of them. `link`,
//! `request_log` and `debug` are the outputs of the jailed process.

pub(crate) mod accept;
mod clock;
pub(crate) mod commands;
pub mod connection;
mod debug;
mod explain;
pub mod http;
pub(crate) mod link;
pub(crate) mod preface;
pub mod request_log;
#[cfg(test)]
mod tests;
pub mod tls;
pub(crate) mod transfer;
pub mod upstream;

use crate::relay::connection::closing;
use crate::relay::http::xff;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use pen_config::settings::Settings;
use pen_ipc::channel::{Channel, Sent};
use pen_ipc::message::{Event, FromStartingWorker, ToWorker};
use pen_ipc::start::WorkerStart;
use pen_ipc::stats::Counters;
use pen_table::{Table, WorkerTable};

use crate::relay::accept::Accepting;
use crate::relay::connection::idle_timeout::Idle;
use crate::relay::connection::timer_queue::{Queue, STEP};
use crate::relay::connection::{ConnectionId, ConnectionState, Pool};
use crate::relay::debug::Debug;
use crate::relay::http::xff::UntoldRefusals;
use crate::relay::link::{Rated, Supervisor};
use crate::relay::preface::handshake::UntoldHandshakes;
use crate::relay::preface::incomplete::Unfinished;
use crate::relay::preface::proxy_header::UntoldSenders;
use crate::relay::request_log::LogWriter;
use crate::relay::tls::TlsContext;
use crate::relay::transfer::pump::Tools;
use crate::relay::transfer::splice_recheck::SpliceRechecks;
use crate::relay::transfer::undelivered::Untaken;
use crate::relay::upstream::Upstreams;
use crate::relay::upstream::idlers::Idlers;

pub use crate::relay::tls::examine as examine_tls;

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
const BREATH: usize = 16;
const LONG_ROUND: u64 = 50;

/// A worker and its state.
struct Relay<'t> {
    poll: Poll,
    settings: Settings,
    /// The addresses of each target as the request log shows them, by table row and position.
    shown: Vec<Vec<String>>,
    worker_table: WorkerTable<'t>,
    freed: OwnedFd,
    vacancy: OwnedFd,
    accepting: Accepting,
    pool: Pool,
    /// Connections whose client must send something first.
    greeting: Queue<STEP>,
    /// Clients accepted in this round. Their servers are connected to in the next round.
    newcomers: Vec<ConnectionId>,
    /// Connections whose last attempt failed. The next target is tried in this turn or a later one.
    retries: VecDeque<ConnectionId>,
    /// Connections whose target is tried in the next turn.
    next_turn: Vec<ConnectionId>,
    /// What this turn has spent on selection and failed attempts (see `relay::upstream::failover`).
    effort: u32,
    /// This worker's state of each server.
    upstreams: Upstreams,
    /// Connections whose connect is under way.
    connecting: Queue<STEP>,
    /// Connections with one end closed.
    lingering: Queue<STEP>,
    /// Relaying connections with an unfinished head (`-H`).
    heads: Queue<STEP>,
    /// Relaying connections that may or may not be HTTP (`http mixed`).
    undecided: Queue<STEP>,
    /// Relaying connections with a refused request, which wait for the answers to earlier requests.
    refused: Queue<STEP>,
    /// Connections that are closed after a silence of `idle_timeout`.
    idle: Idle,
    idlers: Idlers,
    /// Ends that a short splice(2) is believed to have emptied.
    splice_rechecks: SpliceRechecks,
    /// The number of this worker, and the number of workers.
    crew: (u32, u32),
    /// Ends that have more to read although no event will report it, and a spare list for the next
    /// round.
    ready: Vec<ConnectionId>,
    next_ready: Vec<ConnectionId>,
    tools: Tools,
    /// Unfinished data of clients.
    unfinished: Unfinished,
    /// Data that was read and not yet delivered.
    untaken: Untaken,
    log: Option<LogWriter>,
    debug: Debug,
    supervisor: Supervisor,
    counters: Counters,
    /// The TLS configuration, if clients use TLS.
    tls: Option<TlsContext>,
    /// Failed handshakes that were not yet reported.
    untold_handshakes: Option<UntoldHandshakes>,
    /// Listed senders that were closed and not yet reported.
    untold_senders: Option<UntoldSenders>,
    /// Refused requests that were not yet reported.
    untold_refusals: Option<UntoldRefusals>,
    /// How many clients without a usable server were reported.
    unserved_told: u64,
    /// The number of open connections that the other workers see in the table.
    published: Option<u32>,
    /// Monotonic milliseconds, read once per round of events.
    now: u64,
}

/// Runs a relay worker until the supervisor tells it to stop or has gone. Returns the exit status.
pub fn run(start: WorkerStart, table: &Table) -> i32 {
    let (channel, freed, vacancy, listener) =
        (start.channel, start.freed, start.vacancy, start.listener);
    let poll = match Poll::new().and_then(|poll| watch_own(&poll, &channel, &freed).map(|()| poll))
    {
        Ok(poll) => poll,
        Err(error) => return fail(&channel, format!("cannot wait for events: {error}")),
    };
    let accepting = match Accepting::new(&poll, listener, &start.settings, start.descriptor_limit) {
        Ok(accepting) => accepting,
        Err(error) => return fail(&channel, format!("cannot watch the listener: {error}")),
    };
    let tls = match start.tls.map(TlsContext::new).transpose() {
        Ok(tls) => tls,
        Err(reason) => return fail(&channel, reason),
    };
    let pipes = accepting.pipes();
    match channel.send(&FromStartingWorker::Ready, None) {
        Ok(Sent::Queued) => {}
        Ok(Sent::Full) | Err(_) => return 1,
    }
    let mut relay = Relay {
        poll,
        shown: commands::shown(&start.settings),
        worker_table: table.worker_table(u32::from(start.id.0)),
        freed,
        vacancy,
        accepting,
        pool: Pool::default(),
        greeting: Queue::default(),
        newcomers: Vec::new(),
        retries: VecDeque::new(),
        next_turn: Vec::new(),
        effort: 0,
        upstreams: Upstreams::new(start.settings.table_size() + 2),
        connecting: Queue::default(),
        lingering: Queue::default(),
        heads: Queue::default(),
        undecided: Queue::default(),
        refused: Queue::default(),
        idle: Idle::new(start.settings.idle_timeout),
        idlers: Idlers::default(),
        splice_rechecks: SpliceRechecks::default(),
        crew: (u32::from(start.id.0), table.shape().workers),
        ready: Vec::new(),
        next_ready: Vec::new(),
        tools: Tools::new(pipes),
        unfinished: Unfinished::default(),
        untaken: Untaken::default(),
        log: start.log.map(LogWriter::new),
        debug: Debug::new(&start.settings, start.debug, start.utc_offset),
        supervisor: Supervisor::new(channel.into_phase()),
        counters: Counters::default(),
        tls,
        untold_handshakes: None,
        untold_refusals: None,
        untold_senders: None,
        unserved_told: 0,
        published: None,
        now: clock::now(),
        settings: start.settings,
    };
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
            self.publish();
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return 1,
            }
            self.now = clock::now();
            self.effort = 0;
            self.upstreams.next_turn();
            let mut listener = false;
            for (step, event) in events.iter().enumerate() {
                if let Some(status) = self.poll_control(step) {
                    return status;
                }
                match event.token() {
                    CHANNEL => {
                        if let Some(status) = self.hear() {
                            return status;
                        }
                    }
                    FREED => self.on_freed(),
                    VACANCY => self.on_vacancy(),
                    LISTENER => listener = true,
                    _ => {
                        self.on_event(event);
                        self.bound_unfinished();
                    }
                }
            }
            self.on_newcomers();
            self.on_retries();
            if let Some(status) = self.on_ready() {
                return status;
            }
            // Last, so that connections that ended in this round make room first.
            match listener {
                true => self.accept(),
                false => self.no_client(),
            }
            self.on_time();
            // Connection numbers that were freed in this round and not used since.
            self.fill_place();
            self.count_lines();
            if self.debug.misses_daemon() && self.supervisor.may_tell(Rated::NoSyslog, self.now) {
                self.supervisor.miss_daemon();
            }
            self.supervisor.note_counters(self.now, &self.counters);
        }
    }

    /// Reads the supervisor's messages during a round that takes long. Some: leave with this exit
    /// status.
    fn poll_control(&mut self, step: usize) -> Option<i32> {
        if step % BREATH != BREATH - 1 {
            return None;
        }
        let now = clock::now();
        if now < self.now + LONG_ROUND {
            return None;
        }
        self.now = now;
        self.hear()
    }

    /// How long the next wait may be.
    fn timeout(&self) -> Option<Duration> {
        let is_due = self.has_retries() || self.accepting.has_vacancy();
        if !self.ready.is_empty() || !self.newcomers.is_empty() || is_due {
            return Some(Duration::ZERO);
        }
        let deadlines = [
            self.greeting.next_deadline(&self.pool, self.greeting_timeout()),
            self.connecting.next_deadline(&self.pool, self.connect_timeout()),
            self.upstreams.next_deadline(&self.pool, self.connect_timeout()),
            self.lingering.next_deadline(&self.pool, closing::LINGER),
            self.heads.next_deadline(&self.pool, xff::HEAD),
            self.undecided.next_deadline(&self.pool, xff::PROTOCOL),
            self.refused.next_deadline(&self.pool, xff::ANSWERS),
            self.idle.next_deadline(&self.pool),
            self.idlers.retry_at(),
            self.splice_rechecks.due(),
            self.accepting.resume_at(),
            self.supervisor.counters_due(),
            self.log.as_ref().and_then(LogWriter::due),
            self.untold_due(),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(Duration::from_millis(next.saturating_sub(clock::now())))
    }

    /// Milliseconds that a connect may take.
    fn connect_timeout(&self) -> u64 {
        u64::from(self.settings.connect_timeout) * 1000
    }

    /// Does everything that is due.
    fn on_time(&mut self) {
        while let Some(slot) = self.greeting.due(&self.pool, self.greeting_timeout(), self.now) {
            self.greeting_ends(slot);
        }
        while let Some(slot) = self.connecting.due(&self.pool, self.connect_timeout(), self.now) {
            self.connect_timed_out(slot);
        }
        while let Some(slot) = self.upstreams.overdue(&self.pool, self.connect_timeout(), self.now)
        {
            self.waiting_ends(slot);
        }
        while let Some(slot) = self.lingering.due(&self.pool, closing::LINGER, self.now) {
            self.linger_ends(slot);
        }
        while let Some(slot) = self.heads.due(&self.pool, xff::HEAD, self.now) {
            self.head_is_late(slot);
        }
        while let Some(slot) = self.undecided.due(&self.pool, xff::PROTOCOL, self.now) {
            self.protocol_is_late(slot);
        }
        while let Some(slot) = self.refused.due(&self.pool, xff::ANSWERS, self.now) {
            self.answers_are_late(slot);
        }
        while let Some(slot) = self.idle.due(&self.pool, self.now) {
            self.idle_ends(slot);
        }
        if self.idlers.retry_at().is_some_and(|at| at <= self.now) {
            self.open_idlers();
        }
        if self.splice_rechecks.due().is_some_and(|at| at <= self.now) {
            self.recheck();
        }
        if self.accepting.resume_at().is_some_and(|at| at <= self.now) {
            self.pause_ends();
        }
        if self.log.as_ref().and_then(LogWriter::due).is_some_and(|due| due <= self.now) {
            self.flush_log();
        }
        if self.untold_due().is_some_and(|due| due <= self.now) {
            self.tell_untold();
        }
        if self.supervisor.counters_due().is_some_and(|due| due <= self.now) {
            self.give_memory_back();
            self.supervisor.send_counters(self.now, &self.counters);
        }
    }

    /// When pending reports of limited rate are due. Without it, the last reports of a flood would
    /// never be sent.
    fn untold_due(&self) -> Option<u64> {
        let handshakes = self.untold_handshakes.as_ref().map(|_| Rated::Handshake);
        let crowded = self.unfinished.is_untold().then_some(Rated::Crowded);
        let refusals = self.untold_refusals.as_ref().map(|_| Rated::Request);
        let unserved = (self.counters.unserved > self.unserved_told).then_some(Rated::Unserved);
        let senders = self.untold_senders.as_ref().map(|_| Rated::BadSender);
        let kinds = [handshakes, crowded, refusals, unserved, senders];
        kinds.into_iter().flatten().map(|kind| self.supervisor.may_tell_from(kind)).min()
    }

    /// Sends the pending reports whose time has come.
    fn tell_untold(&mut self) {
        self.tell_handshakes();
        self.tell_crowded();
        self.tell_refusals();
        self.tell_unserved();
        self.tell_senders();
    }

    /// Writes out the log and releases all entries of the table. The sockets close with the
    /// process.
    fn stop(&mut self) {
        self.flush_log();
        self.supervisor.lift_rates();
        self.tell_untold();
        for slot in 0..self.pool.slots() {
            if self.pool[slot].state != ConnectionState::Free {
                self.cut(slot);
            }
        }
        self.supervisor.send_counters(self.now, &self.counters);
    }

    fn flush_log(&mut self) {
        let Some(log) = &mut self.log else { return };
        log.flush(self.now);
        if !log.has_lost() {
            return;
        }
        if !self.supervisor.may_tell(Rated::LogLost, self.now) {
            return log.remind(self.now + link::RATE);
        }
        if let Some((lines, errno)) = log.take_lost() {
            self.counters.log_lost += lines;
            self.supervisor.tell(Event::LogLost { lines, errno }, &mut self.counters);
        }
    }
}
