//! The supervisor's messages: new settings, another listener, another log, the end of a connection,
//! a report, an explanation.
//!
//! No message is carried out in part. An invalid message cannot come from our supervisor: the
//! worker leaves, and its replacement starts with the settings in force.

use std::os::fd::OwnedFd;

use pen_config::ids::{ClientKey, ServerId, Target};
use pen_config::settings::{Server, Settings};
use pen_ipc::channel::Received;
use pen_ipc::memory;
use pen_ipc::message::{
    ConnectionLogKind, Event, FromWorker, LastingFromWorker, LastingToWorker, ToWorker,
};
use pen_ipc::start::{ConnectionLog, RequestLog};

use crate::relay::Relay;
use crate::relay::connection::idle_timeout::SilenceLimits;
use crate::relay::connection::{Connection, ConnectionState, ServerSince, Timer};
use crate::relay::log_writer::LogWriter;
use crate::relay::request_log::shown;
use crate::relay::upstream::closes::ServerClose;
use crate::tls::servers::ServersTls;

/// The supervisor's message is invalid.
struct InvalidMessage;

impl Relay<'_> {
    /// Carries out the supervisor's messages. Some: leave with this exit status.
    pub(in crate::relay) fn read_messages(&mut self) -> Option<i32> {
        self.link.flush();
        let status = loop {
            match self.link.receive() {
                Ok(Received::Message(ToWorker::Lasting(LastingToWorker::Stop), _)) => break 0,
                Ok(Received::Message(message, descriptor)) => {
                    if let Err(InvalidMessage) = self.carry_out(message, descriptor) {
                        break 1;
                    }
                }
                Ok(Received::Empty) => return None,
                // A worker does not run without a supervisor.
                Ok(Received::Closed) => break 0,
                Err(_) => break 1,
            }
        };
        self.stop();
        Some(status)
    }

    fn carry_out(
        &mut self,
        message: ToWorker,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), InvalidMessage> {
        match (message, descriptor) {
            (ToWorker::Lasting(message), descriptor) => {
                self.carry_out_lasting(message, descriptor)?;
            }
            (ToWorker::Begin, _) => self.begin_accepting(),
            (ToWorker::Report { serial }, _) => {
                self.count_lines();
                self.count_connection_lines();
                let connections = self.connections.pool.iter().map(Connection::info).collect();
                self.link.send_report(serial, connections);
            }
            (ToWorker::Settings, Some(memory)) => {
                let read = memory::settings_and_positions(memory);
                let (settings, positions) = read.ok_or(InvalidMessage)?;
                self.apply(settings, positions)?;
            }
            (ToWorker::Tls, Some(files)) => {
                let tls = self.tls.as_mut().ok_or(InvalidMessage)?;
                tls.replace(files).map_err(|_| InvalidMessage)?;
            }
            (ToWorker::ServerTls, Some(files)) => {
                let tls = ServersTls::new(files).map_err(|_| InvalidMessage)?;
                self.server_tls = Some(tls);
            }
            (ToWorker::NoServerTls, _) => self.server_tls = None,
            (ToWorker::TicketSecret, Some(secret)) => {
                let taken = self.tls.as_ref().is_some_and(|tls| tls.renew_secret(&secret));
                if !taken {
                    return Err(InvalidMessage);
                }
            }
            (ToWorker::Listen, Some(listener)) => {
                self.move_listener(listener).map_err(|_| InvalidMessage)?;
                self.link.answer(FromWorker::Listening);
            }
            (ToWorker::Explain { serial, client }, _) => {
                let text = self.explain(ClientKey::from_bytes(client));
                self.link.answer(FromWorker::Explained { serial, text });
            }
            (ToWorker::Syslog, Some(daemon)) => match self.connection_log.needs_daemon() {
                true => self.connection_log.connect(self.now, daemon),
                false => self.debug.connect(daemon),
            },
            (
                ToWorker::Settings
                | ToWorker::Listen
                | ToWorker::Tls
                | ToWorker::ServerTls
                | ToWorker::TicketSecret
                | ToWorker::Syslog,
                None,
            ) => return Err(InvalidMessage),
        }
        Ok(())
    }

    fn carry_out_lasting(
        &mut self,
        message: LastingToWorker,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), InvalidMessage> {
        match (message, descriptor) {
            (LastingToWorker::Drain, _) => self.drain(),
            (LastingToWorker::Log { network: false }, Some(file)) => {
                self.change_log(RequestLog::File(file))
            }
            (LastingToWorker::Log { network: true }, Some(socket)) => {
                self.change_log(RequestLog::Network(socket))
            }
            (LastingToWorker::NoLog, _) => self.end_log(),
            (LastingToWorker::ConnectionLog { to, format }, descriptor) => {
                let log = match (to, descriptor) {
                    (ConnectionLogKind::File, Some(file)) => ConnectionLog::File(file),
                    (ConnectionLogKind::Network, Some(socket)) => ConnectionLog::Network(socket),
                    (ConnectionLogKind::Syslog, socket) => ConnectionLog::Syslog(socket),
                    (ConnectionLogKind::File | ConnectionLogKind::Network, None) => {
                        return Err(InvalidMessage);
                    }
                };
                self.change_connection_log(log, format);
            }
            (LastingToWorker::NoConnectionLog, _) => self.end_connection_log(),
            (LastingToWorker::Close { number, before }, _) => self.close_numbered(number, before),
            (LastingToWorker::CloseServer { server, mark, before, why }, _) => {
                // A server that this release does not know has no connections here.
                if let Some(target) = Target::from_code(server) {
                    self.closes.add(ServerClose { target, mark, before, why });
                }
            }
            (LastingToWorker::Rebalance(order), _) => self.begin_rebalance(order),
            (LastingToWorker::Admit(admission), _) => {
                self.settings.admission = admission;
                self.admit(admission);
            }
            (LastingToWorker::LimitClients(limits), _) => {
                let per_client = limits.over(self.settings.per_client).ok_or(InvalidMessage)?;
                let old = self.settings.clone();
                self.settings.per_client = per_client;
                self.limits_replaced(&old);
            }
            (LastingToWorker::Freed, _) => self.acceptor.on_freed(&self.poll, self.now),
            (LastingToWorker::Republish, _) => self.republish(),
            (LastingToWorker::Ping { serial }, _) => {
                self.link.answer(LastingFromWorker::Pong { serial }.into());
            }
            (LastingToWorker::Log { .. }, None) | (LastingToWorker::Stop, _) => {
                return Err(InvalidMessage);
            }
        }
        Ok(())
    }

    /// A sibling has died: writes this worker's open connections to the table again, and looks for
    /// the client for which the kernel may have woken the sibling alone.
    fn republish(&mut self) {
        let size = self.settings.table_size();
        let open = self
            .connections
            .pool
            .iter()
            .map(|open| (open.number, open.target.map(|target| target.row(size))));
        let wanted = self.worker_table.republish(self.settings.connections_max, open);
        self.upstreams.shut_rows().for_each(|row| self.worker_table.set_pending(row, true));
        self.worker_table.set_open(self.acceptor.published);
        self.republish_limits();
        if wanted {
            self.acceptor.wake_workers();
        }
        self.acceptor.look_for_clients(&self.poll, self.now);
    }

    /// Applies new settings.
    fn apply(&mut self, settings: Settings, positions: Vec<u16>) -> Result<(), InvalidMessage> {
        if settings.table_size() != self.settings.table_size() {
            // The rows of the shared table would belong to other servers.
            return Err(InvalidMessage);
        }
        let old = std::mem::replace(&mut self.settings, settings);
        self.shown = shown(&self.settings);
        self.choices.get_mut().renew(&self.settings, positions);
        self.connection_log.set_addresses(&self.settings);
        self.debug.set(&self.settings);
        self.mark_outdated(&old);
        self.limits_replaced(&old);
        if old.admission != self.settings.admission {
            self.admit(self.settings.admission);
        }
        if old.buffers.client != self.settings.buffers.client {
            self.acceptor.set_buffers(self.settings.buffers.client);
        }
        self.connections.set_silence_limits(SilenceLimits::of(&self.settings), self.now);
        self.limits_changed();
        self.io.tools.set_most_pipes(self.acceptor.pipes());
        self.adjust_idlers();
        self.link.answer(FromWorker::Applied { generation: self.settings.generation });
        Ok(())
    }

    /// Marks the connections and the connects under way to servers whose address has changed.
    fn mark_outdated(&mut self, old: &Settings) {
        for slot in 0..self.connections.pool.slots() {
            let connection = &mut self.connections[slot];
            let is_connecting =
                matches!(connection.state, ConnectionState::Connecting | ConnectionState::Securing);
            let Some(target) = connection.target else { continue };
            if !is_connecting && connection.up.socket.is_none() {
                continue;
            }
            let was_outdated = connection.is_outdated();
            connection.since_then =
                connection.since_then.max(since(old.target(target), self.settings.target(target)));
            let begins = connection.is_outdated() && !was_outdated;
            if begins && connection.timer == Some(Timer::Connect) {
                self.upstreams.end(self.row(target));
            }
        }
        let regular = (0..self.settings.table_size()).map(|id| Target::Server(ServerId(id as u16)));
        for target in regular.chain([Target::Emergency, Target::Abuse]) {
            let row = self.row(target);
            let is_same =
                since(old.target(target), self.settings.target(target)) == ServerSince::Same;
            if !is_same {
                self.upstreams.replace(row);
            }
            if let Some(tls) = &mut self.server_tls {
                match is_same {
                    true => tls.keep_under(row, self.settings.tls_name(target).as_ref()),
                    false => tls.forget(row),
                }
            }
        }
        for row in self.upstreams.shut_rows().collect::<Vec<_>>() {
            self.reopen(row);
        }
        self.upstreams.all_due();
    }

    /// Changes the request log.
    fn change_log(&mut self, target: RequestLog) {
        match &mut self.log {
            Some(log) => log.reopen(self.now, target),
            None => self.log = Some(LogWriter::new(target)),
        }
        self.flush_log();
    }

    /// Ends the request log.
    pub(in crate::relay) fn end_log(&mut self) {
        let Some(mut log) = self.log.take() else { return };
        log.close(self.now);
        self.link.counters.log_lines += log.take_lines();
        if let Some((lines, errno)) = log.take_lost() {
            self.link.counters.log_lost += lines;
            self.link.report(Event::LogLost { lines, errno });
        }
    }

    /// Updates the counter of log lines.
    pub(in crate::relay) fn count_lines(&mut self) {
        self.link.counters.log_lines += self.log.as_mut().map_or(0, LogWriter::take_lines);
    }
}

/// What new settings make of a server.
fn since(old: Option<&Server>, new: Option<&Server>) -> ServerSince {
    match (old, new) {
        (None, None) => ServerSince::Same,
        (Some(old), Some(new)) if old.epoch != new.epoch => ServerSince::Replaced,
        (Some(old), Some(new)) if !old.addresses().eq(new.addresses()) => ServerSince::Rerouted,
        (Some(_), Some(_)) => ServerSince::Same,
        (Some(_), None) | (None, Some(_)) => ServerSince::Replaced,
    }
}
