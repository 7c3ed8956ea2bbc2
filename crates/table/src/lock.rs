//! The lock of a shard and of a server's limit: a futex word (futex(2)) that names its owner, so
//! that a dead owner's lock can be given on.
//!
//! The word: bits 0–15 the owner, worker + 1, or 0 = free; bit 30 ORPHANED: the owner died, what
//! the lock guards may be half-changed; bit 31 WAITERS: somebody may sleep. A dead worker's locks
//! become orphaned when the supervisor reclaims it; whoever gets such a lock owns it and repairs
//! first. (A robust pthread mutex would do the same, but its list of held locks is made of pointers
//! inside the shared memory, through which a hostile worker could write into its siblings.)
//!
//! Nobody waits for long: an owner that is stopped, or dead and not yet reclaimed, costs each other
//! worker [`WAIT`] once per [`DISTRUST`], and after that a lock that is known to be stuck is only
//! tried. The supervisor never takes a lock.
//!
//! Orderings: taking is Acquire, giving back and burying Release, so that an owner sees all that
//! its predecessors did.

use std::time::{Duration, Instant};

use crate::LockStuck;
use crate::layout::MAX_WORKERS;
use crate::sync::{Futex, Ordering::*, Patience};

/// The lock word. Zero is free.
#[repr(transparent)]
#[derive(Debug, Default)]
pub(crate) struct Lock(Futex);

/// In what state a lock was got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Taken {
    /// Given back by its last owner.
    Whole,
    /// Its last owner died.
    Orphaned,
}

/// The locks that one worker could not get lately.
#[derive(Debug, Default)]
pub(crate) struct StuckLocks(Vec<(LockId, Instant)>);

/// Which lock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LockId {
    Shard(u32),
    Limit(u32),
}

impl Lock {
    /// Takes the lock for a worker.
    ///
    /// # Errors
    /// Another one holds it and does not let go.
    pub fn take(
        &self,
        worker: u32,
        id: LockId,
        stuck: &mut StuckLocks,
    ) -> Result<Taken, LockStuck> {
        let me = worker + 1;
        if self.0.word.compare_exchange(0, me, Acquire, Relaxed).is_ok() {
            return Ok(Taken::Whole);
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
    pub fn give_back(&self, worker: u32) {
        self.leave(worker + 1, 0);
    }

    /// Makes the lock of a dead worker, if it is its, available as orphaned.
    pub fn reclaim(&self, worker: u32) {
        self.leave(worker + 1, ORPHANED);
    }

    /// Makes the lock, if it is in the name of a worker beyond `workers`, available as orphaned:
    /// there is no such worker.
    pub fn bury_impossible(&self, workers: u32) {
        let owner = self.0.word.load(Relaxed) & (OWNER | ORPHANED);
        if owner > workers && owner & ORPHANED == 0 {
            self.leave(owner, ORPHANED);
        }
    }

    /// Makes it the lock of somebody who died, whatever it was.
    #[cfg(all(test, not(loom)))]
    pub fn orphan(&self) {
        self.0.word.store(ORPHANED, Release);
    }

    /// Takes the lock if nobody living has it, and leaves `mark` on it; else says what the word
    /// was.
    fn attempt(&self, me: u32, mark: u32) -> Result<Taken, u32> {
        let seen = self.0.word.load(Relaxed);
        if held(seen) {
            return Err(seen);
        }
        self.0.word.compare_exchange(seen, me | (seen & WAITERS) | mark, Acquire, Relaxed)?;
        Ok(if seen & (OWNER | ORPHANED) == 0 { Taken::Whole } else { Taken::Orphaned })
    }

    fn wait(&self, me: u32) -> Result<Taken, LockStuck> {
        let patience = Patience::new(WAIT);
        while let Some(left) = patience.left() {
            // Only one sleeper is woken when the lock is given back, and the mark goes with it. So
            // whoever may have slept leaves the mark again when it takes the lock, for
            // those who sleep on.
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
        // It can change under its owner only by a waiter's mark, once; the bound is for what a
        // hostile worker may do.
        for _ in 0..LEAVE_TRIES {
            if seen & (OWNER | ORPHANED) != me {
                return;
            }
            // An orphan keeps the mark: its next owner wakes the next waiter.
            let left = if next == 0 { 0 } else { next | (seen & WAITERS) };
            match self.0.word.compare_exchange(seen, left, Release, Relaxed) {
                Ok(_) if seen & WAITERS != 0 => return self.0.wake(),
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

/// Whether a living worker has the lock. No worker has a number above the most that there can be,
/// so nobody will ever give such a lock back: it is as good as orphaned.
fn held(word: u32) -> bool {
    word & ORPHANED == 0 && (1..=MAX_WORKERS).contains(&(word & OWNER))
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

/// Looks before sleeping: about two microseconds, several times what an owner needs.
const SPINS: u32 = if cfg!(loom) { 0 } else { 50 };

/// How long a worker waits for a lock in all.
const WAIT: Duration = Duration::from_millis(5);

/// How long it sleeps at once: an owner may die between giving the lock back and waking a sleeper.
const SLICE: Duration = Duration::from_millis(1);

/// How long a lock that was not had is only tried.
const DISTRUST: Duration = Duration::from_millis(100);

const LEAVE_TRIES: u32 = 64;
