//! Tests of rows: as many as there can be, two generations of workers, rows that nobody has.

use crate::sync::Ordering::*;
use crate::{LockStuck, Shape, Table};

fn table(rows: u32) -> Table {
    Table::create(Shape { clients: 4, servers: 3, rows, connections: 300 })
        .expect("memory for a table")
}

/// A number of rows that a hostile worker may write.
const LIES: [u32; 6] = [0, 1, 2, 195, u32::MAX - 1, u32::MAX];

#[test]
fn all_194_rows_are_workers_of_equal_rank() {
    let table = table(194);
    let workers: Vec<_> = (0..194).map(|row| table.worker_table(row)).collect();
    for (row, worker_table) in (0..).zip(&workers) {
        assert!(worker_table.reserve(1, Some(194)));
        assert_eq!(worker_table.claim_connection(194), Some(row));
        worker_table.set_open(Some(1000 - row));
        drop(worker_table.lock([9; 16]).unwrap());
    }
    assert!(!workers[193].reserve(1, Some(194)) && !workers[0].reserve(1, Some(194)));
    assert_eq!((table.server_totals(1).connections, table.connections_open()), (194, 194));
    assert!((0..194).all(|number| table.connection_owner(number) == Some(number)));
    assert_eq!((workers[0].fewest_open(), workers[193].fewest_open()), (Some(807), Some(808)));
    for waiting in [0, 63, 64, 127, 128, 191, 192, 193] {
        let other = (waiting + 1) % 194;
        workers[waiting].await_connection();
        assert_eq!(workers[waiting].claim_connection(194), None);
        assert!(workers[other].release_connection(other as u32), "row {waiting} waits");
        assert_eq!(workers[other].claim_connection(194), Some(other as u32));
        workers[waiting].stop_waiting();
        assert!(!workers[other].release_connection(other as u32), "row {waiting} waits no more");
        assert_eq!(workers[other].claim_connection(194), Some(other as u32));
    }
    // A death takes its own row back, and nobody else's.
    workers[193].await_connection();
    std::mem::forget(workers[193].lock([9; 16]).unwrap());
    assert_eq!(workers[64].lock([9; 16]).unwrap_err(), LockStuck);
    assert!(!table.reclaim(193), "a dead worker does not wait");
    assert_eq!((table.server_totals(1).connections, table.connections_open()), (193, 193));
    assert_eq!(workers[0].claim_connection(194), Some(193));
    assert!(workers[1].lock([9; 16]).is_ok());
}

#[test]
fn two_generations_together_keep_to_a_limit() {
    let table = table(6);
    (0..2).for_each(|row| table.use_row(row));
    let old = [table.worker_table(0), table.worker_table(1)];
    assert!(old.iter().all(|worker_table| worker_table.reserve(0, Some(4))));
    assert_eq!(table.view().column(0).count(), 2, "rows of workers that do not exist are not read");
    (2..4).for_each(|row| table.use_row(row));
    let new = [table.worker_table(2), table.worker_table(3)];
    assert!(new.iter().all(|worker_table| worker_table.reserve(0, Some(4))));
    let all = || old.iter().chain(&new);
    assert!(all().all(|worker_table| !worker_table.reserve(0, Some(4))));
    assert!(all().all(|worker_table| worker_table.connections(0) == 4));
    old[0].release(0);
    assert!(new[1].reserve(0, Some(4)) && !old[1].reserve(0, Some(4)));
    // The old ones end, one by its death. The sums do not miss a byte of theirs.
    old[1].add_server_bytes(0, 10, 20);
    table.reclaim(1);
    table.reclaim(0);
    assert_eq!((table.server_totals(0).connections, table.server_totals(0).sent), (3, 10));
    // A third generation gets the rows of the first.
    (0..2).for_each(|row| table.use_row(row));
    assert!(
        table.worker_table(0).reserve(0, Some(4)) && !table.worker_table(1).reserve(0, Some(4))
    );
    assert_eq!((table.view().column(0).count(), table.server_totals(0).sent), (4, 10));
}

#[test]
fn a_false_number_of_rows_gives_wrong_sums_and_a_death_puts_it_right() {
    for lie in LIES {
        let table = table(8);
        (0..3).for_each(|row| table.use_row(row));
        let workers = [table.worker_table(0), table.worker_table(1), table.worker_table(2)];
        assert!(workers.iter().all(|worker_table| worker_table.reserve(2, None)));
        table.view().globals.high_water.0.rows.store(lie, Relaxed);
        assert!(table.view().rows_used() <= 8);
        let _ = (workers[0].reserve(2, Some(2)), workers[1].fewest_open(), table.server_totals(2));
        // What it wrote into rows that nobody has does not count for the next that gets them.
        for figures in (5..8).flat_map(|row| table.view().row(row)) {
            figures.connections.store(77, Relaxed);
            figures.pending.store(1, Relaxed);
            figures.sent.store(77, Relaxed);
        }
        table.reclaim(1);
        assert_eq!(table.view().rows_used(), 3, "{lie}");
        let _ = workers[0].republish(300, [(0, Some(2))].into_iter());
        let _ = workers[2].republish(300, [(1, Some(2))].into_iter());
        assert_eq!(table.server_totals(2).connections, 2, "{lie}");
        table.use_row(5);
        table.use_row(7);
        let totals = table.server_totals(2);
        assert_eq!((totals.connections, totals.sent, totals.is_pending), (2, 0, false), "{lie}");
    }
}

#[test]
fn what_is_written_in_the_name_of_a_row_that_nobody_has_is_taken_back_at_a_death() {
    let table = table(194);
    (0..3).for_each(|row| table.use_row(row));
    let living = table.worker_table(0);
    assert_eq!(living.claim_connection(8), Some(0));
    // Worker 2 writes in the name of rows 5 and 193.
    table.view().owners[0].fetch_or(6 << 8 | 194 << 16, Relaxed);
    table.view().globals.high_water.0.numbers.store(8, Relaxed);
    table.view().globals.waiting.0[3].store(2, Relaxed);
    table.view().server(1).unwrap().limits.0.own(193);
    assert!(!living.reserve(1, Some(0)));
    assert!(!table.reclaim(2), "nobody waits");
    assert_eq!((table.connections_open(), living.claim_connection(8)), (1, Some(1)));
    assert_eq!(table.connection_owner(2), None);
}

#[test]
fn a_row_beyond_the_table_is_none() {
    let table = table(3);
    table.use_row(3);
    table.use_row(u32::MAX);
    assert_eq!(table.view().rows_used(), 0);
    assert!(!table.reclaim(u32::MAX));
}
