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
//! A turn needs microseconds. But on a loaded machine its owner may have to wait for a processor in
//! the middle of it, while others run for their time slices. That is no fault, so a turn is stuck
//! only after [`WAIT`]: many slices. An owner that is stopped, or dead and not yet reclaimed, costs
//! each other worker one [`WAIT`] for each lock that it has. After that, the lock is only tried
//! until this turn is over. A hostile owner can show another turn each time, or give the lock back
//! just in time. So a worker waits no longer than [`BUDGET`] in each [`PERIOD`], in vain or not.
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

/// What one worker knows of locks that it could not take, and how long it waited.
#[derive(Debug, Default)]
pub(crate) struct StuckLocks {
    /// The last ones, the oldest first.
    stuck: Vec<StuckTurn>,
    /// When the present period began, and how long this worker has waited in it.
    period: Option<(Instant, Duration)>,
    /// How many locks it has taken, for the words of its turns.
    turns: u32,
}

/// A turn that lasts too long.
#[derive(Debug)]
struct StuckTurn {
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
        let most = stuck.patience(id, self.turn());
        if most.is_zero() {
            return Err(LockStuck);
        }
        let begun = Instant::now();
        let taken = self.wait(me, most);
        stuck.spend(begun.elapsed());
        taken.map_err(|turn| {
            turn.into_iter().for_each(|turn| stuck.insert(id, turn));
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
    /// The turn that lasts too long; `None` if the turns go on, but the time `most` is over.
    fn wait(&self, me: u32, most: Duration) -> Result<LockTaken, Option<Turn>> {
        let longest = Patience::new(most);
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
        let is_stuck = |now| patience.left().is_none() && Turn::of(now) == turn;
        self.attempt(me, WAITERS).map_err(|now| is_stuck(now).then_some(turn))
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

    /// How long to wait for a lock: not at all for a turn that is known to last too long, and not
    /// longer than the period allows.
    fn patience(&mut self, id: LockId, turn: Turn) -> Duration {
        if cfg!(loom) {
            return LONGEST;
        }
        let now = Instant::now();
        self.stuck.retain(|stuck| stuck.until > now);
        let known = self.stuck.iter_mut().find(|stuck| stuck.id == id && stuck.turn == turn);
        if let Some(stuck) = known {
            stuck.until = now + PERIOD;
            return Duration::ZERO;
        }
        if self.period.is_none_or(|(begun, _)| now.duration_since(begun) >= PERIOD) {
            self.period = Some((now, Duration::ZERO));
        }
        let waited = self.period.map_or(Duration::ZERO, |(_, waited)| waited);
        BUDGET.saturating_sub(waited).min(LONGEST)
    }

    /// Notes a wait. Short ones do not count: they are part of a busy lock.
    fn spend(&mut self, time: Duration) {
        if let Some((_, waited)) = &mut self.period
            && time > SLICE
        {
            *waited += time;
        }
    }

    fn insert(&mut self, id: LockId, turn: Turn) {
        if self.stuck.len() == MOST_STUCK {
            self.stuck.remove(0);
        }
        self.stuck.push(StuckTurn { id, turn, until: Instant::now() + PERIOD });
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
/// Only longer waits count for the budget.
const SLICE: Duration = Duration::from_millis(1);

/// How long a worker waits in a [`PERIOD`], for all locks together.
const BUDGET: Duration = Duration::from_millis(200);

/// The period of the budget, and how long a stuck turn is known without a look at it.
const PERIOD: Duration = Duration::from_secs(1);

/// So many stuck turns are known at most. More need a hostile worker, and cost it nothing.
const MOST_STUCK: usize = 64;

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
        assert!(stuck.patience(ID, lock.turn()).is_zero(), "the turn is known");
        lock.give_back(0);
        lock.take(0, ID, &mut owner).unwrap();
        assert!(!stuck.patience(ID, lock.turn()).is_zero());
    }

    #[test]
    fn waits_for_one_stuck_owner_do_not_end_those_for_others() {
        let (mut stuck, mut owner) = (StuckLocks::default(), StuckLocks::default());
        let locks: [TableLock; 4] = Default::default();
        let ids = [0, 1, 2, 3].map(LockId::Limit);
        for (lock, id) in locks.iter().zip(ids) {
            lock.take(0, id, &mut owner).unwrap();
            stuck.insert(id, lock.turn());
        }
        assert!(locks.iter().zip(ids).all(|(lock, id)| stuck.patience(id, lock.turn()).is_zero()));
        assert_eq!(stuck.patience(ID, locks[0].turn()), LONGEST);
    }

    #[test]
    fn other_turns_and_late_returns_cost_no_more_than_the_budget() {
        let mut stuck = StuckLocks::default();
        let mut hostile = StuckLocks::default();
        let mut waited = Duration::ZERO;
        for number in 0..100 {
            let turn = Turn::of(hostile.next_turn(0));
            let most = stuck.patience(LockId::Nets(number), turn).min(Duration::from_millis(95));
            stuck.spend(most);
            waited += most;
        }
        assert_eq!(waited, BUDGET);
        // Short waits of a busy lock do not count.
        stuck.period = None;
        for _ in 0..1000 {
            assert_eq!(stuck.patience(ID, Turn(0)), LONGEST);
            stuck.spend(SLICE);
        }
    }

    #[test]
    fn turns_that_go_on_are_not_stuck() {
        let (lock, mut owner) = (TableLock::default(), StuckLocks::default());
        lock.take(0, ID, &mut owner).unwrap();
        assert_eq!(lock.wait(2, Duration::from_millis(1)), Err(None), "less than a wait");
        assert_eq!(lock.wait(2, LONGEST), Err(Some(lock.turn())));
    }
}
