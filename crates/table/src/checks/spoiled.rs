//! Tests with a hostile worker that writes any value anywhere: the others neither panic nor hang.

use proptest::prelude::*;

use super::foreign::{held, opened};
use super::verify::verify;
use super::{growing_table, key};
use crate::sync::Ordering::*;
use crate::{
    ClientRef, FailureClass, NetArrival, NetLimits, Rate, Shape, Table, Timed, WorkerTable,
};

/// How the memory is overwritten.
#[derive(Clone, Debug)]
enum Spoil {
    /// All of it with random words; the seed.
    Everything(u64),
    /// All of it with one byte.
    Fill(u8),
    /// Some words with small numbers, which look like links.
    Links(Vec<(usize, u32)>),
}

fn spoil() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        any::<u64>().prop_map(Spoil::Everything),
        any::<u8>().prop_map(Spoil::Fill),
        prop::collection::vec((any::<usize>(), 0..12u32), 1..200).prop_map(Spoil::Links),
    ]
}

impl Spoil {
    fn apply(&self, table: &Table) {
        let words = table.memory.words();
        match self {
            Spoil::Everything(seed) => {
                let mut random = seed | 1;
                for word in words {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    word.store(random as u32, Relaxed);
                }
            }
            Spoil::Fill(byte) => {
                words.iter().for_each(|word| word.store(u32::from_ne_bytes([*byte; 4]), Relaxed))
            }
            Spoil::Links(changes) => {
                changes
                    .iter()
                    .for_each(|(at, value)| words[at % words.len()].store(*value, Relaxed));
            }
        }
    }
}

/// All operations of a worker and the supervisor.
fn everything(table: &Table, worker_table: &WorkerTable<'_>, now: u64) {
    let mut clients = vec![ClientRef::NOBODY];
    for n in 0..20 {
        // A lock may have an owner that never gives it back.
        if let Ok(mut locked) = worker_table.lock(key(n)) {
            let arrival = locked.arrive(now, 5000);
            locked.record(arrival.client, n as i32);
            clients.push(arrival.client);
        }
    }
    for client in clients {
        worker_table.record(client, 1);
        worker_table.add_client_bytes(client, 10, u64::MAX);
    }
    for server in [0, 1, 2, 3, u32::MAX] {
        let _ = (
            worker_table.reserve(server, Some(2)),
            worker_table.reserve(server, None),
            worker_table.connections(server),
        );
        worker_table.release(server);
        worker_table.add_server_bytes(server, 1, u64::MAX);
        let time = Timed { micros: u64::MAX, bucket: server as usize };
        worker_table.count_connect(server, time);
        worker_table.count_length(server, time);
        FailureClass::ALL.iter().for_each(|class| worker_table.count_failure(server, *class));
        worker_table.count_reached(server);
        worker_table.count_failover(server);
        let _ = table.server_statistics(server);
        let _ = (
            worker_table.server_view(server, now),
            worker_table.begin_probe(server, now, now + 1),
            worker_table.return_to_service(server, now),
        );
        let _ = (worker_table.set_blacklist(server, now, 1), table.server_totals(server));
        let _ = (
            worker_table.is_taken_out(server),
            worker_table.last_failure(server),
            worker_table.note_failure(server, now, 1),
            table.lift_blacklist(server, now),
            worker_table.returned(server),
        );
    }
    let numbers: Vec<u32> = (0..25).filter_map(|_| worker_table.claim_connection(20)).collect();
    assert!(numbers.iter().all(|number| *number < 20));
    worker_table.await_connection();
    for number in numbers.into_iter().chain([u32::MAX]) {
        let _ = worker_table.release_connection(number);
    }
    worker_table.want_nets(20);
    let limits = NetLimits {
        connections: Some(2),
        rate: Some(Rate { attempts: 3, seconds: 1 + now as u32 % 7 }),
    };
    for n in 0..20 {
        let _ = worker_table.arrive_in_net(n, key(n % 6), limits, now);
        let _ = worker_table.net_use(key(n), 1, now);
        let _ = worker_table.count_in_net(n, key(n % 7), now);
        let without_lock = table.view().hash_key.of(key(n % 5));
        let _ = worker_table.arrive_unlocked(n, without_lock, limits, now);
        assert!(table.view().holders_of(n) <= 20);
    }
    let open = (0..22).map(|number| (number, Some(number % 4)));
    let _ = worker_table.republish(20, open);
    worker_table.set_tarpitted(now as u32);
    (0..22).for_each(|number| worker_table.release_net(number));
    let _ = (worker_table.reserve_tarpit(2), worker_table.tarpitted());
    let _ = worker_table.advance_cursor(worker_table.cursor(), 1);
    worker_table.set_current(table.current() ^ 1);
    assert!(table.connections_open() <= 24);
    assert!(table.grow_clients(u32::MAX) <= 24);
    assert!(table.clients().count() <= 24);
}

/// All that another table takes over from this one.
fn carry(table: &Table, shard_slots: u32) {
    let other = growing_table(4, shard_slots, 8);
    let rows = [0, 1, 2, 3, u32::MAX];
    other.import_servers(&table.export_servers(&rows));
    assert!(other.import_clients(table.export_clients()).kept <= 8);
    let theirs = opened(table);
    let _ = other.mirror(2, &theirs, &rows, |_| true);
    assert!(held(&other, 2).0 <= 20);
    let _ = other.mirror(2, &theirs, &[], |_| true);
    assert_eq!((held(&other, 2), other.connections_open()), ((0, 0), 0));
    if other.layout.shards == 1 {
        verify(other.view());
    }
}

proptest! {
    #[test]
    fn nobody_panics_or_hangs(
        spoils in prop::collection::vec(spoil(), 1..4),
        shard_slots in prop_oneof![Just(3u32), Just(65536)],
    ) {
        let table = growing_table(9, shard_slots, 24);
        everything(&table, &table.worker_table(1), 1000);
        for spoil in spoils {
            spoil.apply(&table);
            everything(&table, &table.worker_table(1), 9000);
            carry(&table, shard_slots);
            // The hostile worker is detected and killed, and so are the others.
            table.reset_server(2);
            assert_eq!(table.server_statistics(2), Default::default());
            (0..4).for_each(|row| {
                table.reclaim(row);
                table.use_row(row);
            });
        }
        // A rebuild makes the client table consistent again.
        for shard in table.view().shards() {
            shard.lock.lock.orphan();
        }
        let worker_table = table.worker_table(2);
        table.view().net_shards[0].lock.0.lock.orphan();
        worker_table.want_nets(20);
        let limits = NetLimits { connections: Some(2), rate: None };
        // Later than any time that was written.
        let _ = worker_table.arrive_in_net(0, key(0), limits, u64::MAX);
        (0..20).for_each(|n| drop(worker_table.lock(key(n)).unwrap()));
        if table.layout.shards == 1 {
            verify(table.view());
        }
    }
}

#[test]
fn what_a_stranger_wrote_over_everything_is_put_right_by_the_living() {
    for word in [1, 2, 3, 4, 0x0101, 0x0102, 0x0707, 0x4141] {
        let shape = Shape { clients: 1, servers: 3, rows: 8, connections: 8 };
        let table = Table::create(shape).unwrap();
        (0..3).for_each(|row| table.use_row(row));
        let workers = [table.worker_table(0), table.worker_table(1)];
        let numbers =
            workers.each_ref().map(|worker_table| worker_table.claim_connection(8).unwrap());
        assert!(workers[0].reserve(1, None));
        table.memory.words().iter().take(1 << 21).for_each(|each| each.store(word, Relaxed));
        table.reclaim(2);
        let _ = workers[0].republish(8, [(numbers[0], Some(1))].into_iter());
        let _ = workers[1].republish(8, [(numbers[1], None)].into_iter());
        let counts = [0, 1, 2].map(|server| table.server_totals(server).connections);
        assert_eq!(counts, [0, 1, 0], "{word:x}");
        assert_eq!(
            numbers.map(|number| table.connection_owner(number)),
            [Some(0), Some(1)],
            "{word:x}"
        );
        assert_eq!(table.connections_open(), 2, "{word:x}");
        assert_eq!(workers[0].claim_connection(8), Some(2), "{word:x}");
        assert!(!table.reclaim(2), "{word:x}: nobody waits");
        assert!(workers[1].reserve(1, Some(2)) && !workers[1].reserve(1, Some(2)), "{word:x}");
        assert!(workers[1].lock([1; 16]).is_ok(), "{word:x}");
    }
}

#[test]
fn a_client_table_that_a_stranger_made_small_has_its_size_again() {
    for slots in [0, 1, 2, 5] {
        let table = growing_table(9, 65536, 24);
        let worker_table = table.worker_table(0);
        let arrive = |n, now| {
            worker_table.lock(key(n)).unwrap().arrive(now, 5000);
        };
        (0..9).for_each(|n| arrive(n, 1000));
        for shard in table.view().shards() {
            shard.lock.slots.store(slots, Relaxed);
            shard.lock.wanted.store(slots, Relaxed);
        }
        arrive(0, 2000);
        table.reclaim(2);
        assert_eq!(table.grow_clients(9), 9);
        (0..9).for_each(|n| arrive(n, 3000 + u64::from(n) * 1000));
        let known = (0..9).filter(|n| table.clients().any(|client| client.key == key(*n)));
        assert_eq!(known.count(), 9, "{slots}");
        verify(table.view());
    }
}

/// What a connection of a client is told that may have `most`.
fn arrive(worker_table: &WorkerTable<'_>, number: u32, n: u32, most: u32) -> NetArrival {
    let limits = NetLimits { connections: Some(most), rate: None };
    worker_table.arrive_in_net(number, key(n), limits, 1000)
}

#[test]
fn what_a_stranger_wrote_over_the_nets_is_put_right_by_the_living() {
    for word in (0..64).chain([0x0101, 0x8000_0000, 0x8000_0001, u32::MAX]) {
        let table = growing_table(9, 65536, 24);
        let workers = [0, 1].map(|row| table.worker_table(row));
        let numbers = workers.each_ref().map(|worker_table| {
            worker_table.want_nets(20);
            [0; 3].map(|_| worker_table.claim_connection(20).unwrap())
        });
        let each = || workers.iter().zip(numbers);
        for (worker_table, own) in each() {
            // The third is that of a client without limits.
            assert_eq!(arrive(worker_table, own[0], 1, 9), NetArrival::Counted);
            assert_eq!(arrive(worker_table, own[1], 2, 9), NetArrival::Counted);
        }
        table.memory.words().iter().for_each(|each| each.store(word, Relaxed));
        table.reclaim(2);
        for (worker_table, own) in each() {
            let _ = worker_table.republish(20, own.iter().map(|number| (*number, None)));
            worker_table.want_nets(20);
            worker_table.set_tarpitted(0);
        }
        for (worker_table, own) in each() {
            worker_table.release_net(own[2]);
            for (number, n) in [(own[0], 1), (own[1], 2)] {
                let counted = worker_table.count_in_net(number, key(n), 1000);
                assert_eq!(counted, NetArrival::Counted, "{word:x}");
            }
            worker_table.want_recounts();
        }
        let [one, other] = &workers;
        let open = |n| one.net_use(key(n), 1, 1000).open;
        // A connection of an unlimited client gets a number with a holder that the stranger wrote.
        let unlimited = one.claim_connection(20).unwrap();
        let refused = other.claim_connection(20).unwrap();
        assert!(matches!(arrive(other, refused, 1, 2), NetArrival::Beyond(..)), "{word:x}");
        assert_eq!((open(1), open(2)), (2, 2), "{word:x}");
        assert_eq!(arrive(other, refused, 1, 3), NetArrival::Counted, "{word:x}");
        table.view().want_recounts();
        assert!(matches!(arrive(one, unlimited, 1, 3), NetArrival::Beyond(..)), "{word:x}");
        assert_eq!((open(1), open(2)), (3, 2), "{word:x}");
        for (worker_table, own) in each() {
            own.iter().for_each(|number| worker_table.release_net(*number));
        }
        other.release_net(refused);
        assert_eq!((open(1), open(2)), (0, 0), "{word:x}");
        assert!(one.reserve_tarpit(1) && !other.reserve_tarpit(1), "{word:x}");
    }
}
