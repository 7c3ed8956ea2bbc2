//! Workers of an earlier program that go on with another table: one row of this table stands for
//! all of them, so that limits count them too.

use crate::numbers;
use crate::parts::COUNTS;
use crate::servers::statistics::Words;
use crate::shape::MAX_ROWS;
use crate::table::Table;
use crate::table::foreign::ForeignTable;

impl Table {
    /// Writes into one row of this table what `rows` of another table have together: the bytes of
    /// each server and its statistics, and of those rows that are `alive` also the connections to
    /// each server, and the connection numbers. Servers have the same numbers in both. The row is
    /// noted as [`Table::use_row`] does, and no worker may have it.
    ///
    /// Call it before the first worker of this table starts, and again and again until no row is
    /// alive; then give the row back with [`Table::reclaim`]. Between two calls, a connection that
    /// an old worker ends still counts, and one that it begins does not count yet. A dead worker's
    /// row stays one of `rows`, so that no bytes and counts are lost. A number that another worker
    /// of this table has already is left out.
    ///
    /// Returns whether a number became free, and a paused worker waits for one. Then the caller
    /// must wake the workers.
    #[must_use = "a paused worker may wait for a number that is free now"]
    pub fn mirror(
        &self,
        row: u32,
        other: &ForeignTable,
        rows: &[u32],
        alive: impl Fn(u32) -> bool,
    ) -> bool {
        if row >= self.layout.shape.rows {
            return false;
        }
        self.use_row(row);
        let view = self.view();
        // No table has more rows: the description of the other one was checked.
        let mut alive_rows = [false; MAX_ROWS as usize];
        for row in rows {
            if let Some(is_alive) = alive_rows.get_mut(*row as usize) {
                *is_alive = alive(*row);
            }
        }
        let is_alive = |row: u32| alive_rows.get(row as usize).is_some_and(|is_alive| *is_alive);
        for (server, own) in (0..).zip(view.row(row)) {
            let (mut connections, mut sent, mut received, mut pending) = (0u32, 0u64, 0u64, false);
            for row in rows {
                let Some(figures) = other.figures(*row, server) else { continue };
                sent = sent.wrapping_add(figures.sent);
                received = received.wrapping_add(figures.received);
                if is_alive(*row) {
                    connections = connections.saturating_add(figures.connections);
                    pending |= figures.pending;
                }
            }
            own.republish(connections);
            own.set_pending(pending);
            own.set_bytes(sent, received);
            self.mirror_statistics(row, server, other, rows);
        }
        let theirs = |index| other.owners(index);
        let used = other.numbers_used();
        numbers::mirror(view, row, used, theirs, is_alive) && numbers::anyone_waits(view)
    }

    /// Writes the statistics of a server. Mostly nothing has changed, so their counts are compared
    /// first.
    fn mirror_statistics(&self, row: u32, server: u32, other: &ForeignTable, rows: &[u32]) {
        let Some(own) = self.view().statistics(row, server) else { return };
        let mut counts = [0u64; COUNTS];
        for row in rows {
            let theirs = other.counts_of(*row, server);
            counts.iter_mut().zip(theirs).for_each(|(sum, more)| *sum = sum.wrapping_add(more));
        }
        if own.has_counts(&counts) {
            return;
        }
        let mut sum = Words::default();
        rows.iter().for_each(|row| sum.add(&other.words_of(*row, server)));
        own.set(&sum);
    }
}
