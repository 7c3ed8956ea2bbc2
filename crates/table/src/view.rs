//! The table as slices, which all safe code uses. They come from the mapping. Under a model checker
//! they come from the heap, because its atomics cannot be in shared memory.

#[cfg(not(loom))]
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::hash::HashKey;
use crate::layout::Layout;
use crate::parts::{
    Figures, Globals, Load, LruLinks, NetShard, SLOTS_OF_BITS, ServerState, ShardLock, ShardState,
    SlotBits, Statistics, StoredEntry, StoredNet,
};
use crate::shape::TableError;
use crate::sync::{AtomicU32, AtomicU64, Ordering::*};

/// All parts of a table.
#[derive(Clone, Copy)]
pub(crate) struct View<'t> {
    pub layout: &'t Layout,
    pub hash_key: HashKey,
    pub globals: &'t Globals,
    pub loads: &'t [Load],
    servers: &'t [ServerState],
    figures: &'t [Figures],
    statistics: &'t [Statistics],
    pub owners: &'t [AtomicU64],
    shard_states: &'t [ShardState],
    buckets: &'t [AtomicU32],
    lru: &'t [LruLinks],
    pub entries: &'t [StoredEntry],
    pub holders: &'t [AtomicU32],
    pub net_shards: &'t [NetShard],
    net_buckets: &'t [AtomicU32],
    net_bits: &'t [SlotBits],
    pub nets: &'t [StoredNet],
}

/// The parts of one shard: entries, and the order `O` in which they make room for others. Slots in
/// it count from 0.
pub(crate) struct Shard<'t, E, O> {
    pub hash_key: HashKey,
    pub lock: &'t ShardLock,
    /// Slots handed out so far.
    pub used: &'t AtomicU32,
    pub buckets: &'t [AtomicU32],
    pub order: O,
    pub entries: &'t [E],
    /// The number of its first slot in the whole table.
    pub first: u32,
}

impl<E, O: Copy> Clone for Shard<'_, E, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E, O: Copy> Copy for Shard<'_, E, O> {}

/// A shard of clients.
pub(crate) type ClientShard<'t> = Shard<'t, StoredEntry, Lru<'t>>;

/// A shard of nets.
pub(crate) type NetsShard<'t> = Shard<'t, StoredNet, Clock<'t>>;

/// The list of a shard's slots in the order of last use.
#[derive(Clone, Copy)]
pub(crate) struct Lru<'t> {
    /// Head, slot + 1.
    pub newest: &'t AtomicU32,
    /// Tail, slot + 1.
    pub oldest: &'t AtomicU32,
    pub links: &'t [LruLinks],
}

/// The hand that goes round a shard's slots, and their bits: see `nets/clock.rs`.
#[derive(Clone, Copy)]
pub(crate) struct Clock<'t> {
    pub hand: &'t AtomicU32,
    pub bits: &'t [SlotBits],
}

impl<'t> View<'t> {
    /// How many rows were ever used. The number comes from the memory, so it is limited.
    pub fn rows_used(self) -> u32 {
        self.globals.high_water.0.rows.load(Relaxed).min(self.layout.shape.rows)
    }

    /// Makes a row part of the sums, if it is not.
    pub fn raise_rows_used(self, row: u32) {
        let used = &self.globals.high_water.0.rows;
        if used.load(Relaxed) <= row {
            used.fetch_max(row + 1, Relaxed);
        }
    }

    /// The figures of a row, by server; empty for a row that does not exist.
    pub fn row(self, row: u32) -> &'t [Figures] {
        let start = row as usize * self.layout.row_stride as usize;
        self.figures.get(start..start + self.layout.shape.servers as usize).unwrap_or_default()
    }

    /// The figures of a row for a server.
    pub fn figures(self, row: u32, server: u32) -> Option<&'t Figures> {
        self.row(row).get(server as usize)
    }

    /// The state of a server.
    pub fn server(self, server: u32) -> Option<&'t ServerState> {
        self.servers.get(server as usize)
    }

    /// The figures of one server in the rows that were ever used.
    pub fn column(self, server: u32) -> impl Iterator<Item = &'t Figures> {
        let (server, stride) = (server as usize, self.layout.row_stride as usize);
        let rows = 0..self.rows_used() as usize;
        rows.map_while(move |row| self.figures.get(row * stride + server))
    }

    /// The statistics of a row for a server.
    pub fn statistics(self, row: u32, server: u32) -> Option<&'t Statistics> {
        self.statistics_at(row, server).filter(|_| row < self.layout.shape.rows)
    }

    /// What is added to the statistics of a server in the rows.
    pub fn base_statistics(self, server: u32) -> Option<&'t Statistics> {
        self.statistics_at(self.layout.shape.rows, server)
    }

    fn statistics_at(self, row: u32, server: u32) -> Option<&'t Statistics> {
        let servers = self.layout.shape.servers;
        let at = row as usize * servers as usize + server as usize;
        self.statistics.get(at).filter(|_| server < servers)
    }

    /// The number of the shard that a hash chooses.
    pub fn shard_of(self, hash: u64) -> u32 {
        // The number of shards is a power of two.
        (hash >> 32) as u32 & (self.layout.shards - 1)
    }

    /// The shards as they are now, in order of their slots.
    pub fn shards(self) -> impl Iterator<Item = ClientShard<'t>> {
        (0..self.layout.shards).map(move |shard| self.shard(shard, self.client_slots(shard)))
    }

    /// Makes all locks orphaned whose owner is a row that is lost.
    pub fn reclaim_locks(self, is_lost: impl Fn(u32) -> bool) {
        let shards = self.shards().map(|shard| &shard.lock.lock);
        let servers = self.servers.iter().map(|server| &server.limits.0);
        let nets = self.net_shards.iter().map(|shard| &shard.lock.0.lock);
        shards.chain(servers).chain(nets).for_each(|lock| lock.reclaim(&is_lost));
    }

    /// The slots of a shard of clients; its number must be below the number of shards.
    pub fn client_slots(self, shard: u32) -> u32 {
        self.shard_states[shard as usize].lock.0.slots.load(Relaxed)
    }

    /// A shard with this many slots. The number comes from the memory, so it is limited to the
    /// valid range. `number` must be below the number of shards.
    #[inline(always)] // Runs at each arrival; as a call it takes a tenth of one.
    pub fn shard(self, shard: u32, slots: u32) -> ClientShard<'t> {
        let first = self.layout.first_slot(shard);
        let slots = slots.clamp(1, self.layout.slots_per_shard);
        let used = first as usize..(first + slots) as usize;
        let buckets = shard as usize * self.layout.buckets_per_shard as usize;
        let state = &self.shard_states[shard as usize];
        Shard {
            hash_key: self.hash_key,
            lock: &state.lock.0,
            used: &state.used,
            buckets: &self.buckets[buckets..][..slots.next_power_of_two() as usize],
            order: Lru {
                newest: &state.newest,
                oldest: &state.oldest,
                links: &self.lru[used.clone()],
            },
            entries: &self.entries[used],
            first,
        }
    }

    /// The number of the shard of nets that a hash chooses.
    pub fn net_shard_of(self, hash: u64) -> u32 {
        // The number of shards is a power of two.
        (hash >> 32) as u32 & (self.layout.net_shards - 1)
    }

    /// A shard of nets with this many slots. The number comes from the memory, so it is limited to
    /// the valid range. `shard` must be below the number of shards.
    #[inline(always)] // As for `shard`: as a call it copies the whole view.
    pub fn net_shard(self, shard: u32, slots: u32) -> NetsShard<'t> {
        let first = shard * self.layout.nets_per_shard;
        let slots = slots.clamp(1, self.layout.nets_per_shard);
        let used = first as usize..(first + slots) as usize;
        let buckets = shard as usize * self.layout.net_buckets_per_shard as usize;
        let state = &self.net_shards[shard as usize];
        Shard {
            hash_key: self.hash_key,
            lock: &state.lock.0,
            used: &state.used,
            buckets: &self.net_buckets[buckets..][..slots.next_power_of_two() as usize],
            order: self.clock(shard, slots),
            entries: &self.nets[used],
            first,
        }
    }
}

impl<'t> View<'t> {
    /// The clock of a shard of nets with this many slots; both must be valid.
    #[inline(always)]
    pub fn clock(self, shard: u32, slots: u32) -> Clock<'t> {
        let first = shard as usize * self.layout.net_bits_per_shard as usize;
        let bits = &self.net_bits[first..][..slots.div_ceil(SLOTS_OF_BITS) as usize];
        Clock { hand: &self.net_shards[shard as usize].hand, bits }
    }
}

impl ShardLock {
    /// Whether the shard has this many slots and no more are wanted. For the owner of the lock.
    pub fn has_size(&self, slots: u32) -> bool {
        self.slots.load(Relaxed) == slots && self.wanted.load(Relaxed) == slots
    }

    /// Applies the wanted number of slots and returns it. If the shard grew, also returns the
    /// former number of buckets: those above were never used, and the derived data must be rebuilt.
    /// For the owner of the lock.
    pub fn settle(&self) -> (u32, Option<usize>) {
        let (slots, wanted) = (self.slots.load(Relaxed), self.wanted.load(Relaxed));
        if wanted <= slots {
            return (slots, None);
        }
        self.slots.store(wanted, Relaxed);
        (wanted, Some(slots.max(1).checked_next_power_of_two().unwrap_or(u32::MAX) as usize))
    }
}

/// The memory of a table.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct Memory {
    mapping: crate::map::Mapping,
}

#[cfg(not(loom))]
impl Memory {
    /// All of it.
    #[cfg(any(test, feature = "spoil"))]
    pub fn words(&self) -> &[AtomicU32] {
        self.mapping.words()
    }

    pub fn new(layout: &Layout) -> Result<Memory, TableError> {
        Ok(Memory { mapping: crate::map::Mapping::new(layout.bytes)? })
    }

    /// The memory of a table that exists.
    pub fn adopt(layout: &Layout, memory: OwnedFd) -> Result<Memory, TableError> {
        Ok(Memory { mapping: crate::map::Mapping::adopt(memory, layout.bytes)? })
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.mapping.descriptor()
    }

    pub fn view<'t>(&'t self, layout: &'t Layout, hash_key: HashKey) -> View<'t> {
        View {
            layout,
            hash_key,
            globals: &self.mapping.slice(&layout.globals)[0],
            loads: self.mapping.slice(&layout.loads),
            servers: self.mapping.slice(&layout.servers),
            figures: self.mapping.slice(&layout.figures),
            statistics: self.mapping.slice(&layout.statistics),
            owners: self.mapping.slice(&layout.owners),
            shard_states: self.mapping.slice(&layout.shard_states),
            buckets: self.mapping.slice(&layout.buckets),
            lru: self.mapping.slice(&layout.lru),
            entries: self.mapping.slice(&layout.entries),
            holders: self.mapping.slice(&layout.holders),
            net_shards: self.mapping.slice(&layout.net_shard_states),
            net_buckets: self.mapping.slice(&layout.net_buckets),
            net_bits: self.mapping.slice(&layout.net_bits),
            nets: self.mapping.slice(&layout.nets),
        }
    }
}

/// The memory of a table whose atomics a model checker watches.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct Memory {
    globals: Globals,
    loads: Vec<Load>,
    servers: Vec<ServerState>,
    figures: Vec<Figures>,
    owners: Vec<AtomicU64>,
    shard_states: Vec<ShardState>,
    buckets: Vec<AtomicU32>,
    lru: Vec<LruLinks>,
    entries: Vec<StoredEntry>,
    holders: Vec<AtomicU32>,
    net_shards: Vec<NetShard>,
    net_buckets: Vec<AtomicU32>,
    net_bits: Vec<SlotBits>,
    nets: Vec<StoredNet>,
}

#[cfg(loom)]
impl Memory {
    pub fn new(layout: &Layout) -> Result<Memory, TableError> {
        fn zeroes<T: Default>(count: usize) -> Vec<T> {
            std::iter::repeat_with(T::default).take(count).collect()
        }
        Ok(Memory {
            globals: Globals::default(),
            loads: zeroes(layout.loads.count),
            servers: zeroes(layout.servers.count),
            figures: zeroes(layout.figures.count),
            owners: zeroes(layout.owners.count),
            shard_states: zeroes(layout.shard_states.count),
            buckets: zeroes(layout.buckets.count),
            lru: zeroes(layout.lru.count),
            entries: zeroes(layout.entries.count),
            holders: zeroes(layout.holders.count),
            net_shards: zeroes(layout.net_shard_states.count),
            net_buckets: zeroes(layout.net_buckets.count),
            net_bits: zeroes(layout.net_bits.count),
            nets: zeroes(layout.nets.count),
        })
    }

    pub fn view<'t>(&'t self, layout: &'t Layout, hash_key: HashKey) -> View<'t> {
        View {
            layout,
            hash_key,
            globals: &self.globals,
            loads: &self.loads,
            servers: &self.servers,
            figures: &self.figures,
            // No model has them: each has one writer, and nothing is decided by them.
            statistics: &[],
            owners: &self.owners,
            shard_states: &self.shard_states,
            buckets: &self.buckets,
            lru: &self.lru,
            entries: &self.entries,
            holders: &self.holders,
            net_shards: &self.net_shards,
            net_buckets: &self.net_buckets,
            net_bits: &self.net_bits,
            nets: &self.nets,
        }
    }
}
