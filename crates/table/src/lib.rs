//! The shared-memory table, which holds all state that the workers share: clients and their
//! servers, the state of the servers, counts and limits, connection numbers.
//!
//! The supervisor makes a [`Table`] before it forks; each worker takes its [`WorkerTable`]. Any
//! worker can write any byte of the memory, so nothing in it is trusted: values that are read are
//! checked, and loops are bounded. The worst result of any content is lost stickiness or a wrong
//! count, never a panic, a hang, or an access outside the memory. A worker can die at any
//! instruction; then `Table::reclaim` takes back what it held.
//!
//! | File | Content |
//! |---|---|
//! | `table` | the operations of the supervisor; rows with a worker; what the next program gets |
//! | `worker_table`, `worker_nets` | the operations of workers |
//! | `clients` | a shard of clients, their order of last use, and one client's entry |
//! | `nets` | a shard of nets of clients, which makes room, one net's connections, its rate |
//! | `chained` | the chains of the entries of a shard, and their rebuild |
//! | `servers` | blacklist, standing, counts, limits, statistics |
//! | `numbers` | connection numbers, which are the slots under `-x` |
//! | `view` | the parts as slices |
//! | `hash` | the keyed hash that chooses a client's shard and bucket |
//! | `map` | the mapping; the only unsafe file |
//! | `layout`, `parts` | the position and the type of each part |
//! | `lock` | a futex lock that can be reclaimed from a dead owner |
//! | `shape` | the size of a table |
//! | `sync` | atomics: the real ones, or a model checker's |
//!
//! A *row* is the place of one worker process in the table. Two processes of one worker number can
//! live at a time, the old and the new one during an upgrade. So the table knows rows, and the
//! supervisor gives one to each worker process.
//!
//! A file uses only files below it in this list, `nets` also `numbers`; `clients`, `servers` and
//! `numbers` do not use each other.

#![deny(unsafe_code)]

mod chained;
#[cfg(test)]
mod checks;
mod clients;
mod hash;
mod layout;
mod lock;
#[cfg(not(loom))]
mod map;
mod nets;
mod numbers;
mod parts;
mod servers;
mod shape;
#[cfg(all(test, not(loom)))]
mod steps;
mod sync;
mod table;
mod view;
mod worker_nets;
mod worker_table;

pub use crate::clients::entry::ClientEntry;
pub use crate::clients::{Arrival, ClientRef, Occupant};
pub use crate::layout::LAYOUT;
pub use crate::lock::LockStuck;
pub use crate::parts::BUCKETS;
pub use crate::servers::ServerTotals;
pub use crate::servers::blacklist::{Blacklist, Failure};
pub use crate::servers::standing::{
    Checks, DownCode, Knows, Patience, ServerView, Standing, TableMode, Unusable, Usable, can_use,
};
pub use crate::servers::statistics::{Durations, FailureClass, ServerStatistics, Timed, Traffic};
pub use crate::shape::{MAX_ROWS, Mismatch, Shape, TableError};
#[cfg(not(loom))]
pub use crate::table::adopt::TableDescription;
pub use crate::table::export::{
    ExportedBlacklist, ExportedClient, ExportedServer, ExportedServers, Imported,
};
#[cfg(not(loom))]
pub use crate::table::foreign::{
    CountsDescription, ForeignTable, StatisticsDescription, WordsDescription,
};
pub use crate::table::{Table, TableKind};
pub use crate::worker_nets::{Exceeded, NetArrival, NetLimits, NetUse, Rate, Telling, Unchecked};
pub use crate::worker_table::{Locked, WorkerTable};
