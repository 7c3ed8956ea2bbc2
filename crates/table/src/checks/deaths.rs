//! Tests in which a worker dies after each store of each operation, is reclaimed, and another
//! worker continues.

use super::verify::verify;
use super::{growing_table, key, table};
use crate::clients::entry::NO_SERVER;
use crate::steps::dying_after;
use crate::{Blacklist, ClientRef, LockStuck, Table, WorkerTable};

/// Runs `operation` as worker 0 on a table that `prepare` made. The worker dies after 0, 1, 2, ...
/// stores, until it survives. After each run the worker is reclaimed, and `check` examines the
/// table. Returns the number of deaths.
fn die_everywhere<P>(
    clients: u32,
    prepare: impl Fn(&Table) -> P,
    operation: impl Fn(&WorkerTable<'_>, &P),
    check: impl Fn(&Table, &P),
) -> u32 {
    for deaths in 0.. {
        let table = growing_table(clients, 65536, 24);
        let prepared = prepare(&table);
        let survived = {
            let worker_table = table.worker_table(0);
            dying_after(deaths, || operation(&worker_table, &prepared)).is_some()
        };
        table.reclaim(0);
        // Repairs the shard if it needs repair.
        drop(table.worker_table(1).lock(key(0)).unwrap());
        verify(table.view());
        check(&table, &prepared);
        if survived {
            return deaths;
        }
        assert!(deaths < 1000, "an operation with too many stores");
    }
    unreachable!()
}

fn arrive(worker_table: &WorkerTable<'_>, n: u32, now: u64) -> ClientRef {
    worker_table.lock(key(n)).unwrap().arrive(now, 0).client
}

/// Three clients that worker 1 entered: 0 is the oldest.
fn three_clients(table: &Table) -> [ClientRef; 3] {
    let worker_table = table.worker_table(1);
    [0, 1, 2].map(|n| {
        let client = arrive(&worker_table, n, 1000 * u64::from(n + 1));
        worker_table.record(client, n as i32);
        worker_table.add_client_bytes(client, 100, 200);
        client
    })
}

/// The clients' numbers that are in the table, in order.
fn numbers(table: &Table) -> Vec<u32> {
    let mut numbers: Vec<u32> = table
        .clients()
        .map(|entry| u32::from_le_bytes(entry.key[12..].try_into().unwrap()))
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Checks that the entries of other clients are unchanged.
fn untouched(table: &Table, clients: &[ClientRef], n: usize) {
    let entry = table.clients().find(|entry| entry.slot == clients[n].slot).unwrap();
    assert_eq!((entry.key, entry.server, entry.connects), (key(n as u32), n as i32, 1));
    assert_eq!((entry.sent, entry.received), (100, 200));
}

#[test]
fn entering_the_first_client() {
    let deaths = die_everywhere(
        4,
        |_| (),
        |worker_table, ()| {
            arrive(worker_table, 7, 1000);
        },
        |table, ()| assert!(numbers(table).iter().all(|n| *n == 7)),
    );
    assert!(deaths > 10);
}

#[test]
fn entering_a_client_in_a_fresh_slot() {
    let deaths = die_everywhere(
        4,
        three_clients,
        |worker_table, _| {
            arrive(worker_table, 7, 9000);
        },
        |table, clients| {
            (0..3).for_each(|n| untouched(table, clients, n));
            let numbers = numbers(table);
            assert!(numbers == [0, 1, 2] || numbers == [0, 1, 2, 7], "{numbers:?}");
        },
    );
    assert!(deaths > 10);
}

#[test]
fn entering_a_client_in_place_of_the_oldest() {
    let deaths = die_everywhere(
        3,
        three_clients,
        |worker_table, _| {
            arrive(worker_table, 7, 9000);
        },
        |table, clients| {
            (1..3).for_each(|n| untouched(table, clients, n));
            let numbers = numbers(table);
            assert!([&[0, 1, 2][..], &[1, 2], &[1, 2, 7]].contains(&&numbers[..]), "{numbers:?}");
            // Writes for the old client's connections are dropped.
            if !numbers.contains(&0) {
                table.worker_table(1).record(clients[0], 5);
                table.worker_table(1).add_client_bytes(clients[0], 5, 5);
                assert!(table.clients().all(|entry| entry.server != 5 && entry.sent != 5));
            }
            // An empty slot is used before a client is replaced.
            let worker_table = table.worker_table(1);
            arrive(&worker_table, 8, 10_000);
            assert!(
                (1..3).all(|n| table.clients().any(|entry| entry.key == key(n)))
                    || numbers.contains(&7)
            );
            verify(table.view());
        },
    );
    assert!(deaths > 10);
}

#[test]
fn a_known_client_arrives() {
    let deaths = die_everywhere(
        3,
        three_clients,
        |worker_table, _| {
            arrive(worker_table, 0, 9000);
        },
        |table, clients| {
            (1..3).for_each(|n| untouched(table, clients, n));
            let entry = table.clients().find(|entry| entry.key == key(0)).unwrap();
            assert_eq!(entry.server, 0);
            assert!(entry.connects == 1 || entry.connects == 2);
        },
    );
    assert!(deaths > 5);
}

#[test]
fn a_client_is_forgotten() {
    let deaths = die_everywhere(
        3,
        three_clients,
        |worker_table, _| {
            worker_table.lock(key(0)).unwrap().arrive(9000, 2000);
        },
        |table, clients| {
            (1..3).for_each(|n| untouched(table, clients, n));
            if let Some(entry) = table.clients().find(|entry| entry.key == key(0)) {
                let figures = (entry.server, entry.connects, entry.sent, entry.received);
                assert!(
                    figures == (0, 1, 100, 200) || figures == (NO_SERVER, 1, 0, 0),
                    "{figures:?}"
                );
            }
        },
    );
    assert!(deaths > 5);
}

#[test]
fn a_table_is_rebuilt() {
    let deaths = die_everywhere(
        3,
        |table| {
            let clients = three_clients(table);
            // Worker 2 dies while it holds the lock.
            std::mem::forget(table.worker_table(2).lock(key(0)).unwrap());
            table.reclaim(2);
            clients
        },
        |worker_table, _| drop(worker_table.lock(key(0)).unwrap()),
        |table, clients| {
            (0..3).for_each(|n| untouched(table, clients, n));
            let worker_table = table.worker_table(1);
            assert_eq!(arrive(&worker_table, 1, 10_000), clients[1]);
            assert_eq!(worker_table.take_rebuilt(), None);
        },
    );
    assert!(deaths > 10);
}

#[test]
fn a_table_grows() {
    let deaths = die_everywhere(
        3,
        |table| {
            let clients = three_clients(table);
            assert_eq!(table.grow_clients(10), 10);
            clients
        },
        |worker_table, _| {
            arrive(worker_table, 7, 9000);
        },
        |table, clients| {
            (0..3).for_each(|n| untouched(table, clients, n));
            let worker_table = table.worker_table(1);
            for n in 10..16 {
                arrive(&worker_table, n, 10_000);
            }
            (0..3).for_each(|n| untouched(table, clients, n));
            verify(table.view());
        },
    );
    assert!(deaths > 20);
}

#[test]
fn recording_and_adding_bytes() {
    die_everywhere(
        3,
        three_clients,
        |worker_table, clients| {
            worker_table.record(clients[0], 2);
            worker_table.add_client_bytes(clients[0], 1, 1);
        },
        |table, clients| {
            (1..3).for_each(|n| untouched(table, clients, n));
            let entry = table.clients().find(|entry| entry.key == key(0)).unwrap();
            assert!((entry.server == 0 && entry.sent == 100) || entry.server == 2);
        },
    );
}

#[test]
fn reserving_and_releasing() {
    let deaths = die_everywhere(
        3,
        |table| {
            let worker_table = table.worker_table(1);
            assert!(worker_table.reserve(0, Some(2)));
        },
        |worker_table, ()| {
            assert!(worker_table.reserve(0, Some(2)));
            assert!(!worker_table.reserve(0, Some(2)));
            assert!(worker_table.reserve(1, None));
            worker_table.add_server_bytes(1, 10, 20);
            worker_table.release(0);
        },
        |table, ()| {
            let worker_table = table.worker_table(1);
            assert_eq!((worker_table.connections(0), worker_table.connections(1)), (1, 0));
            assert!(worker_table.reserve(0, Some(2)));
            assert!(!worker_table.reserve(0, Some(2)));
        },
    );
    assert!(deaths > 8);
}

#[test]
fn claiming_and_releasing_numbers() {
    let deaths = die_everywhere(
        3,
        |table| {
            let worker_table = table.worker_table(1);
            let numbers: Vec<u32> =
                (0..9).map(|_| worker_table.claim_connection(20).unwrap()).collect();
            assert!(!worker_table.release_connection(3));
            assert_eq!(numbers, Vec::from_iter(0..9));
        },
        |worker_table, ()| {
            assert_eq!(worker_table.claim_connection(20), Some(3));
            assert_eq!(worker_table.claim_connection(20), Some(9));
            assert_eq!(worker_table.claim_connection(10), None);
            worker_table.await_connection();
            assert!(worker_table.release_connection(3));
            assert_eq!(worker_table.claim_connection(10), Some(3));
        },
        |table, ()| {
            assert_eq!(table.connections_open(), 8);
            let worker_table = table.worker_table(1);
            let mut rest: Vec<u32> =
                std::iter::from_fn(|| worker_table.claim_connection(20)).collect();
            rest.sort_unstable();
            assert_eq!(rest, [vec![3], Vec::from_iter(9..20)].concat());
            // A dead worker does not wait.
            assert!(!worker_table.release_connection(5));
        },
    );
    assert!(deaths > 8);
}

#[test]
fn a_waiter_is_seen_after_any_death_of_the_releaser() {
    for deaths in 0.. {
        let table = table(3, 65536);
        let worker_table = table.worker_table(0);
        assert_eq!(worker_table.claim_connection(1), Some(0));
        let waiter = table.worker_table(1);
        waiter.await_connection();
        assert_eq!(waiter.claim_connection(1), None);
        let reported = dying_after(deaths, || worker_table.release_connection(0));
        assert!(reported.unwrap_or(true));
        // If the worker died, even right after it freed the number, the supervisor wakes the
        // waiter.
        assert!(table.reclaim(0));
        assert_eq!(waiter.claim_connection(1), Some(0));
        if reported.is_some() {
            assert!(deaths > 0);
            return;
        }
    }
}

#[test]
fn blacklisting_and_probing() {
    die_everywhere(
        3,
        |_| (),
        |worker_table, ()| {
            assert!(worker_table.set_blacklist(0, 1000, 77));
            assert!(worker_table.begin_probe(0, 1000, 2000));
            assert!(worker_table.return_to_service(0, 9));
        },
        |table, ()| {
            // Wherever the worker died, its effect ends with the lease at the latest.
            assert!(matches!(
                table.worker_table(1).blacklist(0, 2000),
                Blacklist::Clear | Blacklist::Expired
            ));
        },
    );
}

#[test]
fn a_living_owner_keeps_its_lock() {
    let table = table(3, 65536);
    let owner = table.worker_table(0);
    let locked = owner.lock(key(0)).unwrap();
    table.reclaim(1);
    let other = table.worker_table(2);
    assert_eq!(other.lock(key(0)).unwrap_err(), LockStuck);
    // The lock is known to be stuck, so this fails at once.
    assert_eq!(other.lock(key(0)).unwrap_err(), LockStuck);
    drop(locked);
    assert!(other.lock(key(0)).is_ok());
    assert_eq!(other.take_rebuilt(), None);
}

#[test]
fn an_owner_that_was_reclaimed_by_mistake_does_not_unlock_for_its_successor() {
    let table = table(3, 65536);
    let (first, second, third) =
        (table.worker_table(0), table.worker_table(1), table.worker_table(2));
    let reclaimed = first.lock(key(0)).unwrap();
    table.reclaim(0);
    let locked = second.lock(key(0)).unwrap();
    assert_eq!(second.take_rebuilt(), Some(0));
    assert_eq!(second.take_rebuilt(), None);
    drop(reclaimed);
    assert_eq!(third.lock(key(0)).unwrap_err(), LockStuck);
    drop(locked);
    assert!(third.lock(key(0)).is_ok());
}
