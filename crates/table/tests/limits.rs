//! Tests with many workers at once: limits and numbers are exact. Threads replace processes here;
//! the table cannot see the difference.

#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use pen_table::{Shape, Table};

const WORKERS: u32 = 4;
const ROUNDS: u32 = 20_000;
const LIMIT: u32 = 3;

fn table() -> Table {
    Table::create(Shape { clients: 16, servers: 3, rows: WORKERS, connections: 64 })
        .expect("memory for a table")
}

fn in_every_worker(work: impl Fn(u32) + Sync) {
    std::thread::scope(|scope| {
        let work = &work;
        (0..WORKERS).for_each(|worker| drop(scope.spawn(move || work(worker))));
    });
}

#[test]
fn a_server_never_has_more_connections_than_its_limit() {
    let table = table();
    let open = AtomicU32::new(0);
    in_every_worker(|worker| {
        let worker_table = table.worker_table(worker);
        for _ in 0..ROUNDS {
            if worker_table.reserve(0, Some(LIMIT)) {
                // This counter covers the time from after the reservation to before the release. If
                // it is ever above the limit, so was the table's count.
                assert!(open.fetch_add(1, SeqCst) < LIMIT);
                std::thread::yield_now();
                open.fetch_sub(1, SeqCst);
                worker_table.release(0);
            }
        }
    });
    assert_eq!(table.server_totals(0).connections, 0);
}

#[test]
fn a_worker_waits_until_it_says_that_it_does_not() {
    let table = table();
    let (one, two) = (table.worker_table(0), table.worker_table(1));
    let claim = |worker_table: &pen_table::WorkerTable<'_>| {
        worker_table.claim_connection(LIMIT).expect("a free number")
    };
    assert!(!one.release_connection(claim(&one)));
    two.await_connection();
    assert!(one.release_connection(claim(&one)));
    // A number that it gets meanwhile does not end its waiting.
    assert!(two.release_connection(claim(&two)));
    two.stop_waiting();
    assert!(!one.release_connection(claim(&one)));
    two.stop_waiting();
    two.await_connection();
    assert!(!table.reclaim(1), "a dead worker does not wait");
}

#[test]
fn a_number_never_has_two_owners() {
    let table = table();
    let owned: [AtomicBool; LIMIT as usize] = Default::default();
    in_every_worker(|worker| {
        let worker_table = table.worker_table(worker);
        for _ in 0..ROUNDS {
            if let Some(number) = worker_table.claim_connection(LIMIT) {
                assert!(!owned[number as usize].swap(true, SeqCst));
                std::thread::yield_now();
                owned[number as usize].store(false, SeqCst);
                let _ = worker_table.release_connection(number);
            }
        }
    });
    assert_eq!(table.connections_open(), 0);
    // Nothing was lost: all numbers are there, from the lowest on.
    let worker_table = table.worker_table(0);
    assert_eq!(
        Vec::from_iter(std::iter::from_fn(|| worker_table.claim_connection(LIMIT))),
        [0, 1, 2]
    );
}

#[test]
fn the_round_robin_sequence_has_no_gap_and_no_repetition() {
    let table = table();
    let turns: [AtomicU32; 3] = Default::default();
    in_every_worker(|worker| {
        let worker_table = table.worker_table(worker);
        for _ in 0..3000 {
            let next = loop {
                let last = worker_table.cursor();
                let next = (last + 1) % 3;
                if worker_table.advance_cursor(last, next) {
                    break next;
                }
            };
            turns[next as usize].fetch_add(1, SeqCst);
        }
    });
    assert!(turns.iter().all(|turns| turns.load(SeqCst) == WORKERS * 1000));
}

#[test]
fn every_arrival_is_counted_once_in_one_entry() {
    let table = table();
    in_every_worker(|worker| {
        let worker_table = table.worker_table(worker);
        let (mut arrivals, mut now) = (0, 0);
        while arrivals < 2000 {
            // On a very busy machine a lock may look stuck.
            if let Ok(mut locked) = worker_table.lock([7; 16]) {
                locked.arrive(now, 0);
                (arrivals, now) = (arrivals + 1, now + 100);
            }
        }
    });
    let clients: Vec<_> = table.clients().collect();
    assert_eq!(clients.len(), 1);
    assert_eq!(clients[0].connects, u64::from(WORKERS) * 2000);
}
