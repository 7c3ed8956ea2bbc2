//! The layout of the shared memory: the positions of its parts for a given [`Shape`].
//!
//! ```text
//!  one line = one cache line of 64 bytes
//!
//!  Globals        cursor        │ 60 free                 round robin
//!                 current       │ 60 free                 for reports
//!                 waiting × 4   │ 32 free                 a bit per row that waits for a number
//!                 lowest free   │ 56 free                 hint: where to look for a number
//!                 numbers, rows │ 56 free                 none at or above them was ever used
//!  Load           open          │ 60 free                 one writer: the row's worker
//!   per row       tarpitted     │ 60 free
//!  ServerState    blacklisted, failed_at, two bases,      read at each selection
//!   per server    failure, address, standing, returned
//!                               │ 8 free
//!                 lock          │ 60 free                 taken only if there is a limit
//!  Figures        connections, pending, sent, received    one writer: the row's worker
//!                               │ the next server's
//!   per row and server; a row's figures begin at a multiple of 128 bytes
//!  Statistics     reached, passed on, failures × 4, sums  one writer: the row's worker,
//!                 connect times × 24                      or the supervisor
//!                 lengths × 24  │ a line free
//!   per row and server, and one row more for what is added to the sums
//!  owners         64 numbers' owner bytes, 8 to a word    row + 1, or 0 = free
//!  ShardState     lock, slots, wanted │ 52 free           waited for
//!   per shard     used, newest, oldest │ 52 free          under the lock
//!  buckets        16 chain heads                          under the lock
//!  lru            8 slots' newer and older neighbours     under the lock
//!  Entry          key, key, owner, last use, connects,    exactly one line
//!   per slot      sent, received, chain │ 4 free
//!  holders        16 numbers' slots of nets               one writer: the number's owner
//!  NetShard       lock, slots, wanted │ 52 free           waited for
//!                 used, hand    │ 56 free                 under the lock
//!                 wanted, done  │ 56 free                 recounts; read at each end
//!  net buckets    16 chain heads                          under the lock
//!  SlotBits       4 × 64 slots' bits recent and busy      recent: under the lock
//!  Net            key, key, open, slice, chain, seconds,  two lines
//!   per slot      told, attempts × 17 │ 16 free
//! ```
//!
//! Room for growth is reserved as address space. Clients, their buckets and links, and owner bytes
//! have room for the maximum number, each shard its own part, one after the other. So nothing moves
//! when the table grows, and unused room takes no memory.
//!
//! Hot cache lines that different workers write at the same time are 128 bytes apart, because
//! processors fetch lines in pairs.
//!
//! The entries, the figures, the statistics, the owner bytes, the holders and the server states are
//! the primary data. Buckets, chains, LRU lists and the open connections of nets are derived data.
//! They are rebuilt from the entries and the holders if a worker died while it changed them.

use std::marker::PhantomData;
use std::mem::{align_of, size_of};

use crate::parts::{
    Figures, Globals, Load, LruLinks, NetShard, SLOTS_OF_BITS, ServerState, ShardState, SlotBits,
    Statistics, StoredEntry, StoredNet,
};
use crate::shape::{MAX_CLIENTS, MAX_CONNECTIONS, Shape, TableError};
use crate::sync::{AtomicU32, AtomicU64};

/// The number of this layout. Raise it with every change of layout.rs or parts.rs, and when the
/// bits of a word get another meaning. A program adopts a table of its own number only.
pub const LAYOUT: u32 = 4;

/// Most slots of a shard. Smaller tables have one shard and are exactly LRU. Larger ones are LRU
/// within each shard, so that many processors do not wait for one lock.
pub(crate) const SHARD_SLOTS: u32 = 65536;

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
    /// Distance in figures from one row's first to the next row's.
    pub row_stride: u32,
    pub globals: Region<Globals>,
    pub loads: Region<Load>,
    pub servers: Region<ServerState>,
    pub figures: Region<Figures>,
    /// The last row is not a worker's.
    pub statistics: Region<Statistics>,
    pub owners: Region<AtomicU64>,
    pub shard_states: Region<ShardState>,
    pub buckets: Region<AtomicU32>,
    pub lru: Region<LruLinks>,
    pub entries: Region<StoredEntry>,
    /// Number of shards of the nets; a power of two.
    pub net_shards: u32,
    /// Nets for which there is room, however few connections there may be.
    pub least_nets: u32,
    /// Nets for which each of these shards has room.
    pub nets_per_shard: u32,
    /// Buckets for which each of these shards has room; a power of two, at least its nets.
    pub net_buckets_per_shard: u32,
    /// By connection number: the slot + 1 of the net whose connection it is.
    pub holders: Region<AtomicU32>,
    pub net_shard_states: Region<NetShard>,
    pub net_buckets: Region<AtomicU32>,
    /// Elements of `net_bits` for which each of these shards has room: whole pairs of cache lines.
    pub net_bits_per_shard: u32,
    pub net_bits: Region<SlotBits>,
    pub nets: Region<StoredNet>,
    /// Size of the whole memory, in bytes.
    pub bytes: usize,
}

impl Layout {
    /// Plans a table that can grow to the maximum size.
    ///
    /// # Errors
    /// The shape is out of range, or this machine cannot address so much memory.
    pub fn growing(shape: Shape) -> Result<Layout, TableError> {
        let room = Room {
            shard_slots: SHARD_SLOTS,
            clients: MAX_CLIENTS,
            connections: MAX_CONNECTIONS,
            net_shards: NET_SHARDS,
            least_nets: LEAST_NETS,
        };
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
            net_shards: NET_SHARDS,
            least_nets: LEAST_NETS,
        };
        Layout::new(shape, room)
    }

    /// Plans a table whose shards begin with at most `room.shard_slots` slots.
    pub fn new(shape: Shape, room: Room) -> Result<Layout, TableError> {
        shape.check()?;
        let shards = shape.clients.div_ceil(room.shard_slots).next_power_of_two();
        let slots_per_shard = room.clients.max(shape.clients).div_ceil(shards);
        let buckets_per_shard = slots_per_shard.next_power_of_two();
        let connections = room.connections.max(shape.connections);
        let nets_per_shard = nets_for(connections, room.least_nets).div_ceil(room.net_shards);
        let net_buckets_per_shard = nets_per_shard.next_power_of_two();
        let net_bits_per_shard = nets_per_shard
            .div_ceil(SLOTS_OF_BITS)
            .next_multiple_of((ALIGNMENT / size_of::<SlotBits>()) as u32);
        let row_stride = shape.servers.next_multiple_of((ALIGNMENT / 32) as u32);
        let mut plan = LayoutPlan { end: Some(0) };
        let mut layout = Layout {
            shape,
            shards,
            slots_per_shard,
            buckets_per_shard,
            connections,
            row_stride,
            globals: plan.area(1, 1),
            loads: plan.area(shape.rows, 1),
            servers: plan.area(shape.servers, 1),
            figures: plan.area(shape.rows, row_stride),
            statistics: plan.area(shape.rows + 1, shape.servers),
            owners: plan.area(connections.div_ceil(8), 1),
            shard_states: plan.area(shards, 1),
            buckets: plan.area(shards, buckets_per_shard),
            lru: plan.area(shards, slots_per_shard),
            entries: plan.area(shards, slots_per_shard),
            net_shards: room.net_shards,
            least_nets: room.least_nets,
            nets_per_shard,
            net_buckets_per_shard,
            holders: plan.area(connections, 1),
            net_shard_states: plan.area(room.net_shards, 1),
            net_buckets: plan.area(room.net_shards, net_buckets_per_shard),
            net_bits_per_shard,
            net_bits: plan.area(room.net_shards, net_bits_per_shard),
            nets: plan.area(room.net_shards, nets_per_shard),
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

    /// The slots of each shard of nets for this many connections, at least 1.
    pub fn net_share(&self, connections: u32) -> u32 {
        nets_for(connections, self.least_nets)
            .div_ceil(self.net_shards)
            .clamp(1, self.nets_per_shard)
    }

    /// The most clients to which the table can grow.
    pub fn most_clients(&self) -> u32 {
        self.shards * self.slots_per_shard
    }
}

/// How many nets there is room for. Twice the connections, so that at most half of the slots have
/// a connection and cannot be given to another net.
fn nets_for(connections: u32, least: u32) -> u32 {
    // At most 2^20 connections.
    connections.saturating_mul(2).max(least)
}

/// Nets for which there is room in any table, to remember the attempts of many: 8 MB, as far as
/// they are used.
const LEAST_NETS: u32 = 65536;

/// Shards of the nets, each with its own lock.
const NET_SHARDS: u32 = 64;

/// The room with which a table is planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Most slots of a shard at the beginning.
    pub shard_slots: u32,
    /// The most clients to which the table can grow.
    pub clients: u32,
    /// The most connections to which the table can grow.
    pub connections: u32,
    /// Shards of the nets; a power of two.
    pub net_shards: u32,
    /// Nets for which there is room, however few connections there may be.
    pub least_nets: u32,
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::hash::HashKey;
    use crate::parts::{HighWater, Recount, ShardLock};

    fn shape(clients: u32) -> Shape {
        Shape { clients, servers: 18, rows: 2, connections: 256 }
    }

    /// If this fails, the layout has changed: raise `LAYOUT`, and then write the new digest here.
    #[test]
    fn a_change_of_the_layout_has_a_new_number() {
        let mut figures = Vec::new();
        let shape = Shape { clients: 70_000, servers: 18, rows: 6, connections: 256 };
        for layout in [Layout::fixed(shape).unwrap(), Layout::growing(shape).unwrap()] {
            let Layout {
                shape: _,
                shards,
                slots_per_shard,
                buckets_per_shard,
                connections,
                row_stride,
                globals,
                loads,
                servers,
                figures: counts,
                statistics,
                owners,
                shard_states,
                buckets,
                lru,
                entries,
                net_shards,
                least_nets: _,
                nets_per_shard,
                net_buckets_per_shard,
                holders,
                net_shard_states,
                net_buckets,
                net_bits_per_shard,
                net_bits,
                nets,
                bytes,
            } = layout;
            figures.extend(
                [shards, slots_per_shard, buckets_per_shard, connections, row_stride]
                    .map(|number| number as usize),
            );
            figures.extend([globals.offset, globals.count, loads.offset, loads.count]);
            figures.extend([servers.offset, servers.count, counts.offset, counts.count]);
            figures.extend([statistics.offset, statistics.count]);
            figures.extend([owners.offset, owners.count, shard_states.offset, shard_states.count]);
            figures.extend([buckets.offset, buckets.count, lru.offset, lru.count]);
            figures.extend([entries.offset, entries.count, bytes]);
            figures.extend(
                [net_shards, nets_per_shard, net_buckets_per_shard].map(|number| number as usize),
            );
            figures.extend([holders.offset, holders.count]);
            figures.extend([net_shard_states.offset, net_shard_states.count]);
            figures.extend([net_buckets.offset, net_buckets.count]);
            figures.extend([net_bits_per_shard as usize, net_bits.offset, net_bits.count]);
            figures.extend([nets.offset, nets.count]);
        }
        macro_rules! fields {
            ($($part:ident { $($field:ident),* })*) => {
                $(figures.push(size_of::<$part>());
                figures.extend([$(offset_of!($part, $field)),*]);)*
            };
        }
        fields! {
            Globals { cursor, current, waiting, lowest_free, high_water }
            HighWater { numbers, rows }
            Load { open, tarpitted }
            ServerState {
                blacklisted, failed_at, sent_before, received_before, last_failure, address, limits
            }
            Figures { connections, pending, sent, received }
            Statistics { counts, connect, length }
            ShardState { lock, used, newest, oldest }
            ShardLock { lock, slots, wanted }
            LruLinks { newer, older }
            StoredEntry { key, owner, last_use, connects, sent, received, chain }
            SlotBits { recent, busy }
            NetShard { lock, used, hand, recount }
            Recount { wanted, done }
            StoredNet { key, open, slice, chain, seconds, told, attempts }
        }
        let digest = figures.iter().fold(0, |digest, figure| {
            HashKey([digest, figures.len() as u64]).of_words([*figure as u64, 0]).hash
        });
        assert_eq!((LAYOUT, format!("{digest:016x}").as_str()), (4, "980e8670de0436cb"));
    }

    /// In the line of the blacklist word, because a selection reads them together.
    #[test]
    fn the_words_of_a_choice_are_beside_the_blacklist_word() {
        assert_eq!((offset_of!(ServerState, standing), size_of::<ServerState>()), (44, 128));
        assert_eq!(offset_of!(ServerState, returned), 48);
        assert!(
            offset_of!(ServerState, standing) / 64 == offset_of!(ServerState, blacklisted) / 64
        );
    }

    #[test]
    fn parts_follow_each_other_without_overlap() {
        let sizes = [1, 7, 2048, 65536, 65537, 2_000_000, MAX_CLIENTS];
        for layout in
            sizes.into_iter().flat_map(|n| [Layout::fixed(shape(n)), Layout::growing(shape(n))])
        {
            let layout = layout.unwrap();
            let parts = [
                (layout.globals.offset, layout.globals.count * 384),
                (layout.loads.offset, layout.loads.count * 128),
                (layout.servers.offset, layout.servers.count * 128),
                (layout.figures.offset, layout.figures.count * 32),
                (layout.statistics.offset, layout.statistics.count * 512),
                (layout.owners.offset, layout.owners.count * 8),
                (layout.shard_states.offset, layout.shard_states.count * 128),
                (layout.buckets.offset, layout.buckets.count * 4),
                (layout.lru.offset, layout.lru.count * 8),
                (layout.entries.offset, layout.entries.count * 64),
                (layout.holders.offset, layout.holders.count * 4),
                (layout.net_shard_states.offset, layout.net_shard_states.count * 256),
                (layout.net_buckets.offset, layout.net_buckets.count * 4),
                (layout.net_bits.offset, layout.net_bits.count * 16),
                (layout.nets.offset, layout.nets.count * 128),
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
}
