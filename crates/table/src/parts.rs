//! The types of the parts of the shared memory.
//!
//! Every part consists of atomics and is valid when all its bytes are zero: zero means empty, free,
//! none. So a new table needs no initialisation, and a page that was never used costs no memory.
//! Links are "slot + 1" for that reason.

use crate::lock::TableLock;
use crate::shape::MAX_ROWS;
use crate::sync::{AtomicU32, AtomicU64};

/// A value on cache lines of its own.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct CacheLine<T>(pub T);

/// The words that exist once per table.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct Globals {
    /// The server that the last round-robin selection returned.
    pub cursor: CacheLine<AtomicU32>,
    /// The code of the server that a connection was last given, as an `i32`.
    pub current: CacheLine<AtomicU32>,
    /// Bit n of all words: the worker of row n waits for a free connection number. Only that worker
    /// sets and clears it (and its reclaim).
    pub waiting: CacheLine<[AtomicU64; WAITING_WORDS]>,
    /// Bits 0–31: the lowest number that may be free; bits 32–63: how often it was lowered. This is
    /// only a hint: a search that finds nothing from there begins again at 0.
    pub lowest_free: CacheLine<AtomicU64>,
    /// Read often, and seldom written.
    pub high_water: CacheLine<HighWater>,
}

/// How far the numbers and the rows were ever used.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct HighWater {
    /// All numbers ever taken are below it. It is raised before a number is taken.
    pub numbers: AtomicU32,
    /// All rows that a worker ever had are below it. The supervisor raises it before it gives a row
    /// to a worker. Sums over the workers leave out the rows from here on.
    pub rows: AtomicU32,
}

/// Words that have a bit for each row.
pub(crate) const WAITING_WORDS: usize = MAX_ROWS.div_ceil(64) as usize;

/// The load of a row's worker, for comparison by the others. It writes this, at most once per
/// round of events; its reclaim writes it too.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Open connections + 1; 0 = the worker takes no clients, or is dead.
    pub open: AtomicU32,
    /// Connections that it keeps open and silent, because their clients are beyond a limit.
    pub tarpitted: CacheLine<AtomicU32>,
}

/// The state of a server that all workers share.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct ServerState {
    /// The end of its blacklist time; see `servers/blacklist.rs` for the encoding.
    pub blacklisted: AtomicU64,
    /// Unix time at which it was blacklisted.
    pub failed_at: AtomicU64,
    /// Bytes in the figures that do not belong to this server: see `servers/mod.rs`.
    pub sent_before: AtomicU64,
    pub received_before: AtomicU64,
    /// When and why a connect to it last failed: see `servers/blacklist.rs`.
    pub last_failure: AtomicU64,
    /// Which of its addresses is in use, as a position among those in the settings.
    pub address: AtomicU32,
    /// What the supervisor says of it: see `servers/standing.rs`. In what was free space: releases
    /// without it leave it 0 and never read it.
    pub standing: AtomicU32,
    /// When it came back into service, in monotonic milliseconds; 0 = it was never out. In what was
    /// free space too.
    pub returned: AtomicU64,
    /// Held while a limited connection is counted.
    pub limits: CacheLine<TableLock>,
}

/// The figures of one row for one server. Only the worker that has the row writes them; its reclaim
/// also writes `connections` and `pending`.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub connections: AtomicU32,
    /// Not 0: the worker has the maximum of pending connects to the server, and passes clients on.
    pub pending: AtomicU32,
    pub sent: AtomicU64,
    pub received: AtomicU64,
}

/// How many buckets a histogram of durations has. The caller has their bounds.
pub const BUCKETS: usize = 24;

/// How many counts [`Statistics`] has beside the buckets.
pub(crate) const COUNTS: usize = 8;

/// What one row counted of one server; see `servers/statistics.rs`. Only the worker that has the
/// row writes it. Apart from the figures, which other workers read at each limited connection.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    /// Reached, passed on, failures by class, sum of the connect times, sum of the lengths. They
    /// are one cache line.
    pub counts: [AtomicU64; COUNTS],
    /// Connect times by bucket.
    pub connect: [AtomicU64; BUCKETS],
    /// Lengths of connections by bucket.
    pub length: [AtomicU64; BUCKETS],
}

/// The words on the cache line of a shard's lock; the worker that takes the lock has this line
/// already.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct ShardLock {
    pub lock: TableLock,
    /// Slots that the derived data uses: how many can be handed out. The number of buckets follows
    /// from it. Changed under the lock.
    pub slots: AtomicU32,
    /// The wanted number of slots. The supervisor writes it; the next owner of the lock applies it.
    pub wanted: AtomicU32,
}

/// A part of the client table with its own lock.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct ShardState {
    pub lock: CacheLine<ShardLock>,
    /// Slots handed out so far; those above were never written.
    pub used: AtomicU32,
    /// Head of the LRU list, slot + 1.
    pub newest: AtomicU32,
    /// Tail of the LRU list, slot + 1.
    pub oldest: AtomicU32,
}

/// A slot's neighbours in the LRU list, slot + 1.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub(crate) struct LruLinks {
    pub newer: AtomicU32,
    pub older: AtomicU32,
}

/// A client's entry: one cache line, so that a hit costs one miss.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct StoredEntry {
    /// The client's key, as two native-endian words.
    pub key: [AtomicU64; 2],
    /// Generation, recorded server and state: see `clients/entry.rs`.
    pub owner: AtomicU64,
    /// Monotonic milliseconds.
    pub last_use: AtomicU64,
    pub connects: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// The next slot + 1 of the same bucket. It is derived data, but it is here because a walk
    /// along the chain needs this line anyway.
    pub chain: AtomicU32,
}

/// Parts of the time of a rate of which each is counted by itself, and the part that begins.
pub(crate) const SLICES: usize = 17;

/// A net of clients, for the limits per client: two cache lines, which processors fetch together.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct StoredNet {
    /// The net's key, as two native-endian words.
    pub key: [AtomicU64; 2],
    /// Generation, state and open connections: see `nets/entry.rs`.
    pub open: AtomicU64,
    /// The number of the slice of time that is counted now: see `nets/rate.rs`.
    pub slice: AtomicU64,
    /// The next slot + 1 of the same bucket; derived data, as in [`StoredEntry`].
    pub chain: AtomicU32,
    /// The seconds of which its slices are sixteenths; 0 = nothing is counted.
    pub seconds: AtomicU32,
    /// When it was last reported, monotonic seconds + 1; 0 = never.
    pub told: AtomicU32,
    /// Attempts by slice.
    pub attempts: [AtomicU32; SLICES],
}

/// Slots of nets to whose bits one [`SlotBits`] has.
pub(crate) const SLOTS_OF_BITS: u32 = 64;

/// Two bits for each of 64 slots of nets: see `nets/clock.rs`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct SlotBits {
    /// Whether the slot's net had an attempt since the hand passed. Changed under the lock.
    pub recent: AtomicU64,
    /// Whether the hand found that connections of the slot's net are open.
    pub busy: AtomicU64,
}

/// A part of the nets with its own lock.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct NetShard {
    pub lock: CacheLine<ShardLock>,
    /// Slots handed out so far; those above were never written.
    pub used: AtomicU32,
    /// The slot from which one is looked for that a new net can have.
    pub hand: AtomicU32,
    /// Read at the end of each connection.
    pub recount: CacheLine<Recount>,
}

/// Whether the counts of a shard's nets must be made anew: see `nets/mod.rs`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Recount {
    /// Raised for each recount that is wanted.
    pub wanted: AtomicU32,
    /// What `wanted` was at the last recount.
    pub done: AtomicU32,
}

// The atomics of a model checker have other sizes.
#[cfg(not(loom))]
const _: () = {
    use std::mem::size_of;
    assert!(size_of::<Globals>() == 384);
    assert!(size_of::<Load>() == 128);
    assert!(size_of::<ServerState>() == 128);
    assert!(size_of::<Figures>() == 32);
    assert!(size_of::<Statistics>() == 512);
    assert!(size_of::<ShardState>() == 128);
    assert!(size_of::<LruLinks>() == 8);
    assert!(size_of::<StoredEntry>() == 64);
    assert!(size_of::<StoredNet>() == 128);
    assert!(size_of::<SlotBits>() == 16);
    assert!(size_of::<NetShard>() == 256);
};
