//! How many connections a net attempted within a time.
//!
//! The time is divided into sixteen slices. An entry counts the attempts of each: of the slice that
//! runs, and of the sixteen before it. Their sum has every attempt of the whole time, and those of
//! at most one slice before it. So a client never gets more than the rate within the time; and an
//! attempt is forgotten after the time and at most a sixteenth of it.
//!
//! With a time of another length, counting begins again: the old slices do not say when within them
//! an attempt was, and those of a day are longer than most times.
//!
//! Counting runs under the shard's lock. Without the lock, an attempt is only added to the slice
//! that runs.

use crate::parts::{SLICES, StoredNet};
use crate::sync::Ordering::*;

/// Slices that the time has.
const PARTS: u64 = SLICES as u64 - 1;

/// Milliseconds by which the clocks of workers may differ, because each reads it once for many
/// clients. A slice that begins later is one that a hostile worker wrote.
const SKEW: u64 = 60_000;

/// The number of the slice that runs at a time in milliseconds.
fn slice_at(now: u64, seconds: u32) -> u64 {
    let length = u64::from(seconds.max(1)) * 1000;
    match now.checked_mul(PARTS) {
        Some(parts) => parts / length,
        // No clock gets there.
        None => (u128::from(now) * u128::from(PARTS) / u128::from(length)) as u64,
    }
}

/// The place of a slice.
fn place(slice: u64) -> usize {
    (slice % SLICES as u64) as usize
}

impl StoredNet {
    /// Counts an attempt, and returns how many there were within `seconds`, with this one. Requires
    /// the lock.
    pub fn attempt(&self, now: u64, seconds: u32) -> u32 {
        let running = self.advance(now, seconds);
        self.add(running);
        self.sum()
    }

    /// Counts an attempt without the lock, if the slice that runs has begun in the entry. Returns
    /// how many there were.
    pub fn attempt_unlocked(&self, now: u64, seconds: u32) -> u32 {
        let running = self.slice.load(Relaxed);
        if running == slice_at(now, seconds) && self.seconds.load(Relaxed) == seconds {
            self.add(running);
        }
        self.attempts(now, seconds)
    }

    /// How many attempts there were within `seconds`; changes nothing.
    pub fn attempts(&self, now: u64, seconds: u32) -> u32 {
        if self.seconds.load(Relaxed) != seconds {
            return 0;
        }
        let (last, running) = (self.slice.load(Relaxed), slice_at(now, seconds));
        let from = running.saturating_sub(PARTS).max(last.saturating_sub(PARTS));
        if from > last {
            return 0;
        }
        (from..=last)
            .fold(0, |sum, slice| sum.saturating_add(self.attempts[place(slice)].load(Relaxed)))
    }

    /// Forgets all attempts.
    pub fn forget_attempts(&self) {
        if self.seconds.load(Relaxed) != 0 {
            self.seconds.store(0, Relaxed);
            self.attempts.iter().for_each(|attempts| attempts.store(0, Relaxed));
        }
    }

    /// Begins the slice that runs, and returns it. Slices that are over for long are emptied first:
    /// if the worker dies in between, nothing is lost that still counts.
    fn advance(&self, now: u64, seconds: u32) -> u64 {
        let running = slice_at(now, seconds);
        if self.seconds.load(Relaxed) != seconds {
            self.forget_attempts();
            self.slice.store(running, Relaxed);
            self.seconds.store(seconds, Relaxed);
        }
        let last = self.slice.load(Relaxed);
        if last > running {
            if last <= slice_at(now.saturating_add(SKEW), seconds) {
                return last;
            }
            // Everything is emptied.
            self.empty(0, PARTS);
        } else if last < running {
            self.empty(last.saturating_add(1).max(running.saturating_sub(PARTS)), running);
        }
        if last != running {
            self.slice.store(running, Relaxed);
        }
        running
    }

    fn empty(&self, from: u64, to: u64) {
        (from..=to).for_each(|slice| self.attempts[place(slice)].store(0, Relaxed));
    }

    fn add(&self, slice: u64) {
        let attempts = &self.attempts[place(slice)];
        // Far above every limit.
        if attempts.load(Relaxed) < u32::MAX / 2 {
            attempts.fetch_add(1, Relaxed);
        }
    }

    /// All attempts that the entry has. Those of slices that are over for long are 0 by now.
    fn sum(&self) -> u32 {
        self.attempts.iter().fold(0, |sum, slice| sum.saturating_add(slice.load(Relaxed)))
    }
}
