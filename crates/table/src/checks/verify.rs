//! Checks the invariants of a shard that is not locked.

use std::collections::HashSet;

use crate::chained::Entry;
use crate::sync::Ordering::*;
use crate::view::{Shard, View};

/// Panics unless every shard is consistent.
pub(crate) fn verify(view: View<'_>) {
    view.shards().for_each(verify_shard);
    for number in 0..view.layout.net_shards {
        let slots = view.net_shards[number as usize].state.lock.0.slots.load(Relaxed);
        verify_shard(view.net_shard(number, slots));
    }
}

fn verify_shard<E: Entry>(shard: Shard<'_, E>) {
    let used = shard.used();
    let whole: HashSet<u32> =
        (0..used).filter(|slot| shard.entries[*slot as usize].is_whole()).collect();
    let keys: HashSet<[u64; 2]> =
        whole.iter().map(|slot| shard.entries[*slot as usize].key()).collect();
    assert_eq!(keys.len(), whole.len(), "two entries of one client");

    // Every whole entry is in exactly one chain, the chain where a lookup searches. No chain holds
    // anything else.
    let mut chained = HashSet::new();
    for head in shard.buckets {
        for step in shard.chain(head) {
            let (slot, entry) = step.unwrap();
            assert!(chained.insert(slot), "slot {slot} twice in the chains");
            let home = shard.bucket(shard.hash_key.of_words(entry.key()).hash).unwrap();
            assert!(std::ptr::eq(home, head), "slot {slot} in a foreign chain");
        }
    }
    assert_eq!(chained, whole);

    // Every used slot is once in the list, from both ends; the newest is first, the empty ones are
    // last.
    let forth =
        list(shard, shard.state.newest.load(Relaxed), |slot| shard.lru[slot].older.load(Relaxed));
    let mut back =
        list(shard, shard.state.oldest.load(Relaxed), |slot| shard.lru[slot].newer.load(Relaxed));
    back.reverse();
    assert_eq!(forth, back);
    assert_eq!(forth.iter().collect::<HashSet<_>>().len(), forth.len());
    assert_eq!(forth.len() as u32, used);
    let seconds: Vec<Option<u64>> = forth
        .iter()
        .map(|slot| whole.contains(slot).then(|| shard.entries[*slot as usize].last_use() / 1000))
        .collect();
    assert!(
        seconds.is_sorted_by(|newer, older| newer >= older),
        "not in order of use: {seconds:?}"
    );
}

fn list<E>(shard: Shard<'_, E>, mut link: u32, next: impl Fn(usize) -> u32) -> Vec<u32> {
    let mut slots = Vec::new();
    while link != 0 {
        assert!(slots.len() < shard.entries.len(), "an endless list");
        slots.push(link - 1);
        link = next(link as usize - 1);
    }
    slots
}
