//! Which net makes room for a new one: the clock algorithm with a second chance (Corbato, "A paging
//! experiment with the Multics system", 1968).
//!
//! Each slot has two bits. *Recent*: its net had an attempt since the hand passed. *Busy*: the hand
//! found that connections of its net are open. The hand goes round the slots, 64 at a step, and
//! looks for one that has neither bit. It takes the bit *recent* of those that it passes. So a net
//! with an attempt in each round is never the one that makes room.
//!
//! Where the hand stops, the net may have connections. Then the hand marks it as busy, and goes on.
//! It stays so until its last connection ends. So many nets with connections are looked at once,
//! and then passed in a few steps. A net to which the hand never comes costs nothing.
//!
//! The mark is in the entry's word with the count of connections, so whoever ends the last one
//! knows that it must take the bit *busy*. A worker that dies before that leaves the bit until the
//! recount.

use crate::parts::{SLOTS_OF_BITS, SlotBits, StoredNet};
use crate::sync::Ordering::*;
use crate::view::Clock;

impl<'t> Clock<'t> {
    /// Whether a slot has the bit *busy*.
    pub fn is_busy(self, slot: u32) -> bool {
        let (bits, bit) = self.bits_of(slot);
        bits.busy.load(Relaxed) & bit != 0
    }

    /// Takes the bit *busy* of a slot: its net's last connection has ended.
    pub fn rest(self, slot: u32) {
        let (bits, bit) = self.bits_of(slot);
        bits.busy.fetch_and(!bit, AcqRel);
    }

    /// Notes an attempt of a slot's net. Requires the lock.
    pub fn touch(self, slot: u32) {
        let (bits, bit) = self.bits_of(slot);
        let recent = bits.recent.load(Relaxed);
        if recent & bit == 0 {
            bits.recent.store(recent | bit, Relaxed);
        }
    }

    /// Moves the hand to the next slot that has neither bit, of those that were handed out; none:
    /// all are busy. Requires the lock.
    pub fn advance(self, used: u32) -> Option<u32> {
        let words = used.div_ceil(SLOTS_OF_BITS);
        let start = self.hand.load(Relaxed).checked_rem(used)?;
        // The first word is looked at three times: from the hand on, whole, and whole again.
        for step in 0..=2 * words {
            let at = (start / SLOTS_OF_BITS + step) % words;
            let from = if step == 0 { start % SLOTS_OF_BITS } else { 0 };
            let bits = self.bits.get(at as usize)?;
            let looked_at = handed_out(at, used) & u64::MAX << from;
            let recent = bits.recent.load(Relaxed);
            let free = looked_at & !recent & !bits.busy.load(Acquire);
            // All, or those below the first that is free.
            let passed = looked_at & (free & free.wrapping_neg()).wrapping_sub(1);
            if recent & passed != 0 {
                bits.recent.store(recent & !passed, Relaxed);
            }
            if free != 0 {
                let slot = at * SLOTS_OF_BITS + free.trailing_zeros();
                self.hand.store(slot + 1, Relaxed);
                return Some(slot);
            }
        }
        None
    }

    /// Marks a slot as busy if its net has connections, and not otherwise. Requires the lock.
    pub fn mark(self, slot: u32, entry: &StoredNet) {
        let (bits, bit) = self.bits_of(slot);
        if entry.mark() {
            bits.busy.fetch_or(bit, AcqRel);
        }
        // The last connection may have ended meanwhile. Whoever ended it took the bit either after
        // it was set here, or before, and then this sees the end.
        if !entry.open().is_busy() && self.is_busy(slot) {
            self.rest(slot);
        }
    }

    /// Puts the mark of a slot right. Requires the lock.
    pub fn mend(self, slot: u32, entry: &StoredNet) {
        if entry.open().is_busy() || self.is_busy(slot) {
            self.mark(slot, entry);
        }
    }

    /// Takes the bit *busy* of all slots that were not handed out: only a hostile worker sets it.
    /// Requires the lock.
    pub fn mend_unused(self, used: u32) {
        for (word, bits) in (0u32..).zip(self.bits).skip((used / SLOTS_OF_BITS) as usize) {
            let used = handed_out(word, used);
            if bits.busy.load(Relaxed) & !used != 0 {
                bits.busy.fetch_and(used, AcqRel);
            }
        }
    }

    fn bits_of(self, slot: u32) -> (&'t SlotBits, u64) {
        (&self.bits[(slot / SLOTS_OF_BITS) as usize], 1 << (slot % SLOTS_OF_BITS))
    }
}

/// The bits of a word whose slots were handed out.
fn handed_out(word: u32, used: u32) -> u64 {
    match used.saturating_sub(word * SLOTS_OF_BITS) {
        some @ 0..SLOTS_OF_BITS => (1 << some) - 1,
        SLOTS_OF_BITS.. => u64::MAX,
    }
}
