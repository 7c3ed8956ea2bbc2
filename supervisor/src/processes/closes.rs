//! The orders to end connections that are queued for one worker: by number, and by server.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use pen_ipc::message::{ClosedServer, LastingToWorker};

/// Queued orders. There are never more than connections, and marks of servers.
#[derive(Debug, Default)]
pub(in crate::processes) struct Closes {
    /// Number, and time of the order. A later order replaces an earlier one, because the earlier
    /// connection of that number is gone.
    numbers: BTreeMap<u32, u64>,
    /// The code of each server with a mark of it, and its last order. A later one includes an
    /// earlier one.
    servers: BTreeMap<(i32, u64), ServerClose>,
}

/// An order to end the connections of a server ([`LastingToWorker::CloseServer`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerClose {
    pub(crate) server: i32,
    pub(crate) mark: u64,
    pub(crate) before: u64,
    pub(crate) why: ClosedServer,
}

impl Closes {
    pub(in crate::processes) fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.servers.is_empty()
    }

    pub(in crate::processes) fn number(&mut self, number: u32, before: u64) {
        self.numbers.insert(number, before);
    }

    pub(in crate::processes) fn server(&mut self, order: ServerClose) {
        self.servers.insert((order.server, order.mark), order);
    }

    /// Sends the orders, until the channel is full.
    pub(in crate::processes) fn send(&mut self, mut is_full: impl FnMut(LastingToWorker) -> bool) {
        while let Some(entry) = self.numbers.first_entry() {
            let (number, before) = (*entry.key(), *entry.get());
            if is_full(LastingToWorker::Close { number, before }) {
                return;
            }
            entry.remove();
        }
        while let Some(entry) = self.servers.first_entry() {
            let ServerClose { server, mark, before, why } = *entry.get();
            if is_full(LastingToWorker::CloseServer { server, mark, before, why }) {
                return;
            }
            entry.remove();
        }
    }
}
