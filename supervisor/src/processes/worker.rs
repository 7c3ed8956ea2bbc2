//! One worker as its supervisor sees it: a jailed process, what it last said of itself, and what it
//! is still to be told.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use pen_config::ids::WorkerId;
use pen_ipc::channel::Sent;
use pen_ipc::message::{Event, FromWorker, ReportPage, ToWorker};
use pen_ipc::start::RequestLog;
use pen_ipc::stats::Counters;

use crate::log::for_worker;
use crate::processes::liveness::Grace;
use crate::processes::peer::{Peer, PeerMessage, printable_lines};
use crate::processes::spawn::{SpawnContext, descriptor};

/// A worker that is not known to be dead.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) peer: Peer<ToWorker, FromWorker>,
    /// What it last reported.
    pub(crate) counters: Counters,
    due: Due,
    /// The generation of the settings that it works by, as far as it said.
    applied: u64,
    /// Listeners that it was sent and has not confirmed.
    listeners_owed: u32,
}

/// What waits to be sent. All but the connections to be closed is a state, of which only the last
/// counts; of those there are no more than connections: nothing here can grow without bound.
#[derive(Debug, Default)]
struct Due {
    settings: bool,
    listener: bool,
    log: bool,
    tls: bool,
    secret: bool,
    /// Sent if there is a daemon; if not, the worker asks again.
    syslog: bool,
    /// By number, and when it was ordered. A later order is meant for whoever had the number then:
    /// those before are gone.
    close: BTreeMap<u32, u64>,
    republish: bool,
    freed: bool,
    stop: bool,
}

/// What a worker said that concerns others.
#[derive(Debug)]
pub(crate) enum WorkerReport {
    /// It serves clients.
    Ready,
    /// Part of its report.
    Page(Box<ReportPage>),
    /// Something for the administrator.
    Event(Event),
    /// So many more events that it could not tell of.
    Dropped(u64),
    /// The answer to a request for an explanation.
    Explained {
        /// The request.
        serial: u32,
        /// The answer.
        text: String,
    },
}

impl Worker {
    /// Forks a worker.
    ///
    /// # Errors
    /// No process, no descriptor or no memory can be had now.
    pub(crate) fn spawn(
        id: WorkerId,
        grace: Grace,
        context: &SpawnContext,
        now: Instant,
    ) -> io::Result<Worker> {
        Ok(Worker {
            id,
            peer: Peer::spawn(
                context.jail.identity.uid,
                grace,
                |channel, supervisor| context.live(id, channel, supervisor),
                now,
            )?,
            counters: Counters::default(),
            due: Due::default(),
            applied: context.settings.generation,
            listeners_owed: 0,
        })
    }

    /// The channel, to be polled for reading, and for writing too if something waits to be sent.
    pub(crate) fn channel(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let Due { settings, listener, log, tls, secret, ref close, republish, freed, stop, .. } =
            self.due;
        let due = settings
            || listener
            || log
            || tls
            || secret
            || !close.is_empty()
            || republish
            || freed
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
                Some(PeerMessage::Message(message, _)) => reports.extend(self.hear(message)),
                Some(PeerMessage::Nothing) => {}
                None => return reports,
            }
        }
        // Its answer to a ping may be among what is still to be read.
        self.peer.watch.begin_anew();
        reports
    }

    /// Asks for a report; false if it cannot be asked now.
    pub(crate) fn ask_report(&self, serial: u32) -> bool {
        matches!(self.peer.send(&ToWorker::Report { serial }, None), Some(Sent::Queued))
    }

    /// Asks for a sign of life, and kills it if it has given none for too long.
    pub(crate) fn beat(&mut self) {
        self.peer.beat(|serial| ToWorker::Ping { serial });
    }

    /// Asks which server a client would get; false if it cannot be asked now.
    pub(crate) fn ask_explanation(&self, serial: u32, client: [u8; 16]) -> bool {
        matches!(self.peer.send(&ToWorker::Explain { serial, client }, None), Some(Sent::Queued))
    }

    /// Has the settings in force sent by [`Worker::send_due`].
    pub(crate) fn renew_settings(&mut self) {
        self.due.settings = true;
    }

    /// Has the listener sent by [`Worker::send_due`].
    pub(crate) fn renew_listener(&mut self) {
        self.due.listener = true;
    }

    /// Has the request log sent by [`Worker::send_due`].
    pub(crate) fn renew_log(&mut self) {
        self.due.log = true;
    }

    /// Has the files of TLS sent by [`Worker::send_due`], before any settings.
    pub(crate) fn renew_tls(&mut self) {
        self.due.tls = true;
    }

    /// Has the ticket secret sent by [`Worker::send_due`].
    pub(crate) fn renew_secret(&mut self) {
        self.due.secret = true;
    }

    /// Has the order to end a connection sent by [`Worker::send_due`], before any settings.
    /// `before` is when its owner was looked up ([`ToWorker::Close`]).
    pub(crate) fn order_close(&mut self, number: u32, before: u64) {
        self.due.close.insert(number, before);
    }

    /// Has the news that places are free again sent by [`Worker::send_due`].
    pub(crate) fn tell_freed(&mut self) {
        self.due.freed = true;
    }

    /// Has the order to say anew what it holds sent by [`Worker::send_due`].
    pub(crate) fn order_republish(&mut self) {
        self.due.republish = true;
    }

    /// Has the order to end sent by [`Worker::send_due`].
    pub(crate) fn order_stop(&mut self) {
        self.due.stop = true;
    }

    /// Whether it works by the settings of this generation, or will before it serves anybody else.
    pub(crate) fn has_applied(&self, generation: u64) -> bool {
        self.peer.channel().is_none() || self.applied >= generation
    }

    /// Whether it uses the last listener and no other.
    pub(crate) fn has_moved(&self) -> bool {
        self.peer.channel().is_none() || (self.listeners_owed == 0 && !self.due.listener)
    }

    /// Sends what waits to be sent, as far as the channel has room.
    pub(crate) fn send_due(&mut self, context: &SpawnContext) {
        // In this order: the acknowledgement of settings is one of what was sent before, too.
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
                    full(ToWorker::Log { network: is_network(log) }, Some(descriptor(log)))
                }
                None => full(ToWorker::NoLog, None),
            };
        }
        if let Some(keys) = &context.keys {
            due.secret = due.secret && full(ToWorker::TicketSecret, Some(keys.secrets.0.as_fd()));
            due.tls = due.tls && full(ToWorker::Tls, Some(keys.files.as_fd()));
        }
        if due.settings && due.close.is_empty() && !due.log && !due.tls {
            due.settings = full(ToWorker::Settings, Some(context.encoded.as_fd()));
        }
        if due.republish {
            due.republish = full(ToWorker::Republish, None);
        }
        if due.freed {
            due.freed = full(ToWorker::Freed, None);
        }
        if std::mem::take(&mut due.syslog)
            && !context.foreground
            && let Some(daemon) = for_worker()
        {
            // Without room the worker asks again.
            let _ = peer.send(&ToWorker::Syslog, Some(daemon.as_fd()));
        }
        if due.stop {
            due.stop = full(ToWorker::Stop, None);
        }
    }

    /// Sends the orders to end connections, as far as the channel has room.
    fn send_closes(&mut self) {
        let Worker { peer, due, .. } = self;
        while let Some((number, before)) =
            due.close.first_key_value().map(|(number, before)| (*number, *before))
            && peer.send(&ToWorker::Close { number, before }, None) != Some(Sent::Full)
        {
            due.close.remove(&number);
        }
    }

    fn hear(&mut self, message: FromWorker) -> Option<WorkerReport> {
        match message {
            FromWorker::Counters(counters) => {
                let dropped = counters.events_dropped.saturating_sub(self.counters.events_dropped);
                self.counters = counters;
                (dropped > 0).then_some(WorkerReport::Dropped(dropped))
            }
            FromWorker::Report(page) => {
                self.counters = page.counters;
                Some(WorkerReport::Page(Box::new(page)))
            }
            FromWorker::Event(event) => Some(WorkerReport::Event(event)),
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
                None
            }
            FromWorker::Pong { serial } => {
                self.peer.watch.answered(serial);
                None
            }
            FromWorker::Explained { serial, text } => {
                Some(WorkerReport::Explained { serial, text: printable_lines(&text) })
            }
        }
    }
}

fn is_network(log: &RequestLog) -> bool {
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

    #[test]
    fn no_order_to_close_is_lost_while_the_channel_is_full() {
        let (mut go, mut let_go) = io::pipe().unwrap();
        let (mut told, mut tell) = io::pipe().unwrap();
        let peer = Peer::spawn(
            Uid::current(),
            Grace::default(),
            |channel, _| {
                // Reads nothing before it is told to, and then as long as something comes.
                let _ = go.read(&mut [0]);
                loop {
                    match channel.receive() {
                        Ok(Received::Message(ToWorker::Close { number, before }, _)) => {
                            tell.write_all(&[number as u8, before as u8]).unwrap()
                        }
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
