//! One worker as the supervisor sees it: a jailed process, its last reports, and its queued
//! messages.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::unistd::Uid;
use pen_config::ids::WorkerId;
use pen_ipc::channel::Sent;
use pen_ipc::message::{
    Event, FromWorker, LastingCounters, LastingFromWorker, LastingToWorker, Rebalance, ReportPage,
    ToWorker,
};
use pen_ipc::start::RequestLog;
use pen_ipc::stats::Counters;

use crate::log::for_worker;
use crate::log::printable::printable_lines;
use crate::processes::closes::{Closes, ServerClose};
use crate::processes::peer::{AdoptedProcess, Peer, PeerMessage};
use crate::processes::spawn::{Birth, OpenConnectionLog, SpawnContext, descriptor};

/// A worker that is not known to be dead.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    /// Its row of the shared table.
    pub(crate) row: u32,
    pub(crate) peer: Peer<ToWorker, FromWorker>,
    /// The counters that it last reported.
    pub(crate) counters: Counters,
    due: Due,
    /// The generation of the settings that it last acknowledged.
    applied: u64,
    /// The number of listeners that it was sent and has not acknowledged.
    listeners_owed: u32,
}

/// Queued messages. Nearly all are a state, of which only the last counts. Only the orders to close
/// connections are lists, which have a bound. So nothing here grows without bound.
#[derive(Debug, Default)]
struct Due {
    settings: bool,
    listener: bool,
    log: bool,
    connection_log: bool,
    tls: bool,
    server_tls: bool,
    secret: bool,
    /// Sent if there is a syslog daemon; if not, the worker asks again.
    syslog: bool,
    close: Closes,
    republish: bool,
    freed: bool,
    begin: bool,
    stop: bool,
}

/// A message of a worker that other parts of the supervisor handle.
#[derive(Debug)]
pub(crate) enum WorkerReport {
    /// It serves clients.
    Ready,
    /// A page of its report.
    Page(Box<ReportPage>),
    /// An event for the log.
    Event(Event),
    /// The number of further events that it could not report.
    Dropped(u64),
    /// It has lines for the syslog daemon, and no connection to it.
    NoSyslog,
    /// The answer to an order to end silent connections.
    Rebalanced {
        /// The serial number of the order.
        serial: u32,
        /// How many connections were ended.
        closed: u32,
    },
    /// The answer to a request for an explanation.
    Explained {
        /// The serial number of the request.
        serial: u32,
        /// The answer.
        text: String,
    },
}

/// A worker that an earlier program forked.
#[derive(Debug)]
pub(crate) struct AdoptedWorker {
    pub(crate) process: AdoptedProcess,
    pub(crate) counters: Counters,
    /// The generation of the settings that it last acknowledged.
    pub(crate) applied: u64,
}

impl Worker {
    /// A worker that an earlier run of the same program forked.
    pub(crate) fn adopted(
        id: WorkerId,
        row: u32,
        worker: AdoptedWorker,
        user: Uid,
        now: Instant,
    ) -> Worker {
        let AdoptedWorker { process, counters, applied } = worker;
        let peer = Peer::adopted(process, user, now);
        Worker { id, row, peer, counters, due: Due::default(), applied, listeners_owed: 0 }
    }

    /// The generation of the settings that it last acknowledged.
    pub(crate) fn applied(&self) -> u64 {
        self.applied
    }

    /// Whether no message for it is queued.
    pub(crate) fn is_settled(&self) -> bool {
        self.channel().is_none_or(|(_, due)| !due)
    }

    /// Forks a worker.
    ///
    /// # Errors
    /// No process, descriptor or memory is available now.
    pub(crate) fn spawn(birth: Birth, context: &SpawnContext, now: Instant) -> io::Result<Worker> {
        context.table.use_row(birth.row);
        Ok(Worker {
            id: birth.id,
            row: birth.row,
            peer: Peer::spawn(
                context.jail.identity.uid,
                birth.grace,
                |channel, supervisor| context.run(birth, channel, supervisor),
                now,
            )?,
            counters: Counters::default(),
            due: Due::default(),
            applied: context.settings.generation,
            listeners_owed: 0,
        })
    }

    /// The channel to poll for reading, and whether to poll it for writing too.
    pub(crate) fn channel(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let Due { settings, listener, log, connection_log, tls, secret, .. } = self.due;
        let Due { ref close, republish, freed, begin, stop, .. } = self.due;
        let due = settings
            || listener
            || log
            || connection_log
            || tls
            || secret
            || !close.is_empty()
            || republish
            || freed
            || begin
            || stop;
        Some((self.peer.channel()?, due))
    }

    /// Reads at most `most` messages, so that one worker cannot keep the supervisor from the
    /// others.
    pub(crate) fn read(&mut self, most: usize, now: Instant) -> Vec<WorkerReport> {
        let mut reports = Vec::new();
        for _ in 0..most {
            match self.peer.read(now) {
                Some(PeerMessage::Ready) => reports.push(WorkerReport::Ready),
                Some(PeerMessage::Message(message, _)) => reports.extend(self.handle(message)),
                Some(PeerMessage::NoAction) => {}
                None => return reports,
            }
        }
        // Its answer to a ping may be among the unread messages.
        self.peer.watch.reset();
        reports
    }

    /// Asks for a report. Returns false if that is impossible now.
    pub(crate) fn ask_report(&self, serial: u32) -> bool {
        matches!(self.peer.send(&ToWorker::Report { serial }, None), Some(Sent::Queued))
    }

    /// Asks for a sign of life, and kills a worker that has given none for too long.
    pub(crate) fn beat(&mut self) {
        self.peer.beat(|serial| LastingToWorker::Ping { serial }.into());
    }

    /// Asks which server a client would get. Returns false if that is impossible now.
    pub(crate) fn ask_explanation(&self, serial: u32, client: [u8; 16]) -> bool {
        matches!(self.peer.send(&ToWorker::Explain { serial, client }, None), Some(Sent::Queued))
    }

    /// Queues the settings in force for [`Worker::send_due`].
    pub(crate) fn renew_settings(&mut self) {
        self.due.settings = true;
    }

    /// Queues the listener for [`Worker::send_due`].
    pub(crate) fn renew_listener(&mut self) {
        self.due.listener = true;
    }

    /// Queues the request log for [`Worker::send_due`].
    pub(crate) fn renew_log(&mut self) {
        self.due.log = true;
    }

    /// Queues the connection log for [`Worker::send_due`].
    pub(crate) fn renew_connection_log(&mut self) {
        self.due.connection_log = true;
    }

    /// Queues the files of TLS towards servers for [`Worker::send_due`], which sends them before
    /// any settings. If there are none any more, it says so after the settings.
    pub(crate) fn renew_server_tls(&mut self) {
        self.due.server_tls = true;
    }

    /// Queues the TLS files for [`Worker::send_due`], which sends them before any settings.
    pub(crate) fn renew_tls(&mut self) {
        self.due.tls = true;
    }

    /// Queues the ticket secret for [`Worker::send_due`].
    pub(crate) fn renew_secret(&mut self) {
        self.due.secret = true;
    }

    /// Queues the order to close a connection for [`Worker::send_due`], which sends it before any
    /// settings. `before` is the time when its owner was looked up ([`LastingToWorker::Close`]).
    pub(crate) fn order_close(&mut self, number: u32, before: u64) {
        self.due.close.number(number, before);
    }

    /// Queues the order to close the connections of a server for [`Worker::send_due`], which sends
    /// it before any settings.
    pub(crate) fn order_close_server(&mut self, order: ServerClose) {
        self.due.close.server(order);
    }

    /// Orders the end of silent connections. Returns false if that is impossible now.
    pub(crate) fn order_rebalance(&self, order: Rebalance) -> bool {
        let order = LastingToWorker::Rebalance(order).into();
        self.peer.is_ready() && self.peer.send(&order, None) == Some(Sent::Queued)
    }

    /// Queues the message that connection slots are free for [`Worker::send_due`].
    pub(crate) fn notify_freed(&mut self) {
        self.due.freed = true;
    }

    /// Queues the order to republish its table rows for [`Worker::send_due`].
    pub(crate) fn order_republish(&mut self) {
        self.due.republish = true;
    }

    /// Queues the order to accept clients for [`Worker::send_due`].
    pub(crate) fn order_begin(&mut self) {
        self.due.begin = true;
    }

    /// Queues the order to end for [`Worker::send_due`].
    pub(crate) fn order_stop(&mut self) {
        self.due.stop = true;
    }

    /// Whether it works by the settings of this generation, or will before it serves another
    /// client.
    pub(crate) fn has_applied(&self, generation: u64) -> bool {
        self.peer.channel().is_none() || self.applied >= generation
    }

    /// Whether it uses the newest listener only.
    pub(crate) fn has_moved(&self) -> bool {
        self.peer.channel().is_none() || (self.listeners_owed == 0 && !self.due.listener)
    }

    /// Sends queued messages, as far as the channel has room.
    pub(crate) fn send_due(&mut self, context: &SpawnContext) {
        // This order matters: the acknowledgement of settings also covers the messages sent before
        // them.
        self.send_closes();
        let Worker { peer, due, .. } = self;
        let full = |message, descriptor| peer.send(&message, descriptor) == Some(Sent::Full);
        if due.listener && !full(ToWorker::Listen, Some(context.listener.as_fd())) {
            due.listener = false;
            self.listeners_owed += 1;
        }
        if due.log {
            due.log = match &context.log {
                Some(log) => {
                    let message = LastingToWorker::Log { network: is_network(log) };
                    full(message.into(), Some(descriptor(log)))
                }
                None => full(LastingToWorker::NoLog.into(), None),
            };
        }
        due.connection_log = due.connection_log
            && OpenConnectionLog::send(
                context.connection_log.as_ref(),
                context.settings.connection_log_format,
                |message, descriptor| peer.send(&message.into(), descriptor) == Some(Sent::Full),
            );
        if let Some(keys) = &context.keys {
            due.secret = due.secret && full(ToWorker::TicketSecret, Some(keys.secrets.0.as_fd()));
            due.tls = due.tls && full(ToWorker::Tls, Some(keys.files.as_fd()));
        }
        let server_files = context.server_keys.as_ref().map(|keys| keys.files.as_fd());
        if let Some(files) = server_files {
            due.server_tls = due.server_tls && full(ToWorker::ServerTls, Some(files));
        }
        let lacks_files = due.tls || (due.server_tls && server_files.is_some());
        let is_told = due.close.is_empty() && !due.log && !due.connection_log && !lacks_files;
        if due.settings && is_told {
            due.settings = full(ToWorker::Settings, Some(context.encoded.as_fd()));
        }
        // After the settings: by those before, a server may speak TLS.
        if server_files.is_none() && !due.settings {
            due.server_tls = due.server_tls && full(ToWorker::NoServerTls, None);
        }
        if due.republish {
            due.republish = full(LastingToWorker::Republish.into(), None);
        }
        if due.freed {
            due.freed = full(LastingToWorker::Freed.into(), None);
        }
        if std::mem::take(&mut due.syslog)
            && (!context.foreground || context.logs_to_daemon())
            && let Some(daemon) = for_worker()
        {
            // If the channel has no room, the worker asks again.
            let _ = peer.send(&ToWorker::Syslog, Some(daemon.as_fd()));
        }
        if due.begin {
            due.begin = full(ToWorker::Begin, None);
        }
        if due.stop {
            due.stop = full(LastingToWorker::Stop.into(), None);
        }
    }

    /// Sends the orders to close connections, as far as the channel has room.
    fn send_closes(&mut self) {
        let Worker { peer, due, .. } = self;
        due.close.send(|order| peer.send(&order.into(), None) == Some(Sent::Full));
    }

    fn handle(&mut self, message: FromWorker) -> Option<WorkerReport> {
        match message {
            FromWorker::Lasting(message) => self.handle_lasting(message),
            FromWorker::Report(page) => {
                self.counters = *page.counters;
                Some(WorkerReport::Page(Box::new(page)))
            }
            FromWorker::Applied { generation } => {
                self.applied = generation;
                None
            }
            FromWorker::Listening => {
                self.listeners_owed = self.listeners_owed.saturating_sub(1);
                None
            }
            FromWorker::NoSyslog => {
                self.due.syslog = true;
                Some(WorkerReport::NoSyslog)
            }
            FromWorker::Explained { serial, text } => {
                Some(WorkerReport::Explained { serial, text: printable_lines(&text) })
            }
        }
    }

    fn handle_lasting(&mut self, message: LastingFromWorker) -> Option<WorkerReport> {
        match message {
            LastingFromWorker::Counters(counters) => {
                let LastingCounters(counters) = *counters;
                let dropped = counters.events_dropped.saturating_sub(self.counters.events_dropped);
                self.counters = counters;
                (dropped > 0).then_some(WorkerReport::Dropped(dropped))
            }
            LastingFromWorker::Event(event) => Some(WorkerReport::Event(event)),
            LastingFromWorker::Rebalanced { serial, closed } => {
                Some(WorkerReport::Rebalanced { serial, closed })
            }
            LastingFromWorker::Pong { serial } => {
                self.peer.watch.answered(serial);
                None
            }
        }
    }
}

/// Whether lines of a request log go to penlogd.
pub(crate) fn is_network(log: &RequestLog) -> bool {
    match log {
        RequestLog::File(_) => false,
        RequestLog::Network(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use nix::sys::wait::waitpid;
    use nix::unistd::Uid;
    use pen_ipc::channel::Received;

    use super::*;
    use crate::processes::liveness::Grace;

    #[test]
    fn no_order_to_close_is_lost_while_the_channel_is_full() {
        let (mut go, mut let_go) = io::pipe().unwrap();
        let (mut told, mut tell) = io::pipe().unwrap();
        let peer = Peer::spawn(
            Uid::current(),
            Grace::default(),
            |channel, _| {
                // Reads nothing until it is told to, and then everything that comes.
                let _ = go.read(&mut [0]);
                loop {
                    match channel.receive() {
                        Ok(Received::Message(
                            ToWorker::Lasting(LastingToWorker::Close { number, before }),
                            _,
                        )) => tell.write_all(&[number as u8, before as u8]).unwrap(),
                        Ok(Received::Message(_, _) | Received::Empty) => {}
                        Ok(Received::Closed) | Err(_) => return 0,
                    }
                }
            },
            Instant::now(),
        );
        let (peer, due) = (peer.unwrap(), Due::default());
        let mut worker = Worker {
            id: WorkerId(0),
            row: 0,
            peer,
            counters: Counters::default(),
            due,
            applied: 0,
            listeners_owed: 0,
        };
        while worker.ask_report(0) {}
        [(7, 1), (8, 2), (7, 3), (9, 4)]
            .into_iter()
            .for_each(|(number, before)| worker.order_close(number, before));
        worker.send_closes();
        assert!(worker.channel().is_some_and(|(_, due)| due), "all wait");
        let_go.write_all(b"!").unwrap();
        while !worker.due.close.is_empty() {
            worker.send_closes();
        }
        let mut orders = [0; 6];
        told.read_exact(&mut orders).unwrap();
        assert_eq!(orders, [7, 3, 8, 2, 9, 4]);
        worker.peer.kill();
        waitpid(worker.peer.pid(), None).unwrap();
    }
}
