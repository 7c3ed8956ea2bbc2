//! The lock of a shard and of a server's limit: a futex word (futex(2)) that names its owner, so
//! that the lock of a dead owner can be passed on.
//!
//! The word: bits 0–15 the owner, row + 1, or 0 = free; bit 30 ORPHANED: the owner died, and the
//! protected data may be half-changed; bit 31 WAITERS: a worker may sleep. When the supervisor
//! reclaims a dead worker, that worker's locks become orphaned. The worker that takes an orphaned
//! lock owns it and repairs the data first. (A robust pthread mutex would do the same. But its list
//! of held locks consists of pointers inside the shared memory, through which a hostile worker
//! could write into its siblings.)
//!
//! No worker waits for long. An owner that is stopped, or dead and not yet reclaimed, costs each
//! other worker [`WAIT`] once per [`DISTRUST`]. After that, a lock that is known to be stuck is
//! only tried. The supervisor never takes a lock.
//!
//! Orderings: taking is Acquire, giving back and reclaiming are Release, so that an owner sees all
//! writes of its predecessors.

use std::time::{Duration, Instant};

use crate::shape::MAX_ROWS;
use crate::sync::{Futex, Ordering::*, Patience};

/// The lock word. Zero is free.
#[repr(transparent)]
#[derive(Debug, Default)]
pub(crate) struct TableLock(Futex);

/// The state of a lock when it was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LockTaken {
    /// Its last owner gave it back.
    Whole,
    /// Its last owner died.
    Orphaned,
}

/// The lock was not available in time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LockStuck;

/// The locks that one worker recently could not take.
#[derive(Debug, Default)]
pub(crate) struct StuckLocks(Vec<(LockId, Instant)>);

/// The lock of a shard of clients, of a server, or of a shard of nets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LockId {
    Shard(u32),
    Limit(u32),
    Nets(u32),
}

impl TableLock {
    /// Takes the lock for the worker that has a row.
    ///
    /// # Errors
    /// Another worker holds it and does not release it.
    pub fn take(
        &self,
        row: u32,
        id: LockId,
        stuck: &mut StuckLocks,
    ) -> Result<LockTaken, LockStuck> {
        let me = row + 1;
        if self.0.word.compare_exchange(0, me, Acquire, Relaxed).is_ok() {
            return Ok(LockTaken::Whole);
        }
        if let Ok(taken) = self.attempt(me, 0) {
            return Ok(taken);
        }
        if stuck.contains(id) {
            return Err(LockStuck);
        }
        for _ in 0..SPINS {
            std::hint::spin_loop();
            if let Ok(taken) = self.attempt(me, 0) {
                return Ok(taken);
            }
        }
        self.wait(me).inspect_err(|LockStuck| stuck.insert(id))
    }

    /// Gives the lock back, if this worker still owns it.
    pub fn give_back(&self, row: u32) {
        self.leave(row + 1, 0);
    }

    /// Makes the lock orphaned if its owner is a row that is lost: one without a process, or one
    /// that does not exist.
    pub fn reclaim(&self, is_lost: impl Fn(u32) -> bool) {
        let word = self.0.word.load(Relaxed);
        if word & ORPHANED == 0
            && let Some(row) = (word & OWNER).checked_sub(1)
            && is_lost(row)
        {
            self.leave(row + 1, ORPHANED);
        }
    }

    /// Gives the lock to a row, whatever its state was.
    #[cfg(all(test, not(loom)))]
    pub fn own(&self, row: u32) {
        self.0.word.store(row + 1, Release);
    }

    /// Makes the lock orphaned, whatever its state was.
    #[cfg(all(test, not(loom)))]
    pub fn orphan(&self) {
        self.0.word.store(ORPHANED, Release);
    }

    /// Takes the lock if no living worker has it, and sets `mark` on it; otherwise returns the
    /// word.
    fn attempt(&self, me: u32, mark: u32) -> Result<LockTaken, u32> {
        let seen = self.0.word.load(Relaxed);
        if held(seen) {
            return Err(seen);
        }
        self.0.word.compare_exchange(seen, me | (seen & WAITERS) | mark, Acquire, Relaxed)?;
        Ok(if seen & (OWNER | ORPHANED) == 0 { LockTaken::Whole } else { LockTaken::Orphaned })
    }

    fn wait(&self, me: u32) -> Result<LockTaken, LockStuck> {
        let patience = Patience::new(WAIT);
        while let Some(left) = patience.left() {
            // A release wakes only one sleeper and removes the mark. So a worker that may have
            // slept sets the mark again when it takes the lock, for the workers that still sleep.
            match self.attempt(me, WAITERS) {
                Ok(taken) => return Ok(taken),
                Err(seen) if held(seen) => {
                    let marked = seen | WAITERS;
                    if seen == marked
                        || self.0.word.compare_exchange(seen, marked, Relaxed, Relaxed).is_ok()
                    {
                        self.0.wait(marked, left.min(SLICE));
                    }
                }
                Err(_) => {}
            }
        }
        self.attempt(me, WAITERS).map_err(|_| LockStuck)
    }

    /// Replaces the owner `me` by `next` and wakes a waiter.
    fn leave(&self, me: u32, next: u32) {
        let mut seen = self.0.word.load(Relaxed);
        // Only a waiter's mark can change the word under its owner, once. The bound is for a
        // hostile worker.
        for _ in 0..LEAVE_TRIES {
            if seen & (OWNER | ORPHANED) != me {
                return;
            }
            // An orphaned lock keeps the mark: its next owner wakes the next waiter.
            let left = if next == 0 { 0 } else { next | (seen & WAITERS) };
            match self.0.word.compare_exchange(seen, left, Release, Relaxed) {
                Ok(_) if seen & WAITERS != 0 => return self.0.wake(),
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

/// Whether a living worker has the lock. A lock with an owner above the maximum would never be
/// given back, so it counts as orphaned.
fn held(word: u32) -> bool {
    word & ORPHANED == 0 && (1..=MAX_ROWS).contains(&(word & OWNER))
}

impl StuckLocks {
    fn contains(&mut self, id: LockId) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let now = Instant::now();
        self.0.retain(|(_, until)| *until > now);
        self.0.iter().any(|(stuck, _)| *stuck == id)
    }

    fn insert(&mut self, id: LockId) {
        self.0.push((id, Instant::now() + DISTRUST));
    }
}

const OWNER: u32 = 0xffff;
const ORPHANED: u32 = 1 << 30;
const WAITERS: u32 = 1 << 31;

/// Spins before sleeping: about two microseconds, several times what an owner needs.
const SPINS: u32 = if cfg!(loom) { 0 } else { 50 };

/// The total time that a worker waits for a lock.
const WAIT: Duration = Duration::from_millis(5);

/// The longest single sleep: an owner may die between giving the lock back and waking a sleeper.
const SLICE: Duration = Duration::from_millis(1);

/// How long a lock that could not be taken is only tried.
const DISTRUST: Duration = Duration::from_millis(100);

const LEAVE_TRIES: u32 = 64;
