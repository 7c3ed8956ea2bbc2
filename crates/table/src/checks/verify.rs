//! Checks the invariants of a shard that is not locked.

use std::collections::HashSet;

use crate::chained::Entry;
use crate::sync::Ordering::*;
use crate::view::{ClientShard, Lru, NetsShard, Shard, View};

/// Panics unless every shard is consistent.
pub(crate) fn verify(view: View<'_>) {
    view.shards().for_each(|shard| verify_list(shard, &verify_chains(shard)));
    for number in 0..view.layout.net_shards {
        let slots = view.net_shards[number as usize].lock.0.slots.load(Relaxed);
        let shard = view.net_shard(number, slots);
        verify_chains(shard);
        verify_busy(shard);
    }
}

/// Returns the slots that hold something.
fn verify_chains<E: Entry, O: Copy>(shard: Shard<'_, E, O>) -> HashSet<u32> {
    let whole: HashSet<u32> =
        (0..shard.used()).filter(|slot| shard.entries[*slot as usize].is_whole()).collect();
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
    whole
}

/// Every used slot is once in the list, from both ends; the newest is first, the empty ones are
/// last.
fn verify_list(shard: ClientShard<'_>, whole: &HashSet<u32>) {
    let Lru { newest, oldest, links } = shard.order;
    let forth = list(shard, newest.load(Relaxed), |slot| links[slot].older.load(Relaxed));
    let mut back = list(shard, oldest.load(Relaxed), |slot| links[slot].newer.load(Relaxed));
    back.reverse();
    assert_eq!(forth, back);
    assert_eq!(forth.iter().collect::<HashSet<_>>().len(), forth.len());
    assert_eq!(forth.len() as u32, shard.used());
    let seconds: Vec<Option<u64>> = forth
        .iter()
        .map(|slot| whole.contains(slot).then(|| shard.entries[*slot as usize].last_use() / 1000))
        .collect();
    assert!(
        seconds.is_sorted_by(|newer, older| newer >= older),
        "not in order of use: {seconds:?}"
    );
}

/// The slots with the bit *busy* are those that were marked, and these have connections.
fn verify_busy(shard: NetsShard<'_>) {
    for (slot, entry) in (0u32..).zip(shard.entries) {
        let open = entry.open();
        let is_busy = slot < shard.used() && open.is_busy();
        assert_eq!(shard.order.is_busy(slot), is_busy, "slot {slot}");
        assert!(!is_busy || open.count() > 0, "slot {slot}");
    }
}

fn list(shard: ClientShard<'_>, mut link: u32, next: impl Fn(usize) -> u32) -> Vec<u32> {
    let mut slots = Vec::new();
    while link != 0 {
        assert!(slots.len() < shard.entries.len(), "an endless list");
        slots.push(link - 1);
        link = next(link as usize - 1);
    }
    slots
}
