//! The connection log: one line at the end of each connection.
//!
//! `line` and `dates` make it of what a connection remembers (`connection::timings`) and of why it
//! ended (`connection::end`). `relay::log_writer` writes it.
//!
//! While the log is off, nothing of it runs.

mod dates;
pub mod line;

use std::io::Write;
use std::net::SocketAddr;
use std::rc::Rc;

use pen_config::ids::{ClientKey, Target, WorkerId};
use pen_config::settings::{ConnectionLogFormat, Settings};
use pen_ipc::message::Event;
use pen_ipc::start::ConnectionLog;
use rustix::net::SocketAddrAny;

use crate::clock;
use crate::relay::connection::end::{ConnectionEnd, Step};
use crate::relay::connection::timings::{Bytes, Durations, Timings};
use crate::relay::connection::{Connection, ConnectionState};
use crate::relay::connection_log::line::{Open, Record};
use crate::relay::link::Rated;
use crate::relay::log_writer::LogWriter;
use crate::relay::log_writer::sink::Sink;
use crate::relay::{Relay, link};

pub use crate::relay::connection_log::dates::Dates;

/// What begins a syslog message: facility user, severity info (RFC 3164, 4.1.1).
const PRIORITY: &str = "<14>";

/// Writes the connection log of one worker, if it is on.
#[derive(Debug)]
pub struct ConnectionLogger {
    worker: WorkerId,
    /// What follows the date in a syslog message, without and with the name of this machine.
    tags: (String, String),
    dates: Dates,
    log: Option<OpenLog>,
}

/// A connection log that is on.
#[derive(Debug)]
struct OpenLog {
    writer: LogWriter,
    format: ConnectionLogFormat,
    /// The addresses of each target, by table row and position.
    addresses: Vec<Vec<Rc<str>>>,
}

impl ConnectionLogger {
    /// A worker's connection log, which is off. `host` is the name of this machine.
    pub fn new(worker: WorkerId, host: &str, utc_offset: fn(i64) -> i32) -> ConnectionLogger {
        let here = format!("pen[{}]: ", std::process::id());
        let tags = (here.clone(), format!("{host} {here}"));
        ConnectionLogger { worker, tags, dates: Dates::new(utc_offset), log: None }
    }

    /// Turns the log on.
    pub fn open(&mut self, target: ConnectionLog, settings: &Settings) {
        self.log = Some(OpenLog {
            writer: LogWriter::new(target),
            format: settings.connection_log_format,
            addresses: addresses(settings),
        });
    }

    /// Whether the log is on.
    pub fn is_on(&self) -> bool {
        self.log.is_some()
    }

    /// Takes the addresses of servers from new settings.
    pub fn set_addresses(&mut self, settings: &Settings) {
        if let Some(log) = &mut self.log {
            log.addresses = addresses(settings);
        }
    }

    /// When `Relay::flush_connection_log` must be called, in monotonic milliseconds.
    pub fn due(&self) -> Option<u64> {
        self.log.as_ref()?.writer.due()
    }

    /// Whether lines wait for a connection to the syslog daemon.
    pub fn needs_daemon(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.writer.needs_daemon())
    }

    /// Whether lines go to the syslog daemon of this machine.
    pub fn is_for_daemon(&self) -> bool {
        self.log.as_ref().is_some_and(|log| matches!(log.writer.sink(), Sink::Daemon(_)))
    }

    /// Takes a connection to the syslog daemon, if lines go there.
    pub fn connect(&mut self, now: u64, daemon: std::os::fd::OwnedFd) {
        if let Some(log) = &mut self.log {
            log.writer.connect(now, daemon);
        }
    }

    /// The address of a server at a position.
    fn address(&self, row: u32, position: u32) -> Option<Rc<str>> {
        let addresses = self.log.as_ref()?.addresses.get(row as usize)?;
        addresses.get(position as usize % addresses.len().max(1)).cloned()
    }

    /// Adds the line of a connection.
    fn add(&mut self, record: &Record<'_>, now: u64) {
        let ConnectionLogger { tags: (tag, host_tag), dates, log, .. } = self;
        let Some(OpenLog { writer, format, .. }) = log else { return };
        let (priority, tag) = match (writer.sink(), *format) {
            (Sink::Daemon(_), _) => (PRIORITY, Some(tag)),
            (Sink::Receiver(_) | Sink::Penlogd(_), _) => (PRIORITY, Some(host_tag)),
            // Tools for the log of haproxy expect what syslog puts before it.
            (Sink::File(_), ConnectionLogFormat::Haproxy | ConnectionLogFormat::HaproxyHttp) => {
                ("", Some(host_tag))
            }
            (Sink::File(_), ConnectionLogFormat::Text | ConnectionLogFormat::Json) => ("", None),
        };
        writer.line(now, |to| {
            if let Some(tag) = tag {
                // Writing to a Vec does not fail.
                let _ = write!(to, "{priority}{} {tag}", dates.syslog(clock::unix_time().0));
            }
            line::write(record, *format, dates, to);
        });
    }
}

/// The addresses of each target, by table row and position.
fn addresses(settings: &Settings) -> Vec<Vec<Rc<str>>> {
    let regular = settings.servers.iter();
    let all = regular.chain([&settings.emergency, &settings.abuse]);
    all.map(|server| {
        let server = server.as_ref();
        server.map_or(Vec::new(), |server| {
            (0..server.address_count()).map(|n| server.place_at(n).into()).collect()
        })
    })
    .collect()
}

impl Relay<'_> {
    /// Begins to remember what the line of a new client will say.
    pub(in crate::relay) fn begin_timings(&mut self, slot: u32) {
        if !self.connection_log.is_on() {
            return;
        }
        let (listen, connection) = (self.acceptor.listen.clone(), &mut self.connections[slot]);
        let timings =
            Timings::new(clock::unix_milliseconds(), connection.began / 1_000_000, listen);
        connection.timings = Some(Box::new(timings));
    }

    /// Notes that a connect to a connection's server begins.
    pub(in crate::relay) fn note_attempt(&mut self, slot: u32, target: Target) {
        let connection = &self.connections[slot];
        if connection.timings.is_none() {
            return;
        }
        let address = self.connection_log.address(self.row(target), connection.route.position());
        if let (Some(timings), Some(address)) = (&mut self.connections[slot].timings, address) {
            timings.attempt(target, address, self.now);
        }
    }

    /// Notes why a connection ends, unless a reason is known already. It may still linger.
    pub(in crate::relay) fn note_end(&mut self, slot: u32, end: ConnectionEnd) {
        if let Some(timings) = &mut self.connections[slot].timings {
            timings.ends(end);
        }
    }

    /// Adds the line of a connection that ends now.
    pub(in crate::relay) fn log_connection(&mut self, slot: u32) {
        let Some(timings) = self.connections[slot].timings.take() else { return };
        let connection = &self.connections[slot];
        let server = timings.server.as_ref();
        let open = self.open_connections(server.map(|(target, _)| *target), connection);
        let end = timings.end().unwrap_or(match connection.up.recv.is_over() {
            true => ConnectionEnd::Server,
            false => ConnectionEnd::Client,
        });
        let step = match connection.state {
            ConnectionState::Waiting { .. } | ConnectionState::Held(_) => Step::Queue,
            ConnectionState::Free
            | ConnectionState::Preface
            | ConnectionState::Connecting
            | ConnectionState::Securing
            | ConnectionState::Relaying
            | ConnectionState::Lingering
            | ConnectionState::Tarpit
            | ConnectionState::Dummy
            | ConnectionState::Idler => timings.step(),
        };
        let record = Record {
            start: timings.start,
            client: connection.key.unwrap_or(ClientKey::UNIX),
            client_port: connection.port,
            listen: &timings.listen,
            worker: self.connection_log.worker,
            server: server.map(|(target, address)| (*target, &**address)),
            attempts: timings.attempts,
            durations: timings.durations(self.now),
            bytes: timings.bytes,
            end,
            step,
            tls: connection.down.session.as_ref().and_then(|session| session.facts()),
            server_tls: connection.up.session.as_ref().and_then(|session| session.facts()),
            open,
        };
        self.connection_log.add(&record, self.now);
    }

    /// The numbers of open connections, if the form of a line has them.
    fn open_connections(&self, server: Option<Target>, connection: &Connection) -> Open {
        match self.connection_log.log.as_ref().map(|log| log.format) {
            Some(ConnectionLogFormat::Haproxy | ConnectionLogFormat::HaproxyHttp) => Open {
                all: self.worker_table.connections_open(),
                of_server: server.map_or(0, |target| {
                    // Lingering has released it already.
                    let released = u32::from(connection.target.is_none());
                    self.worker_table.connections(self.row(target)) + released
                }),
            },
            Some(ConnectionLogFormat::Text | ConnectionLogFormat::Json) | None => Open::default(),
        }
    }

    /// Adds the line of a client for which there was no connection number.
    pub(in crate::relay) fn log_beyond_limit(&mut self, peer: Option<SocketAddrAny>) {
        if !self.connection_log.is_on() {
            return;
        }
        let address = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        let record = Record {
            start: clock::unix_milliseconds(),
            client: address.map_or(ClientKey::UNIX, ClientKey::from_peer),
            client_port: address.map_or(0, |address| address.port()),
            listen: &self.acceptor.listen.clone(),
            worker: self.connection_log.worker,
            server: None,
            attempts: 0,
            durations: Durations::default(),
            bytes: Some(Bytes::default()),
            end: ConnectionEnd::RefusedLimit,
            step: Step::Preface,
            tls: None,
            server_tls: None,
            open: Open::default(),
        };
        self.connection_log.add(&record, self.now);
    }

    /// Opens the connection log, or replaces it between two lines.
    pub(in crate::relay) fn change_connection_log(
        &mut self,
        target: ConnectionLog,
        format: ConnectionLogFormat,
    ) {
        match &mut self.connection_log.log {
            Some(log) => log.writer.reopen(self.now, target),
            None => {
                self.connection_log.open(target, &self.settings);
                self.remember_open_connections();
            }
        }
        if let Some(log) = &mut self.connection_log.log {
            log.format = format;
        }
        self.flush_connection_log();
    }

    /// Connections that were open before the log was on get a line too, with what is known of them.
    fn remember_open_connections(&mut self) {
        let (unix, now) = (clock::unix_milliseconds(), self.now);
        for slot in 0..self.connections.pool.slots() {
            let Connection { state, key, target, route, began, .. } = &self.connections[slot];
            if *state == ConnectionState::Free || key.is_none() {
                continue;
            }
            let accepted = began / 1_000_000;
            let start = unix.saturating_sub(now.saturating_sub(accepted));
            let mut timings = Timings::late(start, accepted, self.acceptor.listen.clone());
            timings.server = target.and_then(|target| {
                let row = target.row(self.settings.table_size());
                Some((target, self.connection_log.address(row, route.position())?))
            });
            self.connections[slot].timings = Some(Box::new(timings));
        }
    }

    /// Ends the connection log.
    pub(in crate::relay) fn end_connection_log(&mut self) {
        let Some(mut log) = self.connection_log.log.take() else { return };
        log.writer.close(self.now);
        self.link.counters.connection_log_lines += log.writer.take_lines();
        if let Some((lines, errno)) = log.writer.take_lost() {
            self.link.counters.connection_log_lost += lines;
            self.link.report(Event::ConnectionLogLost { lines, errno });
        }
        for slot in 0..self.connections.pool.slots() {
            self.connections[slot].timings = None;
        }
    }

    /// Updates the counter of lines.
    pub(in crate::relay) fn count_connection_lines(&mut self) {
        if let Some(log) = &mut self.connection_log.log {
            self.link.counters.connection_log_lines += log.writer.take_lines();
        }
    }

    /// Writes the lines that wait, and reports those that were lost.
    pub(in crate::relay) fn flush_connection_log(&mut self) {
        let Some(OpenLog { writer, .. }) = &mut self.connection_log.log else { return };
        writer.flush(self.now);
        if !writer.has_lost() {
            return;
        }
        if !self.link.may_report(Rated::ConnectionLogLost, self.now) {
            return writer.remind(self.now + link::RATE);
        }
        if let Some((lines, errno)) = writer.take_lost() {
            self.link.counters.connection_log_lost += lines;
            self.link.report(Event::ConnectionLogLost { lines, errno });
        }
    }
}
