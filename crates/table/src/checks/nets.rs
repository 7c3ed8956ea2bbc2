//! Tests of the limits per client: counts and rates of nets, deaths at every store, recounts, and
//! many workers at once.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::AtomicU32;

use proptest::prelude::*;

use super::verify::verify;
use super::{key, table};
use crate::layout::{Layout, Room};
use crate::steps::dying_after;
use crate::sync::Ordering::*;
use crate::{
    Exceeded, NetArrival, NetLimits, NetUse, Rate, Shape, Table, TableKind, Telling, Unchecked,
    WorkerTable,
};

const SECOND: u64 = 1000;

fn most(connections: u32) -> NetLimits {
    NetLimits { connections: Some(connections), rate: None }
}

fn rate(attempts: u32, seconds: u32) -> NetLimits {
    NetLimits { connections: None, rate: Some(Rate { attempts, seconds }) }
}

/// A table with room for two nets of 40, or more.
fn with_nets(connections: u32) -> Table {
    let table = table(1, 65536);
    table.worker_table(0).want_nets(connections);
    table
}

/// Claims a number, and has it judged.
fn arrive(
    worker_table: &WorkerTable<'_>,
    n: u32,
    limits: NetLimits,
    now: u64,
) -> (u32, NetArrival) {
    let number = worker_table.claim_connection(20).unwrap();
    let arrival = worker_table.arrive_in_net(number, key(n), limits, now);
    if arrival != NetArrival::Counted {
        let _ = worker_table.release_connection(number);
    }
    (number, arrival)
}

fn leave(worker_table: &WorkerTable<'_>, number: u32) {
    worker_table.release_net(number);
    let _ = worker_table.release_connection(number);
}

fn open(table: &Table, n: u32) -> u32 {
    table.worker_table(2).net_use(key(n), 1, 0).open
}

/// Has all that is wanted done to the shard.
fn settle(table: &Table, now: u64) {
    table.worker_table(2).arrive_in_net(19, key(999), rate(1, 1), now);
}

#[test]
fn connections_of_all_workers_count_and_come_back() {
    let table = with_nets(20);
    let (one, two) = (table.worker_table(0), table.worker_table(1));
    two.want_nets(20);
    let (first, arrival) = arrive(&one, 1, most(2), SECOND);
    assert_eq!(arrival, NetArrival::Counted);
    assert_eq!(arrive(&two, 1, most(2), SECOND).1, NetArrival::Counted);
    let beyond = NetArrival::Beyond(Exceeded::Connections, Telling::Now);
    assert_eq!(arrive(&one, 1, most(2), SECOND).1, beyond);
    let again = NetArrival::Beyond(Exceeded::Connections, Telling::Known);
    assert_eq!(arrive(&two, 1, most(2), 60 * SECOND).1, again, "told of within a minute");
    assert_eq!(arrive(&two, 1, most(2), 61 * SECOND).1, beyond);
    assert_eq!(arrive(&two, 2, most(2), SECOND).1, NetArrival::Counted, "another net is served");
    leave(&one, first);
    assert_eq!(open(&table, 1), 1);
    assert_eq!(arrive(&one, 1, most(2), SECOND).1, NetArrival::Counted);
    // A dead worker's connections are no more.
    table.reclaim(1);
    settle(&table, 61 * SECOND);
    assert_eq!((open(&table, 1), open(&table, 2)), (1, 0));
    verify(table.view());
}

#[test]
fn a_connection_can_be_counted_for_another_net_and_whatever_the_limit() {
    let table = with_nets(20);
    let one = table.worker_table(0);
    let number = one.claim_connection(20).unwrap();
    assert_eq!(one.arrive_in_net(number, key(1), rate(5, 1), SECOND), NetArrival::Within);
    one.release_net(number);
    assert_eq!(open(&table, 1), 0);
    for n in [1, 1, 2] {
        assert_eq!(one.count_in_net(number, key(n), SECOND), NetArrival::Counted);
        assert_eq!(open(&table, n), 1);
    }
    assert_eq!(open(&table, 1), 0);
    one.release_net(number);
    one.release_net(number);
    one.release_net(u32::MAX);
    assert_eq!(open(&table, 2), 0);
}

#[test]
fn a_recount_without_the_owner_of_a_number_is_made_again_when_the_owner_is_there() {
    let table = with_nets(20);
    let one = table.worker_table(0);
    let (number, arrival) = arrive(&one, 1, most(2), SECOND);
    assert_eq!((arrival, open(&table, 1)), (NetArrival::Counted, 1));
    // A stranger frees the number, and has the counts made.
    table.view().owners[0].store(0, Relaxed);
    table.view().want_recounts();
    settle(&table, SECOND);
    assert_eq!(open(&table, 1), 0);
    let _ = one.republish(20, [(number, None)].into_iter());
    assert_eq!(one.count_in_net(number, key(1), SECOND), NetArrival::Counted);
    settle(&table, SECOND);
    assert_eq!(open(&table, 1), 1);
    leave(&one, number);
    assert_eq!(open(&table, 1), 0);
}

#[test]
fn a_net_without_an_attempt_for_long_makes_room_but_not_one_with_connections() {
    let table = with_nets(1);
    let one = table.worker_table(0);
    assert_eq!(table.view().layout.net_share(1), 2);
    let (number, arrival) = arrive(&one, 1, most(3), SECOND);
    assert_eq!(arrival, NetArrival::Counted);
    let attempts = |n| one.net_use(key(n), 10, 9 * SECOND).attempts;
    for n in [2, 3, 4] {
        assert_eq!(arrive(&one, n, rate(3, 10), u64::from(n) * SECOND).1, NetArrival::Within);
        assert_eq!((attempts(n), attempts(n - 1), open(&table, 1)), (1, 0, 1));
        verify(table.view());
    }
    // Both slots have connections.
    let (second, arrival) = arrive(&one, 5, most(3), 5 * SECOND);
    assert_eq!(arrival, NetArrival::Counted);
    assert_eq!(arrive(&one, 6, most(3), 6 * SECOND).1, NetArrival::Unchecked(Unchecked::NoSlot));
    assert_eq!(arrive(&one, 1, most(1), 6 * SECOND).0, second + 1);
    leave(&one, number);
    assert_eq!(arrive(&one, 6, most(3), 7 * SECOND).1, NetArrival::Counted);
    assert_eq!((open(&table, 1), open(&table, 5), open(&table, 6)), (0, 1, 1));
    // More connections, more room.
    one.want_nets(20);
    assert_eq!(arrive(&one, 7, most(3), 8 * SECOND).1, NetArrival::Counted);
    assert_eq!((open(&table, 5), open(&table, 6), open(&table, 7)), (1, 1, 1));
    verify(table.view());
}

#[test]
fn a_net_that_goes_on_and_on_is_not_forgotten() {
    let table = with_nets(20);
    let one = table.worker_table(0);
    // 40 slots. Every 20th attempt is of net 1.
    for n in 2..2000 {
        arrive(&one, n, rate(u32::MAX, 1000), SECOND);
        if n % 20 == 0 {
            arrive(&one, 1, rate(u32::MAX, 1000), SECOND);
            assert_eq!(one.net_use(key(1), 1000, SECOND).attempts, n / 20);
        }
    }
    assert!((2..1900).all(|n| one.net_use(key(n), 1000, SECOND).attempts == 0));
    verify(table.view());
}

#[test]
fn thousands_of_nets_with_connections_in_a_row_are_passed_at_once() {
    let shape = Shape { clients: 1, servers: 3, rows: 3, connections: 4000 };
    let room =
        Room { shard_slots: 65536, clients: 1, connections: 4000, net_shards: 1, least_nets: 0 };
    let table = Table::with_layout(Layout::new(shape, room).unwrap(), TableKind::Fixed).unwrap();
    let one = table.worker_table(0);
    one.want_nets(4000);
    for n in 0..4000 {
        let number = one.claim_connection(4000).unwrap();
        let arrival = one.arrive_in_net(number, key(n), most(1), SECOND);
        assert_eq!(arrival, NetArrival::Counted);
    }
    // They come once for each of the other slots, and then again.
    for n in 4000..20_000 {
        let arrival = one.arrive_in_net(0, key(n), rate(1, 1), 2 * SECOND);
        assert_eq!(arrival, NetArrival::Within, "{n}");
    }
    assert!((0..4000).all(|n| open(&table, n) == 1));
    verify(table.view());
}

#[test]
fn a_refused_attempt_counts_for_the_rate() {
    let table = with_nets(20);
    let one = table.worker_table(0);
    let at = |now| arrive(&one, 1, rate(2, 10), now).1;
    let beyond = |telling| NetArrival::Beyond(Exceeded::Rate, telling);
    assert_eq!([at(0), at(1000)], [NetArrival::Within; 2]);
    assert_eq!([at(2000), at(9000)], [beyond(Telling::Now), beyond(Telling::Known)]);
    // The attempts at 2 s and 9 s are left.
    assert_eq!(at(11_700), beyond(Telling::Known));
    assert_eq!(one.net_use(key(1), 10, 11_700), NetUse { open: 0, attempts: 3 });
    assert_eq!(at(23_000), NetArrival::Within);
}

#[test]
fn another_time_begins_the_count_of_attempts_again() {
    let table = with_nets(20);
    let one = table.worker_table(0);
    let used = |seconds, now| one.net_use(key(1), seconds, now).attempts;
    let day = 100 * 86_400 * SECOND;
    for _ in 0..8 {
        arrive(&one, 1, rate(5, 86_400), day);
    }
    assert_eq!((used(86_400, day), used(1, day)), (8, 0));
    assert_eq!(arrive(&one, 1, rate(5, 1), day + 1).1, NetArrival::Within);
    assert_eq!((used(86_400, day + 1), used(1, day + 1)), (0, 1));
    // Another number of them changes nothing.
    let beyond = NetArrival::Beyond(Exceeded::Rate, Telling::Known);
    assert_eq!(arrive(&one, 1, rate(1, 1), day + 2).1, beyond);
    assert_eq!(used(1, day + 2), 2);
}

#[test]
fn what_is_told_of_a_net_is_what_an_arrival_would_find_after_a_death() {
    let table = with_nets(20);
    let (one, two) = (table.worker_table(0), table.worker_table(1));
    two.want_nets(20);
    assert_eq!(arrive(&one, 1, most(2), SECOND).1, NetArrival::Counted);
    assert_eq!(arrive(&two, 1, most(2), SECOND).1, NetArrival::Counted);
    table.reclaim(1);
    assert_eq!(open(&table, 1), 1, "nobody has counted again");
    table.reclaim(0);
    assert_eq!(open(&table, 1), 0);
}

#[test]
fn a_slice_in_a_far_future_is_not_believed() {
    let table = with_nets(20);
    let one = table.worker_table(0);
    for last in [u64::MAX, u64::MAX - 1, 1 << 40] {
        arrive(&one, 1, rate(9, 10), 5000);
        table.view().nets[0].slice.store(last, Relaxed);
        table.view().nets[0].attempts.iter().for_each(|attempts| attempts.store(77, Relaxed));
        assert_eq!(arrive(&one, 1, rate(1, 10), 5000).1, NetArrival::Within, "{last}");
        table.view().nets[0].slice.store(last, Relaxed);
        let _ = arrive(&one, 1, rate(1, 7), 5000);
    }
}

proptest! {
    /// There are twice as many slots as connections.
    #[test]
    fn nobody_is_unchecked_while_a_slot_is_free(
        steps in prop::collection::vec((0..4u32, 1..200u32), 1..400),
    ) {
        let table = with_nets(20);
        let one = table.worker_table(0);
        let mut held = VecDeque::new();
        for (what, n) in steps {
            let arrival = match what {
                0 if held.len() < 20 => {
                    let (number, arrival) = arrive(&one, n, most(20), SECOND);
                    held.push_back((number, n));
                    prop_assert_eq!(arrival, NetArrival::Counted);
                    arrival
                }
                1 if !held.is_empty() => {
                    let (number, _) = held.remove(n as usize % held.len()).unwrap();
                    leave(&one, number);
                    continue;
                }
                // Without a number.
                _ => one.arrive_in_net(u32::MAX, key(n), rate(u32::MAX, 10), SECOND),
            };
            prop_assert!(!matches!(arrival, NetArrival::Unchecked(_)));
        }
        for n in 1..200 {
            let expected = held.iter().filter(|(_, of)| *of == n).count();
            prop_assert_eq!(open(&table, n) as usize, expected);
        }
        verify(table.view());
    }

    /// Against a list of all attempts: never more than the rate within the time, and every attempt
    /// is forgotten after the time and a sixteenth of it.
    #[test]
    fn a_rate_is_exact_but_for_a_sixteenth_of_its_time(
        seconds in 1..5000u32,
        most in 1..20u32,
        start in 0..u64::from(u32::MAX),
        steps in prop::collection::vec(0..1000u64, 1..300),
    ) {
        let table = with_nets(20);
        let one = table.worker_table(0);
        let time = u64::from(seconds) * SECOND;
        let (mut now, mut all) = (start, VecDeque::new());
        for step in steps {
            // From nothing to a fifth of the time.
            now += step * step * time / 5_000_000;
            all.push_back(now);
            let arrival = arrive(&one, 1, rate(most, seconds), now).1;
            let within = |time| all.iter().filter(|at| **at + time > now).count();
            let is_beyond = matches!(arrival, NetArrival::Beyond(Exceeded::Rate, _));
            if within(time) > most as usize {
                prop_assert!(is_beyond);
            }
            if within(time + time / 16 + 1) <= most as usize {
                prop_assert_eq!(arrival, NetArrival::Within);
            }
        }
    }

    /// Any arrivals, departures, deaths and changes of nets against a plain map.
    #[test]
    fn counts_are_those_of_a_map(
        steps in prop::collection::vec((0..6u8, 0..3u32, 0..5u32), 1..120),
    ) {
        let table = with_nets(20);
        let mut held: Vec<(u32, u32, u32)> = Vec::new();
        for (time, (what, worker, n)) in (0u64..).zip(steps) {
            let worker_table = table.worker_table(worker);
            worker_table.want_nets(20);
            let now = time * 400;
            let count = |held: &[(u32, u32, u32)], n| {
                held.iter().filter(|(_, _, of)| *of == n).count() as u32
            };
            match what {
                0..3 => if let Some(number) = worker_table.claim_connection(18) {
                    match worker_table.arrive_in_net(number, key(n), most(4), now) {
                        NetArrival::Counted => {
                            prop_assert!(count(&held, n) < 4);
                            held.push((worker, number, n));
                        }
                        arrival => {
                            let beyond = matches!(
                                arrival,
                                NetArrival::Beyond(Exceeded::Connections, _)
                            );
                            prop_assert!(beyond && count(&held, n) == 4, "{arrival:?}");
                            let _ = worker_table.release_connection(number);
                        }
                    }
                },
                3 => if let Some(at) = held.iter().position(|(of, ..)| *of == worker) {
                    leave(&worker_table, held.remove(at).1);
                },
                4 => if let Some(at) = held.iter().position(|(of, ..)| *of == worker)
                    && count(&held, n) < 4
                {
                    held[at].2 = n;
                    let counted = worker_table.count_in_net(held[at].1, key(n), now);
                    prop_assert_eq!(counted, NetArrival::Counted);
                },
                _ => {
                    table.reclaim(worker);
                    held.retain(|(of, ..)| *of != worker);
                    settle(&table, now);
                }
            }
            for n in 0..5 {
                prop_assert_eq!(open(&table, n), count(&held, n));
            }
            verify(table.view());
        }
    }
}

/// Runs an operation of worker 0, which dies after each of its stores in turn and is reclaimed.
/// What other workers have open is counted then, and nothing of the dead one.
fn die_everywhere(operation: impl Fn(&WorkerTable<'_>, u32)) -> u32 {
    for deaths in 0.. {
        let table = with_nets(2);
        let (dying, other) = (table.worker_table(0), table.worker_table(1));
        other.want_nets(2);
        let (kept, arrival) = arrive(&other, 1, most(9), SECOND);
        assert_eq!(arrival, NetArrival::Counted);
        let (number, arrival) = arrive(&dying, 1, most(9), SECOND);
        assert_eq!(arrival, NetArrival::Counted);
        for n in [5, 6] {
            arrive(&other, n, rate(9, 1), u64::from(n) * SECOND);
        }
        let survived = dying_after(deaths, || operation(&dying, number)).is_some();
        table.reclaim(0);
        settle(&table, 30 * SECOND);
        verify(table.view());
        assert_eq!((open(&table, 1), open(&table, 2)), (1, 0), "after {deaths} stores");
        leave(&other, kept);
        assert_eq!(open(&table, 1), 0);
        // All slots can be given to others.
        for n in 10..14 {
            assert_eq!(arrive(&other, n, most(1), 60 * SECOND).1, NetArrival::Counted);
        }
        if survived {
            return deaths;
        }
        assert!(deaths < 1000, "an operation with too many stores");
    }
    unreachable!()
}

#[test]
fn a_worker_dies_while_connections_arrive_and_end() {
    let arriving = die_everywhere(|worker_table, _| {
        arrive(worker_table, 1, most(9), 20 * SECOND);
    });
    let entering = die_everywhere(|worker_table, _| {
        for n in 2..6 {
            arrive(worker_table, n, most(9), 20 * SECOND);
        }
    });
    let leaving = die_everywhere(leave);
    let counting = die_everywhere(|worker_table, number| {
        worker_table.count_in_net(number, key(2), 20 * SECOND);
    });
    let attempting = die_everywhere(|worker_table, _| {
        for seconds in [1, 1, 7] {
            arrive(worker_table, 5, rate(1, seconds), 8 * SECOND);
        }
    });
    let deaths = [arriving, entering, leaving, counting, attempting];
    assert!(
        deaths.iter().zip([5, 30, 2, 10, 30]).all(|(deaths, least)| *deaths > least),
        "{deaths:?}"
    );
}

#[test]
fn a_stuck_lock_lets_nobody_exceed_a_limit() {
    let table = with_nets(20);
    let one = table.worker_table(0);
    let (number, arrival) = arrive(&one, 1, most(2), SECOND);
    assert_eq!(arrival, NetArrival::Counted);
    table.view().net_shards[0].lock.0.lock.own(1);
    assert_eq!(arrive(&one, 1, most(2), SECOND).1, NetArrival::Counted);
    assert!(matches!(arrive(&one, 1, most(2), SECOND).1, NetArrival::Beyond(..)));
    let unknown = arrive(&one, 2, most(2), SECOND).1;
    assert_eq!(unknown, NetArrival::Unchecked(Unchecked::LockStuck));
    assert_eq!(one.count_in_net(number, key(1), SECOND), NetArrival::Counted);
    assert_eq!(open(&table, 1), 2, "it was counted already");
    leave(&one, number);
    assert_eq!(open(&table, 1), 1);
    table.reclaim(1);
    settle(&table, SECOND);
    assert_eq!(open(&table, 1), 1);
    verify(table.view());
}

#[test]
fn the_tarpit_has_room_for_so_many_and_the_dead_leave_it() {
    let table = with_nets(20);
    let (one, two) = (table.worker_table(0), table.worker_table(1));
    assert!(one.reserve_tarpit(3) && two.reserve_tarpit(3) && two.reserve_tarpit(3));
    assert!(!one.reserve_tarpit(3) && !two.reserve_tarpit(3));
    assert!(!one.reserve_tarpit(0));
    two.set_tarpitted(1);
    assert!(one.reserve_tarpit(3));
    assert_eq!(one.tarpitted(), 3);
    table.reclaim(0);
    assert_eq!(two.tarpitted(), 1);
}

/// Threads replace processes here; the table cannot see the difference.
#[test]
fn of_64_workers_at_once_exactly_as_many_get_in_as_may() {
    const WORKERS: u32 = 64;
    const LIMIT: u32 = 20;
    const ROUNDS: u64 = 50;
    let table =
        Table::create(Shape { clients: 1, servers: 3, rows: WORKERS, connections: 256 }).unwrap();
    table.worker_table(0).want_nets(256);
    let (together, inside) = (Barrier::new(WORKERS as usize), AtomicU32::new(0));
    // Its entry is there: what is new may be let in unchecked while a lock is stuck.
    let first = table.worker_table(0).claim_connection(256).unwrap();
    let arrival = table.worker_table(0).arrive_in_net(first, key(1), most(LIMIT), SECOND);
    assert_eq!(arrival, NetArrival::Counted);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (table, together, inside) = (&table, &together, &inside);
            scope.spawn(move || {
                let worker_table = table.worker_table(worker);
                worker_table.want_nets(256);
                for round in 0..ROUNDS {
                    let number = worker_table.claim_connection(256).unwrap();
                    together.wait();
                    let now = (round + 1) * SECOND;
                    let arrival = worker_table.arrive_in_net(number, key(1), most(LIMIT), now);
                    let is_in = arrival == NetArrival::Counted;
                    assert!(is_in || matches!(arrival, NetArrival::Beyond(..)), "{arrival:?}");
                    inside.fetch_add(is_in.into(), SeqCst);
                    together.wait();
                    assert_eq!(inside.load(SeqCst), LIMIT - 1, "in round {round}");
                    together.wait();
                    inside.store(0, SeqCst);
                    leave(&worker_table, number);
                }
            });
        }
    });
    leave(&table.worker_table(0), first);
    assert_eq!(table.worker_table(0).net_use(key(1), 1, 0).open, 0);
}
