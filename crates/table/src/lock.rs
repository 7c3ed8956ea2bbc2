//! The lock of a shard and of a server's limit: a futex word (futex(2)) that names its owner, so
//! that the lock of a dead owner can be passed on.
//!
//! The word: bits 0–15 the owner, row + 1, or 0 = free; bits 16–29 which of its turns this is, so
//! that each turn has another word; bit 30 ORPHANED: the owner died, and the protected data may be
//! half-changed; bit 31 WAITERS: a worker may sleep. When the supervisor
//! reclaims a dead worker, that worker's locks become orphaned. The worker that takes an orphaned
//! lock owns it and repairs the data first. (A robust pthread mutex would do the same. But its list
//! of held locks consists of pointers inside the shared memory, through which a hostile worker
//! could write into its siblings.)
//!
//! No worker waits for long. A turn needs microseconds. But on a loaded machine its owner may have
//! to wait for a processor in the middle of it, while others run for their time slices. That is no
//! fault, so a turn is stuck only after [`WAIT`]: many slices. An owner that is stopped, or dead
//! and not yet reclaimed, costs each other worker one [`WAIT`]. After that, the lock is only tried
//! until this turn is over. A hostile owner can show another turn each time. So a worker that
//! waited in vain [`VAIN_WAITS`] times within [`DISTRUST`] does not wait at all until that is over.
//! The supervisor never takes a lock.
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
pub(crate) struct StuckLocks {
    vain: Vec<VainWait>,
    /// How many locks it has taken, for the words of its turns.
    turns: u32,
}

/// A wait after which the lock still was not there.
#[derive(Debug)]
struct VainWait {
    id: LockId,
    turn: Turn,
    /// Until when it counts.
    until: Instant,
}

/// The time from taking a lock to giving it back: its owner and the number of the turn, as in the
/// word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Turn(u32);

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
        let me = stuck.next_turn(row);
        if self.0.word.compare_exchange(0, me, Acquire, Relaxed).is_ok() {
            return Ok(LockTaken::Whole);
        }
        for _ in 0..=SPINS {
            match self.attempt(me, 0) {
                Ok(taken) => return Ok(taken),
                Err(_) => std::hint::spin_loop(),
            }
        }
        if !stuck.is_worth_a_wait(id, self.turn()) {
            return Err(LockStuck);
        }
        self.wait(me).map_err(|turn| {
            stuck.insert(id, turn);
            LockStuck
        })
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

    /// # Errors
    /// The turn that lasts too long.
    fn wait(&self, me: u32) -> Result<LockTaken, Turn> {
        let longest = Patience::new(LONGEST);
        let (mut turn, mut patience) = (self.turn(), Patience::new(WAIT));
        while let (Some(left), Some(_)) = (patience.left(), longest.left()) {
            // A release wakes only one sleeper and removes the mark. So a worker that may have
            // slept sets the mark again when it takes the lock, for the workers that still sleep.
            match self.attempt(me, WAITERS) {
                Ok(taken) => return Ok(taken),
                // Its owner goes on: somebody was faster.
                Err(seen) if held(seen) && Turn::of(seen) != turn => {
                    (turn, patience) = (Turn::of(seen), Patience::new(WAIT));
                }
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
        self.attempt(me, WAITERS).map_err(Turn::of)
    }

    fn turn(&self) -> Turn {
        Turn::of(self.0.word.load(Relaxed))
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

impl Turn {
    fn of(word: u32) -> Turn {
        Turn(word & (OWNER | TURN))
    }
}

impl StuckLocks {
    /// The word of this worker's next turn.
    fn next_turn(&mut self, row: u32) -> u32 {
        self.turns = self.turns.wrapping_add(1);
        self.turns << TURN.trailing_zeros() & TURN | (row + 1)
    }

    /// Whether to wait for a lock: not for a turn that was waited for in vain, and not if there
    /// were too many such waits.
    fn is_worth_a_wait(&mut self, id: LockId, turn: Turn) -> bool {
        if self.vain.is_empty() {
            return true;
        }
        let now = Instant::now();
        self.vain.retain(|vain| vain.until > now);
        if let Some(vain) = self.vain.iter_mut().find(|vain| vain.id == id && vain.turn == turn) {
            vain.until = now + DISTRUST;
            return false;
        }
        self.vain.len() < VAIN_WAITS
    }

    fn insert(&mut self, id: LockId, turn: Turn) {
        self.vain.push(VainWait { id, turn, until: Instant::now() + DISTRUST });
    }
}

const OWNER: u32 = 0xffff;
const TURN: u32 = 0x3fff_0000;
const ORPHANED: u32 = 1 << 30;
const WAITERS: u32 = 1 << 31;

/// Spins before sleeping: about two microseconds, several times what an owner needs.
const SPINS: u32 = if cfg!(loom) { 0 } else { 50 };

/// How long a worker waits for one turn to end: several time slices of each of many processes.
const WAIT: Duration = Duration::from_millis(50);

/// How long it waits for a lock whose turns go on.
const LONGEST: Duration = Duration::from_millis(100);

/// The longest single sleep: an owner may die between giving the lock back and waking a sleeper.
const SLICE: Duration = Duration::from_millis(1);

/// How long a vain wait counts.
const DISTRUST: Duration = Duration::from_secs(1);

/// So many vain waits are too many. A worker spends at most a fifth of its time in them.
const VAIN_WAITS: usize = 2;

const LEAVE_TRIES: u32 = 64;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ID: LockId = LockId::Shard(0);

    /// Takes the lock while its owner has no processor for so long. The table cannot tell that from
    /// an owner that works.
    fn take_beside_an_owner_without_processor(time: Duration) -> Result<LockTaken, LockStuck> {
        let lock = TableLock::default();
        assert_eq!(lock.take(0, ID, &mut StuckLocks::default()), Ok(LockTaken::Whole));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::park_timeout(time);
                lock.give_back(0);
            });
            lock.take(1, ID, &mut StuckLocks::default())
        })
    }

    #[test]
    fn an_owner_that_waits_for_a_processor_is_waited_for() {
        let time = Duration::from_millis(15);
        // The machine of the test may make the owner wait for longer.
        let waited = (0..20).any(|_| take_beside_an_owner_without_processor(time).is_ok());
        assert!(waited);
    }

    #[test]
    fn after_a_vain_wait_the_next_turn_is_waited_for() {
        let (lock, mut stuck) = (TableLock::default(), StuckLocks::default());
        let mut owner = StuckLocks::default();
        lock.take(0, ID, &mut owner).unwrap();
        assert_eq!(lock.take(1, ID, &mut stuck), Err(LockStuck));
        assert!(!stuck.is_worth_a_wait(ID, lock.turn()), "the turn is known");
        lock.give_back(0);
        lock.take(0, ID, &mut owner).unwrap();
        assert!(stuck.is_worth_a_wait(ID, lock.turn()));
    }

    #[test]
    fn other_turns_at_every_look_cost_only_so_many_waits() {
        let (mut stuck, mut hostile) = (StuckLocks::default(), StuckLocks::default());
        for _ in 0..VAIN_WAITS {
            let turn = Turn::of(hostile.next_turn(0));
            assert!(stuck.is_worth_a_wait(ID, turn));
            stuck.insert(ID, turn);
        }
        assert!(!stuck.is_worth_a_wait(LockId::Nets(3), Turn::of(hostile.next_turn(0))));
        stuck.vain.iter_mut().for_each(|vain| vain.until -= DISTRUST);
        assert!(stuck.is_worth_a_wait(ID, Turn::of(hostile.next_turn(0))));
    }
}
