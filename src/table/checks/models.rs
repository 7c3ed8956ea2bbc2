//! Models for loom, which runs them in every order that the memory model allows:
//! `RUSTFLAGS="--cfg loom" cargo test -p pen-table --lib --release`.
//!
//! A worker dies by forgetting what it holds. Nothing times out in a model: whoever is never woken is a deadlock, and loom says so.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{key, table};
use crate::{ClientRef, NO_SERVER, Table};

/// Runs each closure as a worker of its own in a thread of its own, and waits for all.
fn workers(table: &Arc<Table>, workers: Vec<Box<dyn FnOnce(&Table) + Send>>) {
    let threads: Vec<_> = workers
        .into_iter()
        .map(|worker| {
            let table = table.clone();
            thread::spawn(move || worker(&table))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// What a paused worker sleeps on.
#[derive(Default)]
struct Eventfd {
    written: Mutex<bool>,
    changed: Condvar,
}

impl Eventfd {
    fn write(&self) {
        *self.written.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn sleep(&self) {
        let mut written = self.written.lock().unwrap();
        while !*written {
            written = self.changed.wait(written).unwrap();
        }
        *written = false;
    }
}

/// Runs a model in all orders.
fn exhaust(model: impl Fn() + Send + Sync + 'static) {
    loom::model(model);
}

/// Runs a model in all orders with at most so many preemptions, where all would be too many ("CHESS", Musuvathi and Qadeer, 2007).
fn bounded(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn one_client_that_arrives_twice_at_once_is_one_entry() {
    bounded(4, || {
        let table = Arc::new(table(2, 65536));
        let arrive = |worker: u32| -> Box<dyn FnOnce(&Table) + Send> {
            Box::new(move |table| {
                let seat = table.seat(worker);
                seat.lock(key(1)).unwrap().arrive(0, 0);
            })
        };
        workers(&table, vec![arrive(0), arrive(1)]);
        let clients: Vec<_> = table.clients().collect();
        assert_eq!(clients.len(), 1);
        assert_eq!(clients[0].connects, 2);
    });
}

#[test]
fn three_that_want_the_lock_all_get_it() {
    bounded(3, || {
        let table = Arc::new(table(1, 65536));
        let lock = |worker: u32| -> Box<dyn FnOnce(&Table) + Send> {
            Box::new(move |table| drop(table.seat(worker).lock(key(1)).unwrap()))
        };
        workers(&table, vec![lock(0), lock(1), lock(2)]);
    });
}

#[test]
fn a_dead_owners_lock_goes_to_one_that_waits_and_then_to_the_other() {
    bounded(2, || {
        let table = Arc::new(table(2, 65536));
        {
            let dying = table.seat(0);
            let mut locked = dying.lock(key(1)).unwrap();
            locked.arrive(0, 0);
            std::mem::forget(locked);
        }
        let wait = |worker: u32, rebuilt: Arc<Mutex<u32>>| -> Box<dyn FnOnce(&Table) + Send> {
            Box::new(move |table| {
                let seat = table.seat(worker);
                seat.lock(key(1)).unwrap().arrive(0, 0);
                if let Some(kept) = seat.take_rebuilt() {
                    assert!(kept >= 1);
                    *rebuilt.lock().unwrap() += 1;
                }
            })
        };
        let rebuilt = Arc::new(Mutex::new(0));
        let supervisor = Box::new(|table: &Table| {
            table.bury(0);
        });
        workers(&table, vec![wait(1, rebuilt.clone()), wait(2, rebuilt.clone()), supervisor]);
        assert_eq!(*rebuilt.lock().unwrap(), 1);
        assert_eq!(table.clients().next().unwrap().connects, 3);
    });
}

/// Workers claim and release a number below 2 at once, `preemptions` of them interrupted.
fn claim_at_once(count: u32, preemptions: usize) {
    bounded(preemptions, move || {
        let table = Arc::new(table(1, 65536));
        // Not loom's: it only watches, and must not add interleavings.
        let held = std::sync::Arc::new([const { AtomicBool::new(false) }; 2]);
        let claim = |worker: u32| -> Box<dyn FnOnce(&Table) + Send> {
            let held = held.clone();
            Box::new(move |table| {
                let seat = table.seat(worker);
                let Some(number) = seat.claim_connection(2) else { return };
                // Indexing checks the limit.
                assert!(!held[number as usize].swap(true, SeqCst));
                thread::yield_now();
                held[number as usize].store(false, SeqCst);
                let _ = seat.release_connection(number);
            })
        };
        workers(&table, (0..count).map(claim).collect());
        assert_eq!(table.connections_open(), 0);
        // The lowest one first, again.
        let seat = table.seat(0);
        assert_eq!([2, 2, 2].map(|limit| seat.claim_connection(limit)), [Some(0), Some(1), None]);
    });
}

#[test]
fn a_number_has_one_owner_and_is_below_the_limit() {
    claim_at_once(2, 3);
}

#[test]
fn a_number_has_one_owner_among_three() {
    claim_at_once(3, 1);
}

#[test]
fn whoever_waits_for_a_number_is_woken() {
    exhaust(|| {
        let table = Arc::new(table(1, 65536));
        let eventfd = Arc::new(Eventfd::default());
        assert_eq!(table.seat(0).claim_connection(1), Some(0));
        let (writer, sleeper) = (eventfd.clone(), eventfd);
        let release = Box::new(move |table: &Table| {
            if table.seat(0).release_connection(0) {
                writer.write();
            }
        });
        let wait = Box::new(move |table: &Table| {
            let seat = table.seat(1);
            if seat.claim_connection(1).is_some() {
                return;
            }
            seat.await_connection();
            if seat.claim_connection(1).is_none() {
                sleeper.sleep();
                assert_eq!(seat.claim_connection(1), Some(0));
            }
        });
        workers(&table, vec![release, wait]);
    });
}

#[test]
fn whoever_waits_for_a_dead_workers_number_is_woken_by_the_burial() {
    exhaust(|| {
        let table = Arc::new(table(1, 65536));
        let eventfd = Arc::new(Eventfd::default());
        assert_eq!(table.seat(0).claim_connection(1), Some(0));
        let (writer, sleeper) = (eventfd.clone(), eventfd);
        let bury = Box::new(move |table: &Table| {
            if table.bury(0) {
                writer.write();
            }
        });
        let wait = Box::new(move |table: &Table| {
            let seat = table.seat(1);
            seat.await_connection();
            if seat.claim_connection(1).is_none() {
                sleeper.sleep();
                assert_eq!(seat.claim_connection(1), Some(0));
            }
        });
        workers(&table, vec![bury, wait]);
    });
}

/// Two workers reserve at a limit of one with `reserve`; how many succeeded.
fn reserve_twice(reserve: fn(&Table, u32) -> bool, possible: &'static [u32]) {
    exhaust(move || {
        let table = Arc::new(table(1, 65536));
        let reserved = Arc::new(Mutex::new(0));
        let one = |worker: u32, reserved: Arc<Mutex<u32>>| -> Box<dyn FnOnce(&Table) + Send> {
            Box::new(move |table| {
                if reserve(table, worker) {
                    *reserved.lock().unwrap() += 1;
                }
            })
        };
        workers(&table, vec![one(0, reserved.clone()), one(1, reserved.clone())]);
        let reserved = *reserved.lock().unwrap();
        assert!(possible.contains(&reserved), "{reserved} reserved");
        assert_eq!(table.seat(2).connections(0), reserved);
    });
}

#[test]
fn a_limit_of_one_is_reached_and_not_exceeded() {
    reserve_twice(|table, worker| table.seat(worker).reserve(0, Some(1)), &[1]);
}

#[test]
fn a_limit_of_one_is_not_exceeded_without_the_lock() {
    reserve_twice(|table, worker| table.view().reserve_unlocked(worker, 0, 1), &[0, 1]);
}

#[test]
fn a_limit_of_one_is_not_exceeded_with_and_without_the_lock() {
    let one = |table: &Table, worker: u32| match worker {
        0 => table.seat(0).reserve(0, Some(1)),
        _ => table.view().reserve_unlocked(worker, 0, 1),
    };
    reserve_twice(one, &[0, 1]);
}

#[test]
fn the_cursor_gives_each_turn_once() {
    bounded(2, || {
        let table = Arc::new(table(1, 65536));
        let turns = Arc::new(Mutex::new(Vec::new()));
        let choose = |worker: u32, turns: Arc<Mutex<Vec<u32>>>| -> Box<dyn FnOnce(&Table) + Send> {
            Box::new(move |table| {
                let seat = table.seat(worker);
                loop {
                    let last = seat.cursor();
                    if seat.advance_cursor(last, last + 1) {
                        return turns.lock().unwrap().push(last + 1);
                    }
                }
            })
        };
        workers(&table, vec![choose(0, turns.clone()), choose(1, turns.clone()), choose(2, turns.clone())]);
        let mut turns = turns.lock().unwrap().clone();
        turns.sort_unstable();
        assert_eq!(turns, [1, 2, 3]);
    });
}

/// A table with one slot, and in it client 1 that has connected twice.
fn one_client() -> (Arc<Table>, ClientRef) {
    let table = Arc::new(table(1, 65536));
    let client = {
        let seat = table.seat(0);
        let mut locked = seat.lock(key(1)).unwrap();
        locked.arrive(1000, 0);
        locked.arrive(1000, 0).client
    };
    (table, client)
}

fn replace_by_client_2(table: &Table) {
    table.seat(1).lock(key(2)).unwrap().arrive(2000, 0);
}

#[test]
fn a_replaced_clients_server_is_not_recorded_for_its_successor() {
    exhaust(|| {
        let (table, old) = one_client();
        let record = Box::new(move |table: &Table| table.seat(0).record(old, 5));
        workers(&table, vec![record, Box::new(replace_by_client_2)]);
        let entry = table.clients().next().unwrap();
        assert_eq!((entry.key, entry.connects, entry.server), (key(2), 1, NO_SERVER));
    });
}

#[test]
fn a_report_shows_one_clients_entry_or_none_while_it_is_replaced() {
    bounded(3, || {
        let (table, _) = one_client();
        let report = Box::new(|table: &Table| {
            for entry in table.clients() {
                let figures = (entry.key, entry.connects, entry.last_use);
                assert!(figures == (key(1), 2, 1000) || figures == (key(2), 1, 2000), "{figures:?}");
            }
        });
        workers(&table, vec![report, Box::new(replace_by_client_2)]);
    });
}

#[test]
fn all_connections_of_a_client_record_servers_at_once() {
    exhaust(|| {
        let (table, client) = one_client();
        let record = |worker: u32| -> Box<dyn FnOnce(&Table) + Send> {
            Box::new(move |table| table.seat(worker).record(client, worker as i32))
        };
        workers(&table, vec![record(0), record(1)]);
        assert!([0, 1].contains(&table.clients().next().unwrap().server));
    });
}
