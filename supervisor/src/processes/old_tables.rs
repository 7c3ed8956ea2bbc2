//! The shared tables of earlier programs whose layout is another one. Old workers go on there.
//!
//! One row of the table in use stands for all workers of such a table. So limits count their
//! connections, and sums have their bytes. The supervisor copies the figures into that row again
//! and again, because the workers write only into their own table.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use pen_table::{ForeignTable, Table};
use serde::{Deserialize, Serialize};

/// The number of a table among those of earlier programs.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(crate) struct TableNumber(pub(crate) u32);

/// A row of a table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TableRow {
    /// The table; none: the table in use.
    pub(crate) table: Option<TableNumber>,
    /// The row in it.
    pub(crate) row: u32,
}

/// A table in which old workers go on.
#[derive(Debug)]
pub(crate) struct OldTable {
    pub(crate) number: TableNumber,
    pub(crate) table: ForeignTable,
    /// The rows in it whose bytes count: those that had a worker when the table was replaced.
    pub(crate) rows: Vec<u32>,
    /// The row of the table in use that stands for them.
    pub(crate) row: u32,
}

/// All tables in which old workers go on.
#[derive(Debug, Default)]
pub(crate) struct OldTables {
    tables: Vec<OldTable>,
    /// When to copy the figures again.
    due: Option<Instant>,
}

impl OldTables {
    /// The tables that an earlier program named.
    pub(crate) fn adopted(tables: Vec<OldTable>) -> OldTables {
        OldTables { tables, due: None }
    }

    /// Those that still have workers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &OldTable> {
        self.tables.iter()
    }

    /// When to call [`OldTables::copy`]; none: never.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due.filter(|_| !self.tables.is_empty())
    }

    /// Copies the figures of all tables into their rows of the table in use. `alive` says whether a
    /// row has a worker. A table without one is given up. Returns whether workers wait for what
    /// became free; then the caller must wake them.
    pub(crate) fn copy(
        &mut self,
        table: &Table,
        alive: impl Fn(TableRow) -> bool,
        now: Instant,
    ) -> bool {
        let mut are_awaited = false;
        self.tables.retain(|old| {
            let is_alive = |row| alive(TableRow { table: Some(old.number), row });
            are_awaited |= table.mirror(old.row, &old.table, &old.rows, is_alive);
            let has_workers = old.rows.iter().any(|row| is_alive(*row));
            if !has_workers {
                are_awaited |= table.reclaim(old.row);
            }
            has_workers
        });
        self.due = Some(now + INTERVAL);
        are_awaited
    }

    /// The row of the worker that has a connection number, as far as a row of the table in use
    /// stands for it.
    pub(crate) fn owner(&self, row: u32, number: u32) -> Option<TableRow> {
        let old = self.tables.iter().find(|old| old.row == row)?;
        let row = old.table.connection_owner(number)?;
        Some(TableRow { table: Some(old.number), row })
    }
}

/// How old the figures of old workers are at most. A connection that they end still counts so long.
const INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use pen_table::Shape;

    use super::*;

    const SHAPE: Shape = Shape { clients: 4, servers: 2, rows: 6, connections: 8 };

    fn old(table: &Table, number: u32, rows: &[u32], row: u32) -> OldTable {
        let memory = table.descriptor().try_clone_to_owned().unwrap();
        let foreign = ForeignTable::open(memory, table.counts()).unwrap();
        OldTable { number: TableNumber(number), table: foreign, rows: rows.into(), row }
    }

    #[test]
    fn workers_of_other_tables_count_until_they_end() {
        let [first, second, used] = [(); 3].map(|()| Table::create(SHAPE).unwrap());
        let workers = [first.worker_table(3), first.worker_table(4), second.worker_table(3)];
        for (worker, number) in workers.iter().zip([0, 1, 0]) {
            assert!(worker.reserve(1, None));
            worker.add_server_bytes(1, 10, 0);
            assert_eq!(worker.claim_connection(8), Some(number));
        }
        let tables = vec![old(&first, 5, &[3, 4], 0), old(&second, 7, &[3], 1)];
        let mut tables = OldTables::adopted(tables);
        assert_eq!(tables.due(), None);
        let now = Instant::now();
        let mut copy = |dead: &[(u32, u32)]| {
            let alive = |row: TableRow| !dead.contains(&(row.table.unwrap().0, row.row));
            let are_awaited = tables.copy(&used, alive, now);
            let rows: Vec<u32> = tables.iter().map(|old| old.row).collect();
            let owner = tables.owner(0, 1).map(|row| row.row);
            let totals = used.server_totals(1);
            (are_awaited, rows, owner, totals.connections, totals.sent, used.connections_open())
        };
        // Both tables have a connection with number 0, of which only one can be held here.
        assert_eq!(copy(&[]), (false, vec![0, 1], Some(4), 3, 30, 2));
        used.use_row(2);
        used.worker_table(2).await_connection();
        assert_eq!(copy(&[(5, 3)]), (true, vec![0, 1], Some(4), 2, 30, 2));
        assert_eq!(copy(&[(5, 3), (5, 4)]), (true, vec![1], None, 1, 30, 1));
        assert_eq!(copy(&[(5, 3), (5, 4), (7, 3)]), (true, vec![], None, 0, 30, 0));
        assert_eq!(tables.due(), None);
    }
}
