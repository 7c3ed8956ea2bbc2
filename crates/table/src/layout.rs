//! The layout of the shared memory: the types of its parts, and their positions for a given
//! [`Shape`].
//!
//! Every part consists of atomics and is valid when all its bytes are zero: zero means empty, free,
//! none. So a new table needs no initialisation, and a page that was never used costs no memory.
//! Links are "slot + 1" for that reason.
//!
//! ```text
//!  one row = one cache line of 64 bytes
//!
//!  Header         magic, layout version, shape            written once, never read back
//!  Globals        cursor        │ 60 free                 round robin
//!                 current       │ 60 free                 for reports
//!                 waiting       │ 56 free                 a bit per worker that waits for a number
//!                 lowest free   │ 56 free                 hint: where to look for a number
//!                 high water    │ 60 free                 no number at or above it was ever taken
//!  Load           open          │ 60 free, and a line     one writer: the worker
//!   per worker                    between
//!  ServerState    blacklisted, failed_at, two bases,      read at each selection
//!   per server    failure, address │ 20 free
//!                 lock          │ 60 free                 taken only if there is a limit
//!  Row            connections, pending, sent, received    one writer: the worker
//!                               │ the next server's row
//!   per worker and server; a worker's rows begin at a multiple of 128 bytes
//!  owners         64 numbers' owner bytes, 8 to a word    worker + 1, or 0 = free
//!  ShardState     lock, slots, wanted │ 52 free           waited for
//!   per shard     used, newest, oldest │ 52 free          under the lock
//!  buckets        16 chain heads                          under the lock
//!  lru            8 slots' newer and older neighbours     under the lock
//!  Entry          key, key, owner, last use, connects,    exactly one line
//!   per slot      sent, received, chain, spare
//! ```
//!
//! Room for growth is reserved as address space. Clients, their buckets and links, and owner bytes
//! have room for the maximum number, each shard its own part, one after the other. So nothing moves
//! when the table grows, and unused room takes no memory.
//!
//! Hot cache lines that different workers write at the same time are 128 bytes apart, because
//! processors fetch lines in pairs.
//!
//! The entries, the rows, the owner bytes and the server states are the primary data. Buckets,
//! chains and the LRU list are derived data. They are rebuilt from the entries if a worker died
//! while it changed them.

use std::marker::PhantomData;
use std::mem::{align_of, size_of};

use crate::lock::TableLock;
use crate::sync::{AtomicU32, AtomicU64};
use crate::{Shape, TableError};

/// The version of the layout, in the header and in a worker's first message.
pub const LAYOUT_VERSION: u32 = 5;

/// Identifies the memory in a core dump: "pentable".
pub(crate) const MAGIC: u64 = u64::from_be_bytes(*b"pentable");

/// Most slots of a shard. Smaller tables have one shard and are exactly LRU. Larger ones are LRU
/// within each shard, so that many processors do not wait for one lock.
pub(crate) const SHARD_SLOTS: u32 = 65536;

/// A value on cache lines of its own.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct CacheLine<T>(pub T);

/// Identifies the memory for debugging tools. Each process keeps its own copy of the shape, which
/// the others cannot change.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub magic: AtomicU64,
    pub version: AtomicU32,
    pub clients: AtomicU32,
    pub servers: AtomicU32,
    pub workers: AtomicU32,
    pub connections: AtomicU32,
}

/// The words that exist once per table.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct Globals {
    /// The server that the last round-robin selection returned.
    pub cursor: CacheLine<AtomicU32>,
    /// The code of the server that a connection was last given, as an `i32`.
    pub current: CacheLine<AtomicU32>,
    /// Bit n: worker n waits for a free connection number. Only that worker sets and clears it (and
    /// its reclaim).
    pub waiting: CacheLine<AtomicU64>,
    /// Bits 0–31: the lowest number that may be free; bits 32–63: how often it was lowered. This is
    /// only a hint: a search that finds nothing from there begins again at 0.
    pub lowest_free: CacheLine<AtomicU64>,
    /// All numbers ever taken are below it. It is raised before a number is taken.
    pub high_water: CacheLine<AtomicU32>,
}

/// The load of a worker, for comparison by the others. That worker writes it, at most once per
/// round of events; its reclaim writes it too.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct Load {
    /// Open connections + 1; 0 = the worker takes no clients, or is dead.
    pub open: AtomicU32,
}

/// The state of a server that all workers share.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct ServerState {
    /// The end of its blacklist time; see `servers.rs` for the encoding.
    pub blacklisted: AtomicU64,
    /// Unix time at which it was blacklisted.
    pub failed_at: AtomicU64,
    /// Bytes in the rows that do not belong to this server: see `servers.rs`.
    pub sent_before: AtomicU64,
    pub received_before: AtomicU64,
    /// When and why a connect to it last failed: see `servers.rs`.
    pub last_failure: AtomicU64,
    /// Which of its addresses is in use, as a position among those in the settings.
    pub address: AtomicU32,
    /// Held while a limited connection is counted.
    pub limits: CacheLine<TableLock>,
}

/// The figures of one worker for one server. Only that worker writes them; its reclaim also writes
/// `connections`.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub connections: AtomicU32,
    /// Not 0: the worker has the maximum of pending connects to the server, and passes clients on.
    pub pending: AtomicU32,
    pub sent: AtomicU64,
    pub received: AtomicU64,
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
    /// Generation, recorded server and state: see [`crate::entry::Owner`].
    pub owner: AtomicU64,
    /// Monotonic milliseconds.
    pub last_use: AtomicU64,
    pub connects: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
    /// The next slot + 1 of the same bucket. It is derived data, but it is here because a walk
    /// along the chain needs this line anyway.
    pub chain: AtomicU32,
    pub spare: AtomicU32,
}

// The atomics of a model checker have other sizes.
#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Header>() == 128);
    assert!(size_of::<Globals>() == 384);
    assert!(size_of::<Load>() == 128);
    assert!(size_of::<ServerState>() == 128);
    assert!(size_of::<Row>() == 32);
    assert!(size_of::<ShardState>() == 128);
    assert!(size_of::<LruLinks>() == 8);
    assert!(size_of::<StoredEntry>() == 64);
};

/// The position of an array of `T`.
#[derive(Debug)]
#[cfg_attr(loom, allow(dead_code))]
pub(crate) struct Region<T> {
    /// Bytes from the start of the memory; a multiple of 128.
    pub offset: usize,
    /// Elements.
    pub count: usize,
    element: PhantomData<fn() -> T>,
}

impl<T> Region<T> {
    pub fn new(offset: usize, count: usize) -> Region<T> {
        Region { offset, count, element: PhantomData }
    }
}

/// The positions of all parts for one shape.
#[derive(Debug)]
#[cfg_attr(loom, allow(dead_code))]
pub(crate) struct Layout {
    pub shape: Shape,
    /// Number of shards; a power of two. It does not change when the table grows.
    pub shards: u32,
    /// Slots for which each shard has room.
    pub slots_per_shard: u32,
    /// Buckets for which each shard has room; a power of two, at least its slots.
    pub buckets_per_shard: u32,
    /// Connection numbers for which there is room.
    pub connections: u32,
    /// Distance in rows from one worker's first row to the next worker's.
    pub row_stride: u32,
    pub header: Region<Header>,
    pub globals: Region<Globals>,
    pub loads: Region<Load>,
    pub servers: Region<ServerState>,
    pub rows: Region<Row>,
    pub owners: Region<AtomicU64>,
    pub shard_states: Region<ShardState>,
    pub buckets: Region<AtomicU32>,
    pub lru: Region<LruLinks>,
    pub entries: Region<StoredEntry>,
    /// Size of the whole memory, in bytes.
    pub bytes: usize,
}

impl Layout {
    /// Plans a table that can grow to the maximum size.
    ///
    /// # Errors
    /// The shape is out of range, or this machine cannot address so much memory.
    pub fn growing(shape: Shape) -> Result<Layout, TableError> {
        let room =
            Room { shard_slots: SHARD_SLOTS, clients: MAX_CLIENTS, connections: MAX_CONNECTIONS };
        Layout::new(shape, room)
    }

    /// Plans a table that cannot grow.
    ///
    /// # Errors
    /// The shape is out of range.
    pub fn fixed(shape: Shape) -> Result<Layout, TableError> {
        let room = Room {
            shard_slots: SHARD_SLOTS,
            clients: shape.clients,
            connections: shape.connections,
        };
        Layout::new(shape, room)
    }

    /// Plans a table whose shards begin with at most `room.shard_slots` slots.
    pub fn new(shape: Shape, room: Room) -> Result<Layout, TableError> {
        check(&shape)?;
        let shards = shape.clients.div_ceil(room.shard_slots).next_power_of_two();
        let slots_per_shard = room.clients.max(shape.clients).div_ceil(shards);
        let buckets_per_shard = slots_per_shard.next_power_of_two();
        let connections = room.connections.max(shape.connections);
        let row_stride = shape.servers.next_multiple_of((ALIGNMENT / 32) as u32);
        let mut plan = LayoutPlan { end: Some(0) };
        let mut layout = Layout {
            shape,
            shards,
            slots_per_shard,
            buckets_per_shard,
            connections,
            row_stride,
            header: plan.area(1, 1),
            globals: plan.area(1, 1),
            loads: plan.area(shape.workers, 1),
            servers: plan.area(shape.servers, 1),
            rows: plan.area(shape.workers, row_stride),
            owners: plan.area(connections.div_ceil(8), 1),
            shard_states: plan.area(shards, 1),
            buckets: plan.area(shards, buckets_per_shard),
            lru: plan.area(shards, slots_per_shard),
            entries: plan.area(shards, slots_per_shard),
            bytes: 0,
        };
        layout.bytes =
            plan.end.ok_or(TableError::Shape("more memory than this machine can address"))?;
        Ok(layout)
    }

    /// The first slot of a shard.
    pub fn first_slot(&self, shard: u32) -> u32 {
        // The product is below 2^24 + 2^8.
        shard * self.slots_per_shard
    }

    /// The slots of each shard in a table of at least this many clients. All shards have the same
    /// number.
    pub fn share(&self, clients: u32) -> u32 {
        clients.div_ceil(self.shards).min(self.slots_per_shard)
    }

    /// The most clients to which the table can grow.
    pub fn most_clients(&self) -> u32 {
        self.shards * self.slots_per_shard
    }
}

/// The room with which a table is planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Most slots of a shard at the beginning.
    pub shard_slots: u32,
    /// The most clients to which the table can grow.
    pub clients: u32,
    /// The most connections to which the table can grow.
    pub connections: u32,
}

fn check(shape: &Shape) -> Result<(), TableError> {
    let limits = [
        (shape.clients, MAX_CLIENTS, "client slots must be 1 to 16777216"),
        (shape.servers, MAX_SERVER_ROWS, "server rows must be 1 to 4098"),
        (shape.workers, MAX_WORKERS, "workers must be 1 to 64"),
        (shape.connections, MAX_CONNECTIONS, "connections must be 1 to 1048576"),
    ];
    match limits.iter().find(|(value, most, _)| *value == 0 || value > most) {
        Some((_, _, rule)) => Err(TableError::Shape(rule)),
        None => Ok(()),
    }
}

/// Allocates positions one after the other.
struct LayoutPlan {
    /// The end of the allocated part; `None` if it does not fit an address.
    end: Option<usize>,
}

impl LayoutPlan {
    fn area<T>(&mut self, count: u32, times: u32) -> Region<T> {
        const { assert!(align_of::<T>() <= ALIGNMENT || cfg!(loom)) };
        let offset = self.end.and_then(|end| end.checked_next_multiple_of(ALIGNMENT));
        let count = usize::try_from(u64::from(count) * u64::from(times)).ok();
        self.end = match (offset, count) {
            (Some(offset), Some(count)) => {
                count.checked_mul(size_of::<T>()).and_then(|bytes| offset.checked_add(bytes))
            }
            _ => None,
        };
        Region::new(offset.unwrap_or(0), count.unwrap_or(0))
    }
}

/// Alignment of the parts, in bytes: two cache lines.
const ALIGNMENT: usize = 128;

const MAX_CLIENTS: u32 = 1 << 24;
const MAX_SERVER_ROWS: u32 = 4096 + 2;
/// Most workers: a worker is a bit of a 64-bit word, and a byte of an owner.
pub(crate) const MAX_WORKERS: u32 = 64;
const MAX_CONNECTIONS: u32 = 1 << 20;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn shape(clients: u32) -> Shape {
        Shape { clients, servers: 18, workers: 2, connections: 256 }
    }

    #[test]
    fn parts_follow_each_other_without_overlap() {
        let sizes = [1, 7, 2048, 65536, 65537, 2_000_000, MAX_CLIENTS];
        for layout in
            sizes.into_iter().flat_map(|n| [Layout::fixed(shape(n)), Layout::growing(shape(n))])
        {
            let layout = layout.unwrap();
            let parts = [
                (layout.header.offset, layout.header.count * 128),
                (layout.globals.offset, layout.globals.count * 384),
                (layout.loads.offset, layout.loads.count * 128),
                (layout.servers.offset, layout.servers.count * 128),
                (layout.rows.offset, layout.rows.count * 32),
                (layout.owners.offset, layout.owners.count * 8),
                (layout.shard_states.offset, layout.shard_states.count * 128),
                (layout.buckets.offset, layout.buckets.count * 4),
                (layout.lru.offset, layout.lru.count * 8),
                (layout.entries.offset, layout.entries.count * 64),
                (layout.bytes, 0),
            ];
            for pair in parts.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0);
                assert_eq!(pair[0].0 % ALIGNMENT, 0);
            }
        }
    }

    #[test]
    fn shards_share_the_slots_out_and_stay_small() {
        for clients in [1, 65536, 65537, 131_073, 2_000_000, MAX_CLIENTS] {
            for layout in
                [Layout::fixed(shape(clients)).unwrap(), Layout::growing(shape(clients)).unwrap()]
            {
                let share = layout.share(clients);
                assert!((clients..clients + layout.shards).contains(&(share * layout.shards)));
                assert!((1..=SHARD_SLOTS).contains(&share) && share <= layout.slots_per_shard);
                assert!(layout.slots_per_shard <= layout.buckets_per_shard);
            }
        }
        assert_eq!(Layout::fixed(shape(65536)).unwrap().shards, 1);
    }

    #[test]
    fn every_table_can_grow_to_the_most() {
        for clients in [1, 2048, 65537, 2_000_000, MAX_CLIENTS] {
            let layout = Layout::growing(shape(clients)).unwrap();
            assert_eq!(layout.most_clients(), MAX_CLIENTS);
            assert_eq!(layout.share(MAX_CLIENTS) * layout.shards, MAX_CLIENTS);
            assert_eq!(layout.connections, MAX_CONNECTIONS);
        }
    }

    #[test]
    fn shapes_out_of_range_are_refused() {
        let good = shape(1);
        for bad in [
            Shape { clients: 0, ..good },
            Shape { clients: MAX_CLIENTS + 1, ..good },
            Shape { servers: 0, ..good },
            Shape { servers: 4099, ..good },
            Shape { workers: 0, ..good },
            Shape { workers: 65, ..good },
            Shape { connections: 0, ..good },
            Shape { connections: MAX_CONNECTIONS + 1, ..good },
        ] {
            assert!(matches!(Layout::growing(bad), Err(TableError::Shape(_))), "{bad:?}");
        }
    }
}
