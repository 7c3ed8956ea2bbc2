//! One worker of an earlier program: what is queued for it, what it says, and how it ends.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use pen_config::checks::Admission;
use pen_config::ids::WorkerId;
use pen_ipc::channel::Sent;
use pen_ipc::message::{
    ClientLimits, FromOldWorker, LastingFromWorker, LastingToWorker, ToOldWorker,
};
use pen_ipc::stats::Counters;
use pen_table::Table;

use crate::log::printable::printable;
use crate::processes::closes::Closes;
use crate::processes::ending::Ending;
use crate::processes::old_tables::TableRow;
use crate::processes::peer::{AdoptedProcess, Peer, PeerMessage};
use crate::processes::spawn::{OpenConnectionLog, SpawnContext, descriptor};
use crate::processes::worker::{WorkerReport, is_network};

/// Where an old worker comes from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// Its number when it took clients.
    pub(crate) id: WorkerId,
    /// Its row of its table.
    pub(crate) row: TableRow,
    /// The version of its program.
    pub(crate) version: String,
    /// The version of the lasting messages that it knows. All messages below are in version 1,
    /// those about the connection log, servers, `rebalance` and limits per client apart.
    pub(crate) lasting: u16,
    /// The number of its program among those that had this process.
    pub(crate) generation: u32,
    /// Since when it takes no clients.
    pub(crate) since: Instant,
}

/// A worker of an earlier program.
#[derive(Debug)]
pub(crate) struct OldWorker {
    pub(crate) origin: Origin,
    pub(crate) peer: Peer<ToOldWorker, FromOldWorker>,
    /// The counters that it last reported.
    pub(crate) counters: Counters,
    pub(in crate::processes) due: Due,
}

/// An old worker when it is taken over. Its drop has no effect.
#[derive(Debug)]
pub(crate) struct AdoptedOldWorker {
    pub(crate) origin: Origin,
    pub(crate) process: AdoptedProcess,
    pub(crate) counters: Counters,
}

/// Queued messages. All but the orders to close connections are a state, of which only the last
/// counts.
#[derive(Debug, Default)]
pub(in crate::processes) struct Due {
    pub(in crate::processes) drain: bool,
    pub(in crate::processes) log: bool,
    pub(in crate::processes) connection_log: bool,
    pub(in crate::processes) close: Closes,
    /// Whether clients that wait are served.
    pub(in crate::processes) admit: Option<Admission>,
    /// The limits per client.
    pub(in crate::processes) limits: Option<ClientLimits>,
    pub(in crate::processes) republish: bool,
    pub(in crate::processes) freed: bool,
    end: EndOrder,
}

/// The order to end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum EndOrder {
    /// It serves until its last connection is over.
    #[default]
    None,
    /// It is to end, and its channel has had no room for the order.
    Due,
    /// It has the order.
    Sent,
}

impl Due {
    pub(in crate::processes) fn order_end(&mut self) {
        if self.end == EndOrder::None {
            self.end = EndOrder::Due;
        }
    }
}

impl OldWorker {
    /// Its open connections: exactly, if it uses the table in use.
    pub(in crate::processes) fn connections(&self, table: &Table) -> u64 {
        match self.origin.row.table {
            None => table.connections_of(self.origin.row.row).into(),
            Some(_) => self.counters.open(),
        }
    }

    /// The channel to poll for reading, and whether to poll it for writing too.
    pub(crate) fn channel(&self) -> Option<(BorrowedFd<'_>, bool)> {
        let Due { drain, log, connection_log, ref close, admit, limits, republish, freed, end } =
            self.due;
        let due = drain
            || log
            || connection_log
            || !close.is_empty()
            || admit.is_some()
            || limits.is_some()
            || republish
            || freed
            || end == EndOrder::Due;
        Some((self.peer.channel()?, due))
    }

    /// Whether nobody ordered it to end, and it does not end by itself.
    pub(in crate::processes) fn is_staying(&self) -> bool {
        self.due.end == EndOrder::None && self.peer.channel().is_some()
    }

    /// Reads at most so many messages. Of those of a worker, it sends events and answers to orders.
    pub(in crate::processes) fn read(&mut self, most: usize, now: Instant) -> Vec<WorkerReport> {
        let mut reports = Vec::new();
        for _ in 0..most {
            match self.peer.read(now) {
                Some(PeerMessage::Message(FromOldWorker::Lasting(message), _)) => {
                    reports.extend(self.handle(*message));
                }
                Some(
                    PeerMessage::Message(FromOldWorker::Unknown, _)
                    | PeerMessage::Ready
                    | PeerMessage::NoAction,
                ) => {}
                None => return reports,
            }
        }
        // Its answer to a ping may be among the unread messages.
        self.peer.watch.reset();
        reports
    }

    fn handle(&mut self, message: LastingFromWorker) -> Option<WorkerReport> {
        match message {
            LastingFromWorker::Counters(counters) => {
                self.counters = counters.0;
                None
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

    pub(in crate::processes) fn send_due(&mut self, context: &SpawnContext) {
        let OldWorker { peer, due, .. } = self;
        let full = |message, descriptor: Option<BorrowedFd<'_>>| {
            peer.send(&ToOldWorker::Lasting(message), descriptor) == Some(Sent::Full)
        };
        due.drain = due.drain && full(LastingToWorker::Drain, None);
        due.close.send(|order| full(order, None));
        due.admit = due.admit.filter(|admission| full(LastingToWorker::Admit(*admission), None));
        due.limits = due.limits.filter(|limits| full(LastingToWorker::LimitClients(*limits), None));
        if due.log {
            due.log = match &context.log {
                Some(log) => full(
                    LastingToWorker::Log { network: is_network(log) },
                    Some(descriptor(log).as_fd()),
                ),
                None => full(LastingToWorker::NoLog, None),
            };
        }
        due.connection_log = due.connection_log
            && OpenConnectionLog::send(
                context.connection_log.as_ref(),
                context.settings.connection_log_format,
                full,
            );
        due.republish = due.republish && full(LastingToWorker::Republish, None);
        due.freed = due.freed && full(LastingToWorker::Freed, None);
        if due.end == EndOrder::Due && !full(LastingToWorker::Stop, None) {
            due.end = EndOrder::Sent;
        }
    }

    /// `old worker 1 (pid 123) of pen 0.1.0 was killed by signal 9`; none if it ended in order.
    pub(in crate::processes) fn death_line(&self, ending: Option<Ending>) -> Option<String> {
        let how = match ending {
            Some(Ending::Exited(0)) | None => return None,
            Some(ending) => ending.how(),
        };
        let why = self.peer.failed.as_ref().map_or(String::new(), |why| format!(": {why}"));
        Some(format!(
            "old worker {} (pid {}) of pen {} {how}{why}",
            self.origin.id,
            self.peer.pid(),
            printable(&self.origin.version)
        ))
    }
}
