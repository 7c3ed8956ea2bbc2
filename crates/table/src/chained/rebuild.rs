//! Rebuilds a shard's derived data from its entries. This is needed after a worker died while it
//! held the lock, when the table has grown, and when links contradict each other. It runs in the
//! worker that holds the lock. A worker that dies here leaves the lock orphaned again, and the next
//! one starts from the beginning.
//!
//! Every whole entry is kept, in the order of last use. Other slots stay in the list as the oldest,
//! to be reused next. Only a hostile worker can make entries that contradict each other; then the
//! most recently used entry of a key is kept.
//!
//! Measured: 2048 entries in 0.1 ms, a full shard of 65536 in about 5 ms.

use std::cmp::Reverse;

use crate::chained::{CHAIN_MAX, Corrupt, Entry};
use crate::sync::Ordering::*;
use crate::view::Shard;

impl<E: Entry> Shard<'_, E> {
    /// Rebuilds the chains and the LRU list. Returns the number of entries kept.
    pub fn rebuild(self) -> u32 {
        self.rebuild_grown(self.buckets.len())
    }

    /// Rebuilds a shard in which only the first `buckets` buckets were ever used. The others are
    /// not read, because that would allocate memory.
    pub fn rebuild_grown(self, buckets: usize) -> u32 {
        for bucket in self.buckets.iter().take(buckets).filter(|bucket| bucket.load(Relaxed) != 0) {
            bucket.store(0, Relaxed);
        }
        let used = &self.entries[..self.used() as usize];
        let (mut whole, mut empty) = (Vec::new(), Vec::new());
        for (slot, entry) in (0u32..).zip(used) {
            match entry.is_whole() {
                true => whole.push((entry.last_use(), slot)),
                false => empty.push(slot),
            }
        }
        whole.sort_unstable_by_key(|(last_use, slot)| (Reverse(*last_use), *slot));
        whole.retain(|(_, slot)| {
            let entry = &used[*slot as usize];
            let kept = self.chain_anew(*slot, entry).is_ok();
            if !kept {
                entry.clear();
                empty.push(*slot);
            }
            kept
        });
        self.list_anew(whole.iter().map(|(_, slot)| *slot).chain(empty));
        whole.len() as u32
    }

    /// Puts a whole entry in its chain, unless its key is there already or the chain is longer
    /// than the hash can make it.
    fn chain_anew(self, slot: u32, entry: &E) -> Result<(), Corrupt> {
        let key = self.hash_key.of_words(entry.key());
        let mut length = 0;
        for link in self.chain(self.bucket(key.hash)?) {
            if link?.1.key() == key.words {
                return Err(Corrupt);
            }
            length += 1;
        }
        if length == CHAIN_MAX {
            return Err(Corrupt);
        }
        self.chain_push(key.hash, slot)
    }

    /// Links slots to the LRU list, the newest first.
    fn list_anew(self, slots: impl Iterator<Item = u32>) {
        let mut newer = 0;
        // The link that will lead to the next slot.
        let mut end = &self.state.newest;
        for slot in slots {
            let links = &self.lru[slot as usize];
            links.newer.store(newer, Relaxed);
            end.store(slot + 1, Relaxed);
            end = &links.older;
            newer = slot + 1;
        }
        end.store(0, Relaxed);
        self.state.oldest.store(newer, Relaxed);
    }
}
