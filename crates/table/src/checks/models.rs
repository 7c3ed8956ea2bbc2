//! Models for loom, which runs them in every order that the memory model allows: `RUSTFLAGS="--cfg
//! loom" cargo test -p pen-table --lib --release`.
//!
//! A worker dies by forgetting what it holds. No wait times out in a model, so a worker that is
//! never woken is a deadlock, which loom reports.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::{key, table};
use crate::clients::entry::NO_SERVER;
use crate::{ClientRef, NetArrival, NetLimits, Table};

/// Runs each closure as a worker in its own thread, and waits for all.
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

/// The eventfd on which a paused worker sleeps.
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

/// Runs a model in all orders with at most this many preemptions, where all orders would be too
/// many ("CHESS", Musuvathi and Qadeer, 2007).
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
                let worker_table = table.worker_table(worker);
                worker_table.lock(key(1)).unwrap().arrive(0, 0);
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
            Box::new(move |table| drop(table.worker_table(worker).lock(key(1)).unwrap()))
        };
        workers(&table, vec![lock(0), lock(1), lock(2)]);
    });
}

#[test]
fn a_dead_owners_lock_goes_to_one_that_waits_and_then_to_the_other() {
    bounded(2, || {
        let table = Arc::new(table(2, 65536));
        {
            let dying = table.worker_table(0);
            let mut locked = dying.lock(key(1)).unwrap();
            locked.arrive(0, 0);
            std::mem::forget(locked);
        }
        let wait = |worker: u32, rebuilt: Arc<Mutex<u32>>| -> Box<dyn FnOnce(&Table) + Send> {
            Box::new(move |table| {
                let worker_table = table.worker_table(worker);
                worker_table.lock(key(1)).unwrap().arrive(0, 0);
                if let Some(kept) = worker_table.take_rebuilt() {
                    assert!(kept >= 1);
                    *rebuilt.lock().unwrap() += 1;
                }
            })
        };
        let rebuilt = Arc::new(Mutex::new(0));
        let supervisor = Box::new(|table: &Table| {
            table.reclaim(0);
        });
        workers(&table, vec![wait(1, rebuilt.clone()), wait(2, rebuilt.clone()), supervisor]);
        assert_eq!(*rebuilt.lock().unwrap(), 1);
        assert_eq!(table.clients().next().unwrap().connects, 3);
    });
}

/// Several workers claim and release a number below 2 at the same time, with at most `preemptions`
/// preemptions.
fn claim_at_once(count: u32, preemptions: usize) {
    bounded(preemptions, move || {
        let table = Arc::new(table(1, 65536));
        // Not loom's type: it only observes, and must not add interleavings.
        let held = std::sync::Arc::new([const { AtomicBool::new(false) }; 2]);
        let claim = |worker: u32| -> Box<dyn FnOnce(&Table) + Send> {
            let held = held.clone();
            Box::new(move |table| {
                let worker_table = table.worker_table(worker);
                let Some(number) = worker_table.claim_connection(2) else { return };
                // The index also checks the limit.
                assert!(!held[number as usize].swap(true, SeqCst));
                thread::yield_now();
                held[number as usize].store(false, SeqCst);
                let _ = worker_table.release_connection(number);
            })
        };
        workers(&table, (0..count).map(claim).collect());
        assert_eq!(table.connections_open(), 0);
        // Now the lowest number comes first again.
        let worker_table = table.worker_table(0);
        assert_eq!(
            [2, 2, 2].map(|limit| worker_table.claim_connection(limit)),
            [Some(0), Some(1), None]
        );
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
fn a_waiter_for_a_number_is_woken() {
    exhaust(|| {
        let table = Arc::new(table(1, 65536));
        let eventfd = Arc::new(Eventfd::default());
        assert_eq!(table.worker_table(0).claim_connection(1), Some(0));
        let (writer, sleeper) = (eventfd.clone(), eventfd);
        let release = Box::new(move |table: &Table| {
            if table.worker_table(0).release_connection(0) {
                writer.write();
            }
        });
        let wait = Box::new(move |table: &Table| {
            let worker_table = table.worker_table(1);
            if worker_table.claim_connection(1).is_some() {
                return;
            }
            worker_table.await_connection();
            if worker_table.claim_connection(1).is_none() {
                sleeper.sleep();
                assert_eq!(worker_table.claim_connection(1), Some(0));
            }
        });
        workers(&table, vec![release, wait]);
    });
}

#[test]
fn a_waiter_for_a_dead_workers_number_is_woken_by_the_reclaim() {
    exhaust(|| {
        let table = Arc::new(table(1, 65536));
        let eventfd = Arc::new(Eventfd::default());
        assert_eq!(table.worker_table(0).claim_connection(1), Some(0));
        let (writer, sleeper) = (eventfd.clone(), eventfd);
        let reclaim = Box::new(move |table: &Table| {
            if table.reclaim(0) {
                writer.write();
            }
        });
        let wait = Box::new(move |table: &Table| {
            let worker_table = table.worker_table(1);
            worker_table.await_connection();
            if worker_table.claim_connection(1).is_none() {
                sleeper.sleep();
                assert_eq!(worker_table.claim_connection(1), Some(0));
            }
        });
        workers(&table, vec![reclaim, wait]);
    });
}

/// What the kernel does for workers that wait for a slot. A write wakes one sleeping worker;
/// workers that do not sleep find it later (EPOLLEXCLUSIVE and EPOLLET at an eventfd that is never
/// read).
#[derive(Default)]
struct Vacancy {
    watchers: Mutex<Watchers>,
    changed: Condvar,
}

#[derive(Default)]
struct Watchers {
    was_written: bool,
    watch: [bool; 3],
    sleep: [bool; 3],
    notified: [bool; 3],
}

impl Vacancy {
    fn write(&self) {
        let mut watchers = self.watchers.lock().unwrap();
        watchers.was_written = true;
        for worker in 0..3 {
            if watchers.watch[worker] {
                watchers.notified[worker] = true;
                if std::mem::take(&mut watchers.sleep[worker]) {
                    return self.changed.notify_all();
                }
            }
        }
    }

    fn sleep(&self, worker: usize) {
        let mut watchers = self.watchers.lock().unwrap();
        if !watchers.watch[worker] {
            watchers.watch[worker] = true;
            watchers.notified[worker] |= watchers.was_written;
        }
        while !watchers.notified[worker] {
            watchers.sleep[worker] = true;
            watchers = self.changed.wait(watchers).unwrap();
        }
        watchers.sleep[worker] = false;
        watchers.notified[worker] = false;
    }

    fn leave(&self, worker: usize) {
        let mut watchers = self.watchers.lock().unwrap();
        watchers.watch[worker] = false;
        watchers.notified[worker] = false;
    }
}

/// A worker that takes clients one after the other, each with a slot, until none waits: the same as
/// `relay::accept` at `-x`.
fn take_clients(
    table: &Table,
    worker: u32,
    clients: &std::sync::atomic::AtomicI32,
    vacancy: &Vacancy,
) {
    let worker_table = table.worker_table(worker);
    loop {
        let number = worker_table.claim_connection(1).or_else(|| {
            worker_table.await_connection();
            worker_table.claim_connection(1).inspect(|_| worker_table.stop_waiting())
        });
        let Some(number) = number else {
            vacancy.sleep(worker as usize);
            continue;
        };
        if clients.fetch_sub(1, SeqCst) > 0 {
            // The client is served. This worker looks for the next client itself, so it need not
            // wake another.
            let _ = worker_table.release_connection(number);
            continue;
        }
        worker_table.stop_waiting();
        if worker_table.release_connection(number) {
            vacancy.write();
        }
        return vacancy.leave(worker as usize);
    }
}

/// One slot, which worker 0 frees with `free`; two other workers wait for it with this many
/// clients. All clients are served, and no worker sleeps for ever.
fn one_slot_for_all(clients: i32, free: fn(&Table, &Vacancy)) {
    bounded(1, move || {
        let table = Arc::new(table(1, 65536));
        assert_eq!(table.worker_table(0).claim_connection(1), Some(0));
        let vacancy = Arc::new(Vacancy::default());
        // Not loom's type: the listener's queue is the kernel's.
        let queue = std::sync::Arc::new(std::sync::atomic::AtomicI32::new(clients));
        let take = |worker: u32| -> Box<dyn FnOnce(&Table) + Send> {
            let (queue, vacancy) = (queue.clone(), vacancy.clone());
            Box::new(move |table| take_clients(table, worker, &queue, &vacancy))
        };
        let freer = vacancy.clone();
        workers(&table, vec![take(1), take(2), Box::new(move |table| free(table, &freer))]);
        assert!(queue.load(SeqCst) <= 0);
        assert_eq!(table.connections_open(), 0);
    });
}

#[test]
fn a_slot_that_its_worker_leaves_to_others_wakes_one_and_in_the_end_all() {
    one_slot_for_all(1, |table, vacancy| {
        if table.worker_table(0).release_connection(0) {
            vacancy.write();
        }
    });
}

#[test]
fn clients_are_served_by_the_worker_that_gets_the_slot() {
    one_slot_for_all(2, |table, vacancy| {
        if table.worker_table(0).release_connection(0) {
            vacancy.write();
        }
    });
}

#[test]
fn a_slot_whose_worker_died_before_it_woke_anybody_is_not_lost() {
    one_slot_for_all(1, |table, vacancy| {
        let _ = table.worker_table(0).release_connection(0);
        // The supervisor wakes all workers.
        if table.reclaim(0) {
            vacancy.write();
        }
    });
}

/// Two workers reserve at a limit of one with `reserve`; checks the number of successes.
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
        assert_eq!(table.worker_table(2).connections(0), reserved);
    });
}

#[test]
fn a_limit_of_one_is_reached_and_not_exceeded() {
    reserve_twice(|table, worker| table.worker_table(worker).reserve(0, Some(1)), &[1]);
}

#[test]
fn a_limit_of_one_is_not_exceeded_without_the_lock() {
    reserve_twice(|table, worker| table.view().reserve_unlocked(worker, 0, 1), &[0, 1]);
}

#[test]
fn a_limit_of_one_is_not_exceeded_with_and_without_the_lock() {
    let one = |table: &Table, worker: u32| match worker {
        0 => table.worker_table(0).reserve(0, Some(1)),
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
                let worker_table = table.worker_table(worker);
                loop {
                    let last = worker_table.cursor();
                    if worker_table.advance_cursor(last, last + 1) {
                        return turns.lock().unwrap().push(last + 1);
                    }
                }
            })
        };
        workers(
            &table,
            vec![choose(0, turns.clone()), choose(1, turns.clone()), choose(2, turns.clone())],
        );
        let mut turns = turns.lock().unwrap().clone();
        turns.sort_unstable();
        assert_eq!(turns, [1, 2, 3]);
    });
}

/// A table with one slot, which holds client 1 after two connects.
fn one_client() -> (Arc<Table>, ClientRef) {
    let table = Arc::new(table(1, 65536));
    let client = {
        let worker_table = table.worker_table(0);
        let mut locked = worker_table.lock(key(1)).unwrap();
        locked.arrive(1000, 0);
        locked.arrive(1000, 0).client
    };
    (table, client)
}

fn replace_by_client_2(table: &Table) {
    table.worker_table(1).lock(key(2)).unwrap().arrive(2000, 0);
}

#[test]
fn a_replaced_clients_server_is_not_recorded_for_its_successor() {
    exhaust(|| {
        let (table, old) = one_client();
        let record = Box::new(move |table: &Table| table.worker_table(0).record(old, 5));
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
                assert!(
                    figures == (key(1), 2, 1000) || figures == (key(2), 1, 2000),
                    "{figures:?}"
                );
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
            Box::new(move |table| table.worker_table(worker).record(client, worker as i32))
        };
        workers(&table, vec![record(0), record(1)]);
        assert!([0, 1].contains(&table.clients().next().unwrap().server));
    });
}

const ONE: NetLimits = NetLimits { connections: Some(1), rate: None };

/// What a connection of client 1 is told in a worker that can or cannot take the lock.
fn arrive_in_net(table: &Table, worker: u32, is_locked: bool) -> NetArrival {
    let worker_table = table.worker_table(worker);
    match is_locked {
        true => worker_table.arrive_in_net(worker, key(1), ONE, 0),
        false => {
            let hashed = table.view().hash_key.of(key(1));
            worker_table.arrive_unlocked(worker, hashed, ONE, 0)
        }
    }
}

/// A table with the entry of client 1's net, with as many connections, which worker 2 has.
fn one_net(connections: u32) -> Arc<Table> {
    let table = Arc::new(table(1, 65536));
    {
        let worker_table = table.worker_table(2);
        worker_table.want_nets(1);
        (0..3).for_each(|_| {
            let _ = worker_table.claim_connection(20);
        });
        let arrival = arrive_in_net(&table, 2, true);
        assert_eq!(arrival, NetArrival::Counted);
        if connections == 0 {
            worker_table.release_net(2);
        }
    }
    table
}

fn counted_after_all(table: &Table) -> u32 {
    // A recount that is wanted is made by the next owner of the lock.
    let worker_table = table.worker_table(2);
    let _ = worker_table.arrive_in_net(9, key(1), NetLimits { connections: None, ..ONE }, 0);
    worker_table.net_use(key(1), 1, 0).open
}

#[test]
fn of_two_connections_of_a_net_one_gets_in_with_and_without_the_lock() {
    for locked in [[true, true], [true, false], [false, false]] {
        bounded(3, move || {
            let table = one_net(0);
            let inside = Arc::new(Mutex::new(0));
            let one = |worker: u32, inside: Arc<Mutex<u32>>| -> Box<dyn FnOnce(&Table) + Send> {
                Box::new(move |table| {
                    if arrive_in_net(table, worker, locked[worker as usize]) == NetArrival::Counted
                    {
                        *inside.lock().unwrap() += 1;
                    }
                })
            };
            workers(&table, vec![one(0, inside.clone()), one(1, inside.clone())]);
            assert_eq!(*inside.lock().unwrap(), 1);
            assert_eq!(counted_after_all(&table), 1);
        });
    }
}

#[test]
fn a_connection_that_ends_during_a_recount_is_counted_no_more() {
    bounded(3, || {
        let table = one_net(1);
        let end = Box::new(|table: &Table| table.worker_table(2).release_net(2));
        let recount = Box::new(|table: &Table| {
            table.view().want_recounts();
            let worker_table = table.worker_table(0);
            let _ =
                worker_table.arrive_in_net(0, key(1), NetLimits { connections: None, ..ONE }, 0);
        });
        workers(&table, vec![end, recount]);
        assert_eq!(counted_after_all(&table), 0);
    });
}

#[test]
fn a_connection_that_comes_without_the_lock_during_a_recount_is_counted() {
    bounded(3, || {
        let table = one_net(0);
        let come = Box::new(|table: &Table| {
            assert_eq!(arrive_in_net(table, 1, false), NetArrival::Counted);
        });
        let recount = Box::new(|table: &Table| {
            table.view().want_recounts();
            let worker_table = table.worker_table(0);
            let _ =
                worker_table.arrive_in_net(0, key(1), NetLimits { connections: None, ..ONE }, 0);
        });
        workers(&table, vec![come, recount]);
        assert_eq!(counted_after_all(&table), 1);
    });
}

#[test]
fn a_slot_is_marked_as_busy_no_longer_than_its_net_has_a_connection() {
    bounded(3, || {
        let table = one_net(1);
        let end = Box::new(|table: &Table| table.worker_table(2).release_net(2));
        let replace = Box::new(|table: &Table| {
            let worker_table = table.worker_table(0);
            // There are two slots, and the hand goes over both.
            for n in [2, 3, 4] {
                let none = NetLimits { connections: None, ..ONE };
                let arrival = worker_table.arrive_in_net(0, key(n), none, 0);
                assert_eq!(arrival, NetArrival::Within);
            }
        });
        workers(&table, vec![end, replace]);
        let view = table.view();
        let shard = view.net_shard(0, 2);
        for (slot, entry) in (0u32..).zip(shard.entries) {
            assert_eq!(entry.open().count(), 0);
            assert!(!entry.open().is_busy() && !shard.order.is_busy(slot));
        }
    });
}

#[test]
fn a_net_that_is_replaced_takes_no_connection_of_the_former() {
    bounded(3, || {
        let table = one_net(0);
        let come = Box::new(|table: &Table| {
            let _ = arrive_in_net(table, 1, false);
        });
        let replace = Box::new(|table: &Table| {
            let worker_table = table.worker_table(0);
            // There are two slots.
            for n in [2, 3] {
                let none = NetLimits { connections: None, ..ONE };
                let _ = worker_table.arrive_in_net(0, key(n), none, 0);
            }
        });
        workers(&table, vec![come, replace]);
        let counts = [2, 3].map(|n| table.worker_table(2).net_use(key(n), 1, 0).open);
        assert_eq!(counts, [0, 0]);
    });
}

const TWO: NetLimits = NetLimits { connections: Some(2), rate: None };

/// Connections that are inside a limit. It is not loom's type: it only observes.
struct Inside {
    now: std::sync::atomic::AtomicU32,
    most: u32,
}

impl Inside {
    fn new(open: u32, most: u32) -> std::sync::Arc<Inside> {
        std::sync::Arc::new(Inside { now: open.into(), most })
    }

    fn note(&self, arrival: NetArrival) {
        if arrival == NetArrival::Counted {
            assert!(self.now.fetch_add(1, SeqCst) < self.most, "one too many is inside");
        }
    }

    fn leave(&self) {
        self.now.fetch_sub(1, SeqCst);
    }
}

/// A table with the entry of client 1's net. Worker 2 has the numbers 0 to 3, and of them so many
/// are counted as open: 2, then 3.
fn open_of_net(open: u32) -> Arc<Table> {
    let table = Arc::new(table(1, 65536));
    {
        let worker_table = table.worker_table(2);
        worker_table.want_nets(1);
        (0..4).for_each(|_| {
            let _ = worker_table.claim_connection(20);
        });
        for number in [2, 3] {
            assert_eq!(worker_table.arrive_in_net(number, key(1), TWO, 0), NetArrival::Counted);
        }
        (2 + open..4).for_each(|number| worker_table.release_net(number));
    }
    table
}

/// A worker with a connection of client 1, which has the number of the worker.
fn arrives(
    worker: u32,
    limits: NetLimits,
    is_locked: bool,
    inside: &std::sync::Arc<Inside>,
) -> Box<dyn FnOnce(&Table) + Send> {
    let inside = inside.clone();
    Box::new(move |table| {
        let worker_table = table.worker_table(worker);
        inside.note(match is_locked {
            true => worker_table.arrive_in_net(worker, key(1), limits, 0),
            false => {
                let hashed = table.view().hash_key.of(key(1));
                worker_table.arrive_unlocked(worker, hashed, limits, 0)
            }
        });
    })
}

/// A worker that makes a recount and then has a connection of client 1.
fn recounts_and_arrives(
    limits: NetLimits,
    inside: &std::sync::Arc<Inside>,
) -> Box<dyn FnOnce(&Table) + Send> {
    let arrives = arrives(0, limits, true, inside);
    Box::new(move |table| {
        table.view().want_recounts();
        arrives(table);
    })
}

#[test]
fn a_connection_that_ends_during_a_recount_makes_room_for_one() {
    for (is_locked, preemptions) in [(true, 2), (false, 1)] {
        bounded(preemptions, move || {
            let (table, inside) = (open_of_net(2), Inside::new(2, 2));
            let ending = inside.clone();
            let end: Box<dyn FnOnce(&Table) + Send> = Box::new(move |table| {
                ending.leave();
                table.worker_table(2).release_net(2);
            });
            let recount = recounts_and_arrives(TWO, &inside);
            workers(&table, vec![end, recount, arrives(1, TWO, is_locked, &inside)]);
            assert_eq!(counted_after_all(&table), inside.now.load(SeqCst));
        });
    }
}

#[test]
fn connections_that_come_without_the_lock_during_a_recount_keep_to_the_limit() {
    for (others, preemptions) in [(&[1][..], 3), (&[1, 2], 1)] {
        bounded(preemptions, move || {
            let (table, inside) = (open_of_net(0), Inside::new(0, 1));
            let recount = recounts_and_arrives(ONE, &inside);
            let others = others.iter().map(|worker| arrives(*worker, ONE, false, &inside));
            workers(&table, [recount].into_iter().chain(others).collect());
            assert_eq!(counted_after_all(&table), inside.now.load(SeqCst));
        });
    }
}

#[test]
fn a_connection_that_is_counted_again_is_counted_all_the_time() {
    for is_locked in [true, false] {
        bounded(3, move || {
            let (table, inside) = (open_of_net(2), Inside::new(2, 2));
            let again: Box<dyn FnOnce(&Table) + Send> = Box::new(|table| {
                let counted = table.worker_table(2).count_in_net(2, key(1), 0);
                assert_eq!(counted, NetArrival::Counted);
            });
            workers(&table, vec![again, arrives(1, TWO, is_locked, &inside)]);
            assert_eq!(counted_after_all(&table), 2);
        });
    }
}
