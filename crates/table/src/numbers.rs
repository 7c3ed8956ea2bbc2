//! Connection numbers, which are also the slots under `-x`: an array of owner bytes, eight to a
//! word. A byte holds the row of the worker that has the connection + 1, or 0.
//!
//! There is no separate count that could be wrong. One compare-and-swap takes a slot and another
//! gives it back. So a worker that dies leaves each of its slots either free, or taken in the name
//! of its row; the reclaim frees the latter.
//!
//! Waiting: a worker that finds no free slot sets its row's bit in `waiting` and tries once more. A
//! worker that frees a slot loads `waiting` afterwards. Both sides have a SeqCst fence between the
//! write and the load. So at least one of them sees the other's write, and no wake-up is lost. Only
//! the worker itself (or its reclaim) clears its bit, not the worker that wakes it. So if a worker
//! dies between freeing and waking, the supervisor still sees the bit.

use crate::parts::WAITING_WORDS;
use crate::shape::MAX_ROWS;
use crate::sync::{AtomicU64, Ordering::*, fence};
use crate::view::View;

/// The numbers, as one worker sees them.
#[derive(Clone, Copy)]
pub(crate) struct Numbers<'t> {
    pub view: View<'t>,
    pub row: u32,
}

impl<'t> Numbers<'t> {
    /// Takes the lowest free number below `limit`.
    pub fn claim(self, limit: u32) -> Option<u32> {
        let globals = self.view.globals;
        let limit = limit.min(self.view.layout.connections);
        let hint = globals.lowest_free.0.load(Acquire);
        let start = if (hint as u32) < limit { hint as u32 } else { 0 };
        let number = self.claim_within(start, limit).or_else(|| self.claim_within(0, start))?;
        // All numbers below were taken when they were checked. If one was freed since, the hint
        // already says so or is about to be lowered.
        let raised = hint >> 32 << 32 | u64::from(number + 1);
        let _ = globals.lowest_free.0.compare_exchange(hint, raised, AcqRel, Relaxed);
        Some(number)
    }

    /// Gives a number back; returns whether it was this worker's.
    pub fn release(self, number: u32) -> bool {
        let Some(word) = self.view.owners.get(number as usize / 8) else { return false };
        let shift = number % 8 * 8;
        let mut seen = word.load(Relaxed);
        // A failed exchange means that a neighbour in the word changed. The bound is for a hostile
        // worker.
        for _ in 0..TRIES {
            if seen >> shift & 0xff != self.byte() {
                return false;
            }
            match word.compare_exchange(seen, seen & !(0xff << shift), Release, Relaxed) {
                Ok(_) => {
                    lower_hint(self.view, number);
                    return true;
                }
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Marks this worker as waiting. It must try to claim once more afterwards.
    pub fn wait(self) {
        self.waiting_word().fetch_or(self.bit(), Relaxed);
        fence(SeqCst);
    }

    /// Marks this worker as not waiting.
    pub fn stop_waiting(self) {
        self.waiting_word().fetch_and(!self.bit(), Relaxed);
    }

    /// Takes the lowest free number of `start..end`.
    fn claim_within(self, start: u32, end: u32) -> Option<u32> {
        let words = self.view.owners.get(start as usize / 8..end.div_ceil(8) as usize)?;
        let first = start / 8;
        (first..).zip(words).find_map(|(index, word)| {
            let outside = !bytes_between(start.saturating_sub(index * 8), end - index * 8);
            self.claim_in_word(index, word, outside)
        })
    }

    /// Takes the lowest free number of a word, leaving out the bytes that are set in `outside`.
    fn claim_in_word(self, index: u32, word: &AtomicU64, outside: u64) -> Option<u32> {
        let mut seen = word.load(Relaxed);
        // A failed exchange means that another worker took or freed a number in this word; see
        // `release` for the bound.
        for _ in 0..TRIES {
            let slot = lowest_zero_byte(seen | outside)?;
            let number = index * 8 + slot;
            // This must come first: a reclaim looks for the dead worker's numbers only below.
            let high_water = &self.view.globals.high_water.0.numbers;
            if high_water.load(Relaxed) <= number {
                high_water.fetch_max(number + 1, Relaxed);
            }
            match word.compare_exchange(seen, seen | self.byte() << (slot * 8), AcqRel, Relaxed) {
                Ok(_) => return Some(number),
                Err(now) => seen = now,
            }
        }
        None
    }

    /// Takes this number, if it exists and is free.
    #[cfg(not(loom))]
    fn claim_one(self, number: u32) {
        if number < self.view.layout.connections {
            let _ = self.claim_within(number, number + 1);
        }
    }

    /// Makes the noted numbers exactly those that this worker has: `mine`, one word for each word
    /// of the array. It also frees the numbers of rows that do not exist, because no other worker
    /// would.
    pub fn republish(self, mine: &[u64], limit: u32, waits: bool) {
        let globals = self.view.globals;
        let highest = (0u32..)
            .zip(mine)
            .filter(|(_, word)| **word != 0)
            .map(|(index, _)| index * 8 + 8)
            .max();
        globals.high_water.0.numbers.fetch_max(highest.unwrap_or(0), Relaxed);
        // A hostile worker may have lowered the high water, so all numbers below the limit are
        // included.
        let used = globals.high_water.0.numbers.load(Relaxed).max(limit).div_ceil(8) as usize;
        for (index, word) in self.view.owners.iter().enumerate().take(used) {
            let mine = mine.get(index).copied().unwrap_or(0);
            let mut seen = word.load(Relaxed);
            // As in `release`.
            for _ in 0..TRIES {
                let right = self.republished(seen, mine);
                match word.compare_exchange(seen, right, AcqRel, Relaxed) {
                    _ if right == seen => break,
                    Ok(_) => break,
                    Err(now) => seen = now,
                }
            }
        }
        lower_hint(self.view, 0);
        for (index, word) in (0..).zip(waiting_words(self.view)) {
            word.fetch_and(bits_below(self.view.layout.shape.rows, index), Relaxed);
        }
        match waits {
            true => self.wait(),
            false => self.stop_waiting(),
        }
    }

    /// The correct content of a word of owner bytes, as far as this worker knows.
    fn republished(self, seen: u64, mine: u64) -> u64 {
        (0..8).map(|slot| slot * 8).fold(0, |word, shift| {
            let (owner, own) = (seen >> shift & 0xff, mine >> shift & 0xff);
            let others = owner != self.byte() && owner <= u64::from(self.view.layout.shape.rows);
            word | if own == 0 && others { owner } else { own } << shift
        })
    }

    /// Notes a number in the words that [`Numbers::republish`] takes.
    pub fn note(self, mine: &mut [u64], number: u32) {
        if let Some(word) = mine.get_mut(number as usize / 8) {
            *word |= self.byte() << (number % 8 * 8);
        }
    }

    fn byte(self) -> u64 {
        u64::from(self.row) + 1
    }

    /// The word of `waiting` that has this row's bit.
    fn waiting_word(self) -> &'t AtomicU64 {
        // A row that does not exist has no bit of its own.
        &self.view.globals.waiting.0[self.row as usize / 64 % WAITING_WORDS]
    }

    fn bit(self) -> u64 {
        1 << (self.row % 64)
    }
}

/// Whether a worker waits. To be called after something was freed.
pub(crate) fn anyone_waits(view: View<'_>) -> bool {
    fence(SeqCst);
    let [first, others @ ..] = &view.globals.waiting.0;
    // Runs at the end of each connection; few tables have so many rows.
    first.load(Relaxed) != 0
        || (view.layout.shape.rows > 64 && others.iter().any(|word| word.load(Relaxed) != 0))
}

/// Frees all numbers of rows that are lost, which then wait for none either. Calls `freeing` before
/// each.
pub(crate) fn reclaim(view: View<'_>, is_lost: impl Fn(u32) -> bool, freeing: impl Fn(u32)) {
    for (index, word) in (0u32..).zip(waiting_words(view)) {
        let rest = (0..64).filter(|bit| !is_lost(index * 64 + bit));
        word.fetch_and(rest.fold(0, |bits, bit| bits | 1 << bit), Relaxed);
    }
    for (index, word) in (0u32..).zip(used_words(view)) {
        let seen = word.load(Relaxed);
        for slot in 0..8 {
            let owner = ((seen >> (slot * 8) & 0xff) as u32).checked_sub(1);
            if let Some(row) = owner.filter(|row| is_lost(*row)) {
                freeing(index * 8 + slot);
                Numbers { view, row }.release(index * 8 + slot);
            }
        }
    }
    // A worker may have freed a number and died before it lowered the hint.
    lower_hint(view, 0);
}

/// Makes the numbers of a row exactly those that rows of another table have, as far as they are
/// free. Returns whether the row had one that is free now. `theirs` is what that table has in a
/// word of its owner bytes; all numbers that were taken there are below `used`.
#[cfg(not(loom))]
pub(crate) fn mirror(
    view: View<'_>,
    row: u32,
    used: u32,
    theirs: impl Fn(u32) -> u64,
    is_mirrored: impl Fn(u32) -> bool,
) -> bool {
    let numbers = Numbers { view, row };
    let used = view.globals.high_water.0.numbers.load(Relaxed).max(used).div_ceil(8);
    let mut freed = false;
    for (index, word) in (0u32..used).zip(view.owners) {
        let theirs = theirs(index);
        let wanted = |slot: u32| {
            let owner = ((theirs >> (slot * 8) & 0xff) as u32).checked_sub(1);
            owner.is_some_and(&is_mirrored)
        };
        for slot in 0..8 {
            let number = index * 8 + slot;
            let seen = word.load(Relaxed) >> (slot * 8) & 0xff;
            match (wanted(slot), seen == numbers.byte()) {
                // Another worker of this table may have it.
                (true, false) => numbers.claim_one(number),
                (false, true) => freed |= numbers.release(number),
                (true, true) | (false, false) => {}
            }
        }
    }
    freed
}

/// Lowers the hint for a free number.
fn lower_hint(view: View<'_>, number: u32) {
    let hint = &view.globals.lowest_free.0;
    let mut seen = hint.load(Relaxed);
    for _ in 0..TRIES {
        // The counter rises even if the number stays the same. So a worker that looked before this
        // number was free cannot raise the hint past it.
        let lowered = (seen >> 32).wrapping_add(1) << 32 | u64::from(number.min(seen as u32));
        match hint.compare_exchange(seen, lowered, AcqRel, Relaxed) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

/// The words of `waiting` that have the bit of a row.
fn waiting_words<'t>(view: View<'t>) -> &'t [AtomicU64] {
    let words = view.layout.shape.rows.div_ceil(64) as usize;
    &view.globals.waiting.0[..words.min(WAITING_WORDS)]
}

/// In word `index` of `waiting`, the bits of the rows below `rows`.
fn bits_below(rows: u32, index: u32) -> u64 {
    match rows.saturating_sub(index * 64) {
        0 => 0,
        rows => u64::MAX >> (64 - rows.min(64)),
    }
}

/// The row that has a number.
pub(crate) fn owner(view: View<'_>, number: u32) -> Option<u32> {
    let word = view.owners.get(number as usize / 8)?.load(Relaxed);
    ((word >> (number % 8 * 8) & 0xff) as u32).checked_sub(1)
}

/// How many numbers the worker of a row has.
pub(crate) fn taken_by(view: View<'_>, row: u32) -> u32 {
    let pattern = EACH.wrapping_mul(u64::from(row) + 1);
    used_words(view).map(|word| 8 - nonzero_bytes(word.load(Relaxed) ^ pattern)).sum()
}

/// How many numbers are taken.
pub(crate) fn taken(view: View<'_>) -> u32 {
    used_words(view).map(|word| nonzero_bytes(word.load(Relaxed))).sum()
}

/// The words in which a number was ever taken. The others are not read, because that would allocate
/// memory.
fn used_words<'t>(view: View<'t>) -> impl Iterator<Item = &'t AtomicU64> {
    view.owners.iter().take(view.globals.high_water.0.numbers.load(Relaxed).div_ceil(8) as usize)
}

/// A mask of the bytes `start..end` of a word; `end` may lie beyond it.
fn bytes_between(start: u32, end: u32) -> u64 {
    let below = |byte: u32| if byte < 8 { (1 << (byte * 8)) - 1 } else { u64::MAX };
    below(end) & !below(start)
}

/// The lowest byte that is 0 ("Bit Twiddling Hacks", S. E. Anderson: exact for the lowest one).
fn lowest_zero_byte(word: u64) -> Option<u32> {
    let zeroes = word.wrapping_sub(EACH) & !word & (EACH << 7);
    (zeroes != 0).then(|| zeroes.trailing_zeros() / 8)
}

/// How many bytes are not 0.
fn nonzero_bytes(word: u64) -> u32 {
    let low_bits = EACH * 0x7f;
    ((((word & low_bits) + low_bits) | word) & (EACH << 7)).count_ones()
}

/// 1 in each byte.
const EACH: u64 = u64::MAX / 0xff;

const TRIES: u32 = 1024;

/// A row must fit a byte; 0 means no owner.
const _: () = assert!(MAX_ROWS < 255);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::{Shape, Table};

    #[test]
    fn bytes_of_a_word() {
        for word in [
            0u64,
            1,
            0x8000_0000_0000_0000,
            0x0100_0080_00ff_0001,
            u64::MAX,
            0x0101_0101_0101_0101,
            0x00ff_ffff,
        ] {
            let bytes = word.to_le_bytes();
            assert_eq!(
                lowest_zero_byte(word),
                bytes.iter().position(|byte| *byte == 0).map(|at| at as u32),
                "{word:x}"
            );
            assert_eq!(
                nonzero_bytes(word),
                bytes.iter().filter(|byte| **byte != 0).count() as u32,
                "{word:x}"
            );
        }
        assert_eq!(bytes_between(0, 8), u64::MAX);
        assert_eq!(bytes_between(0, 100), u64::MAX);
        assert_eq!(bytes_between(1, 3), 0x00ff_ff00);
        assert_eq!(bytes_between(7, 9), 0xff << 56);
    }

    #[test]
    fn a_number_has_its_worker() {
        let shape = Shape { clients: 1, servers: 3, rows: 3, connections: 8 };
        let table = Table::create(shape).unwrap();
        let (first, second) = (table.worker_table(0), table.worker_table(2));
        assert_eq!((first.claim_connection(8), second.claim_connection(8)), (Some(0), Some(1)));
        let owners: Vec<_> =
            [0, 1, 2, u32::MAX].into_iter().map(|number| table.connection_owner(number)).collect();
        assert_eq!(owners, [Some(0), Some(2), None, None]);
    }
}
