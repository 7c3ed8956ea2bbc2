//! The relay worker: accepts clients, finds each a server, and moves bytes between them until both are done.
//!
//! One thread, one event loop, nothing that waits. Each room holds one step of a connection's life:
//! `accept` (listener, `-x`, pauses), `balance` (which server, pure), `connect` (attempts and failover), `pump` (bytes),
//! `ending` (how connections close); `supervisor`, `request_log` and `debug` are the ways out of the jail.

mod accept;
mod balance;
mod clock;
mod connect;
mod connection;
mod debug;
mod ending;
mod pump;
mod queue;
mod request_log;
mod supervisor;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use pen_contract::channel::{Received, Sent};
use pen_contract::ids::{NO_SERVER, Target};
use pen_contract::message::{Event, FromStartingWorker, ToWorker};
use pen_contract::settings::Settings;
use pen_contract::start::WorkerStart;
use pen_contract::stats::{ConnectionInfo, Counters};
use pen_table::{Seat, Table};

use accept::Accepting;
use connection::{Connection, Name, Pool, Side, State};
use debug::Debug;
use pump::{Manner, Tools};
use queue::Queue;
use request_log::LogWriter;
use supervisor::{Rated, Supervisor};

/// The channel to the supervisor has something, or takes something again.
const CHANNEL: Token = Token(usize::MAX);
/// A connection was freed somewhere, or another worker leaves clients to this one.
const FREED: Token = Token(usize::MAX - 1);
/// A client waits to be accepted.
const LISTENER: Token = Token(usize::MAX - 2);

/// Events taken from the kernel at a time.
const EVENTS: usize = 512;

/// A worker and all that it owns.
struct Relay<'t> {
    poll: Poll,
    settings: Settings,
    /// The address of each target as the request log shows it, by table row.
    shown: Vec<String>,
    seat: Seat<'t>,
    freed: OwnedFd,
    accepting: Accepting,
    pool: Pool,
    /// Connections whose connect is under way.
    connecting: Queue,
    /// Connections of which one end is gone.
    lingering: Queue,
    /// Ends that have more to read although no event will say so.
    ready: Vec<Name>,
    tools: Tools,
    log: Option<LogWriter>,
    debug: Debug,
    supervisor: Supervisor,
    counters: Counters,
    /// Monotonic milliseconds, read once per round of events.
    now: u64,
}

/// Runs a relay worker until the supervisor tells it to stop or is gone. Returns the exit status.
pub fn run(start: WorkerStart, table: &Table) -> i32 {
    let (channel, freed, listener) = (start.channel, start.freed, start.listener);
    let poll = match Poll::new().and_then(|poll| watch_own(&poll, &channel, &freed).map(|()| poll)) {
        Ok(poll) => poll,
        Err(error) => return fail(&channel, format!("cannot wait for events: {error}")),
    };
    let accepting = match Accepting::new(&poll, listener, &start.settings, start.descriptor_limit) {
        Ok(accepting) => accepting,
        Err(error) => return fail(&channel, format!("cannot watch the listener: {error}")),
    };
    let pipes = accepting.pipes(start.descriptor_limit);
    match channel.send(&FromStartingWorker::Ready, None) {
        Ok(Sent::Queued) => {}
        Ok(Sent::Full) | Err(_) => return 1,
    }
    let mut relay = Relay {
        poll,
        shown: shown(&start.settings),
        seat: table.seat(u32::from(start.id.0)),
        freed,
        accepting,
        pool: Pool::default(),
        connecting: Queue::default(),
        lingering: Queue::default(),
        ready: Vec::new(),
        tools: Tools::new(pipes),
        log: start.log.map(LogWriter::new),
        debug: Debug::new(&start.settings, start.debug, start.utc_offset),
        supervisor: Supervisor::new(channel.into_phase()),
        counters: Counters::default(),
        now: clock::now(),
        settings: start.settings,
    };
    relay.serve()
}

/// Reports why the start failed.
fn fail(channel: &pen_contract::channel::Channel<FromStartingWorker, ToWorker>, reason: String) -> i32 {
    // If the supervisor cannot be told, the exit status still says that the start failed.
    let _ = channel.send(&FromStartingWorker::Failed { reason }, None);
    1
}

fn watch_own(
    poll: &Poll,
    channel: &pen_contract::channel::Channel<FromStartingWorker, ToWorker>,
    freed: &OwnedFd,
) -> io::Result<()> {
    let registry = poll.registry();
    let both = Interest::READABLE | Interest::WRITABLE;
    registry.register(&mut SourceFd(&channel.as_fd().as_raw_fd()), CHANNEL, both)?;
    // Edge-triggered: each write wakes every worker once, and nobody has to read.
    registry.register(&mut SourceFd(&freed.as_raw_fd()), FREED, Interest::READABLE)
}

fn shown(settings: &Settings) -> Vec<String> {
    let regular = settings.servers.iter();
    regular
        .chain([&settings.emergency, &settings.abuse])
        .map(|server| server.as_ref().map_or(String::new(), |server| server.address.host().to_string()))
        .collect()
}

impl Relay<'_> {
    /// The event loop.
    fn serve(&mut self) -> i32 {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return 1,
            }
            self.now = clock::now();
            let mut listener = false;
            for event in &events {
                match event.token() {
                    CHANNEL => {
                        if let Some(status) = self.hear() {
                            return status;
                        }
                    }
                    FREED => listener |= self.on_freed(),
                    LISTENER => listener = true,
                    _ => self.on_event(event),
                }
            }
            self.on_ready();
            // Last, so that connections which ended in this round make room first.
            if listener {
                self.accept();
            }
            self.on_time();
            self.counters.log_lines = self.log.as_ref().map_or(0, LogWriter::lines);
            self.supervisor.note_counters(self.now, &self.counters);
        }
    }

    /// How long the next wait may be.
    fn timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() {
            return Some(Duration::ZERO);
        }
        let deadlines = [
            self.connecting.next_deadline(&self.pool),
            self.lingering.next_deadline(&self.pool),
            self.accepting.resume_at(),
            self.supervisor.counters_due(),
            self.log.as_ref().and_then(LogWriter::due),
        ];
        let next = deadlines.into_iter().flatten().min()?;
        Some(Duration::from_millis(next.saturating_sub(clock::now())))
    }

    /// All that is due.
    fn on_time(&mut self) {
        while let Some(place) = self.connecting.due(&self.pool, self.now) {
            self.connect_timed_out(place);
        }
        while let Some(place) = self.lingering.due(&self.pool, self.now) {
            self.linger_ends(place);
        }
        if self.accepting.resume_at().is_some_and(|at| at <= self.now) {
            self.resume_accepting();
        }
        if self.log.as_ref().and_then(LogWriter::due).is_some_and(|due| due <= self.now) {
            self.flush_log();
        }
        if self.supervisor.counters_due().is_some_and(|due| due <= self.now) {
            self.supervisor.send_counters(self.now, &self.counters);
        }
    }

    /// What the supervisor said. Some: leave with this status.
    fn hear(&mut self) -> Option<i32> {
        self.supervisor.speak();
        loop {
            match self.supervisor.hear() {
                Ok(Received::Message(ToWorker::Report { serial }, _)) => {
                    self.supervisor.report(serial, self.counters, self.open_connections());
                }
                Ok(Received::Message(ToWorker::Log, Some(file))) => {
                    if let Some(log) = &mut self.log {
                        log.reopen(self.now, file);
                    }
                    self.flush_log();
                }
                Ok(Received::Message(ToWorker::Stop, _)) => {
                    self.stop();
                    return Some(0);
                }
                Ok(Received::Empty) => return None,
                // A supervisor that is gone, or that says what is no message: without it there is no service.
                Ok(Received::Closed) => {
                    self.stop();
                    return Some(0);
                }
                Ok(Received::Message(ToWorker::Log, None)) | Err(_) => {
                    self.stop();
                    return Some(1);
                }
            }
        }
    }

    /// Writes out the log and gives all places back; the sockets close with the process.
    fn stop(&mut self) {
        self.flush_log();
        for place in 0..self.pool.places() {
            if self.pool[place].state != State::Free {
                self.finish(place);
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
            return log.remind(self.now + supervisor::RATE);
        }
        if let Some((lines, errno)) = log.take_lost() {
            self.counters.log_lost += lines;
            self.supervisor.tell(Event::LogLost { lines, errno }, &mut self.counters);
        }
    }

    /// Something happened on a connection's socket.
    fn on_event(&mut self, event: &mio::event::Event) {
        let name = Name::of(event.token());
        let Some(connection) = self.pool.named(name) else { return };
        let state = connection.state;
        let end = connection.end(name.side);
        let readable = event.is_readable() || event.is_read_closed() || event.is_error();
        let writable = event.is_writable() || event.is_error();
        end.readable |= readable;
        // After an error a short read is not the end: the next one says what happened.
        end.careful |= event.is_priority() || event.is_error();
        end.hung_up |= event.is_read_closed() && !event.is_error();
        match (state, name.side) {
            (State::Connecting, Side::Up) => self.connect_progress(name.place, event),
            (State::Connecting, Side::Down) => {
                if event.is_error() {
                    self.finish(name.place);
                }
            }
            (State::Relaying, side) => {
                if readable {
                    self.relay(name.place, side);
                }
                if writable && self.wants_to_send(name, side) {
                    self.relay(name.place, side.other());
                }
            }
            (State::Lingering, _) => self.linger(name.place),
            (State::Free, _) => {}
        }
    }

    /// Whether a relaying connection has something for an end that takes bytes again.
    fn wants_to_send(&mut self, name: Name, side: Side) -> bool {
        self.pool.named(name).is_some_and(|connection| {
            if connection.state != State::Relaying {
                return false;
            }
            let (to, from) = connection.ends(side);
            to.held.is_some() || from.readable || (from.ended && !to.shut)
        })
    }

    /// Those whose turn came to an end before they were done.
    fn on_ready(&mut self) {
        for name in std::mem::take(&mut self.ready) {
            let Some(connection) = self.pool.named(name) else { continue };
            connection.end(name.side).queued = false;
            match connection.state {
                State::Relaying => self.relay(name.place, name.side),
                State::Lingering => self.linger(name.place),
                State::Connecting | State::Free => {}
            }
        }
    }

    /// Gives an end another turn in the next round.
    fn come_back(&mut self, place: u32, side: Side) {
        let connection = &mut self.pool[place];
        let name = Name { place, generation: connection.generation, side };
        let end = connection.end(side);
        if !std::mem::replace(&mut end.queued, true) {
            self.ready.push(name);
        }
    }

    /// Moves what one end has sent to the other, counts it, and closes what is done.
    fn relay(&mut self, place: u32, from: Side) {
        let connection = &mut self.pool[place];
        let moved =
            move_bytes(connection, from, &mut self.tools, &mut self.log, &mut self.debug, &self.shown, self.now);
        if moved.bytes > 0 {
            self.count(place, from, moved.bytes);
        }
        if moved.more {
            self.come_back(place, from);
        }
        self.settle(place);
    }

    /// Adds relayed bytes to the figures of the client and of the server.
    fn count(&mut self, place: u32, from: Side, bytes: u64) {
        let connection = &self.pool[place];
        let (up, down) = match from {
            Side::Down => (bytes, 0),
            Side::Up => (0, bytes),
        };
        if let Some(target) = connection.target {
            self.seat.add_server_bytes(target.row(self.settings.table_size()), up, down);
        }
        if let Some(client) = connection.client {
            self.seat.add_client_bytes(client, down, up);
        }
    }

    /// The open connections, for a report.
    fn open_connections(&self) -> Vec<ConnectionInfo> {
        let places = 0..self.pool.places();
        places.map(|place| &self.pool[place]).filter(|connection| connection.state != State::Free).map(info).collect()
    }
}

/// Pumps one direction, with whoever has to see the bytes.
fn move_bytes(
    connection: &mut Connection,
    from: Side,
    tools: &mut Tools,
    log: &mut Option<LogWriter>,
    debug: &mut Debug,
    shown: &[String],
    now: u64,
) -> pump::Moved {
    let dumps = debug.dumps();
    let logs = log.is_some() && from == Side::Down && connection.line_due;
    let (key, target) = (connection.key, connection.target);
    let mut line_due = connection.line_due;
    let mut watch = |bytes: &[u8]| {
        if let (true, true, Some(log), Some(key)) = (logs, line_due, &mut *log, key) {
            line_due = false;
            let server = target.and_then(|target| shown.get(target.row(shown.len() as u32 - 2) as usize));
            log.line(now, clock::unix_time().0, key, server.map_or("", String::as_str), bytes);
        }
        if dumps {
            debug.dump(bytes);
        }
    };
    let watch: Option<pump::Watch<'_>> = if logs || dumps { Some(&mut watch) } else { None };
    let (source, sink) = connection.ends(from);
    let moved = pump::pump(source, sink, tools, Manner { may_splice: true, watch });
    connection.line_due = line_due || (from == Side::Up && moved.bytes > 0);
    moved
}

fn info(connection: &Connection) -> ConnectionInfo {
    let descriptor = |socket: &Option<OwnedFd>| socket.as_ref().map_or(-1, |socket| socket.as_raw_fd());
    let pending = |end: &connection::End| end.held.as_ref().map_or(0, |held| held.len() as u32);
    let state = match connection.state {
        State::Free => 0,
        State::Connecting => 1,
        State::Relaying | State::Lingering => 2,
    };
    ConnectionInfo {
        number: connection.number,
        state: state + 4 * u8::from(connection.up.ended) + 8 * u8::from(connection.down.ended),
        downfd: descriptor(&connection.down.socket),
        upfd: descriptor(&connection.up.socket),
        pending_down: pending(&connection.down),
        pending_up: pending(&connection.up),
        client: connection.client.map_or(-1, |client| client.slot as i32),
        server: connection.target.map_or(NO_SERVER, Target::code),
    }
}
