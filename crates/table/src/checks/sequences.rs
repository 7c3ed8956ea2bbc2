//! Random sequences of operations, compared with a plain map.

use std::collections::HashMap;

use proptest::prelude::*;

use super::verify::verify;
use super::{growing_table, key};
use crate::clients::entry::NO_SERVER;
use crate::{ClientEntry, ClientRef, Occupant, Table};

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Worker, client, milliseconds since the operation before, tracking time.
    Arrive(u32, u32, u64, u64),
    /// The index of an earlier arrival, server.
    Record(usize, i32),
    /// The index of an earlier arrival, bytes.
    Bytes(usize, u64),
    /// The new number of slots.
    Grow(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    let step = prop_oneof![Just(0u64), 1..400u64, 900..3000u64];
    prop_oneof![
        6 => (0..3u32, 0..24u32, step, prop_oneof![Just(0u64), Just(2000)])
            .prop_map(|(w, c, s, t)| Operation::Arrive(w, c, s, t)),
        2 => (0..40usize, -3..6i32).prop_map(|(at, server)| Operation::Record(at, server)),
        2 => (0..40usize, 0..1000u64).prop_map(|(at, bytes)| Operation::Bytes(at, bytes)),
        1 => (1..40u32).prop_map(Operation::Grow),
    ]
}

/// The expected content of a client's entry; the reference is that of its present entry.
struct Known {
    client: ClientRef,
    entry: ClientEntry,
}

#[derive(Default)]
struct Model {
    clients: HashMap<[u8; 16], Known>,
    arrivals: Vec<ClientRef>,
    now: u64,
    /// Slots of the table.
    slots: u32,
}

impl Model {
    fn run(&mut self, table: &Table, operation: Operation) {
        match operation {
            Operation::Arrive(worker, client, step, tracking) => {
                self.now += step;
                self.arrive(table, worker, key(client), tracking);
            }
            Operation::Record(at, server) => {
                let Some(client) = self.arrivals.get(at).copied() else { return };
                table.worker_table(0).record(client, server);
                if let Some(entry) = self.entry(client) {
                    entry.server = server;
                }
            }
            Operation::Bytes(at, bytes) => {
                let Some(client) = self.arrivals.get(at).copied() else { return };
                table.worker_table(0).add_client_bytes(client, bytes, 2 * bytes);
                if let Some(entry) = self.entry(client) {
                    entry.sent += bytes;
                    entry.received += 2 * bytes;
                }
            }
            Operation::Grow(slots) => {
                let most = table.grow_clients(slots);
                self.slots = self.slots.max(most);
            }
        }
    }

    fn entry(&mut self, client: ClientRef) -> Option<&mut ClientEntry> {
        self.clients.values_mut().find(|known| known.client == client).map(|known| &mut known.entry)
    }

    fn arrive(&mut self, table: &Table, worker: u32, key: [u8; 16], tracking: u64) {
        let now = self.now;
        let arrival = table.worker_table(worker).lock(key).unwrap().arrive(now, tracking);
        self.arrivals.push(arrival.client);
        let fresh = ClientEntry {
            slot: arrival.client.slot,
            key,
            last_use: now,
            server: NO_SERVER,
            connects: 1,
            sent: 0,
            received: 0,
        };
        let known = self.clients.contains_key(&key);
        assert_eq!(arrival.former == Occupant::TheClient, known);
        match self.clients.get_mut(&key) {
            Some(known) if tracking == 0 || now - known.entry.last_use <= tracking => {
                assert_eq!(arrival.client, known.client);
                assert_eq!(arrival.recorded, known.entry.server);
                known.entry.last_use = now;
                known.entry.connects += 1;
            }
            Some(known) => {
                assert_eq!(arrival.client.slot, known.client.slot);
                assert_ne!(arrival.client.generation, known.client.generation);
                assert_eq!(arrival.recorded, NO_SERVER);
                *known = Known { client: arrival.client, entry: fresh };
            }
            None => {
                assert_eq!(arrival.recorded, NO_SERVER);
                let clients = self.clients.len();
                self.replace(table, arrival.client);
                let is_replaced = self.clients.len() < clients;
                assert_eq!(arrival.former == Occupant::AnotherClient, is_replaced);
                self.clients.insert(key, Known { client: arrival.client, entry: fresh });
            }
        }
    }

    /// Removes the client whose slot was given away. No client of its shard may be older by a
    /// second, and the shard may have no free slot.
    fn replace(&mut self, table: &Table, client: ClientRef) {
        let shard = (0..table.layout.shards)
            .map(|shard| {
                let first = table.layout.first_slot(shard);
                first..first + table.layout.share(self.slots)
            })
            .find(|slots| slots.contains(&client.slot))
            .unwrap();
        let inside: Vec<&Known> =
            self.clients.values().filter(|known| shard.contains(&known.client.slot)).collect();
        let Some(victim) = inside.iter().find(|known| known.client.slot == client.slot) else {
            return;
        };
        assert_eq!(inside.len(), shard.len(), "replaced one although slots were free");
        assert!(
            inside.iter().all(|known| victim.entry.last_use / 1000 <= known.entry.last_use / 1000)
        );
        let key = victim.entry.key;
        self.clients.remove(&key);
    }
}

fn check(clients: u32, shard_slots: u32, operations: Vec<Operation>) {
    let table = growing_table(clients, shard_slots, clients + 10);
    let mut model = Model { slots: clients, ..Model::default() };
    for operation in operations {
        model.run(&table, operation);
        verify(table.view());
        let mut wanted: Vec<ClientEntry> =
            model.clients.values().map(|known| known.entry).collect();
        wanted.sort_unstable_by_key(|entry| entry.slot);
        assert_eq!(table.clients().collect::<Vec<_>>(), wanted);
    }
}

proptest! {
    #[test]
    fn one_shard(clients in 1..20u32, operations in prop::collection::vec(operation(), 1..120)) {
        check(clients, 65536, operations);
    }

    #[test]
    fn several_shards(
        clients in 5..20u32,
        operations in prop::collection::vec(operation(), 1..120),
    ) {
        check(clients, 4, operations);
    }
}

#[test]
fn a_table_grows_far_and_loses_nobody() {
    let shape = crate::Shape { clients: 10, servers: 1, rows: 1, connections: 1 };
    let table = Table::create(shape).unwrap();
    let worker_table = table.worker_table(0);
    let first: Vec<_> = (0..10)
        .map(|n| worker_table.lock(key(n)).unwrap().arrive(u64::from(n), 0).client)
        .collect();
    for slots in [11, 5, 100_000] {
        table.grow_clients(slots);
    }
    for n in 10..100_000 {
        worker_table.lock(key(n)).unwrap().arrive(1_000_000 + u64::from(n), 0);
    }
    assert_eq!(table.clients().count(), 100_000);
    for (n, client) in (0..).zip(first) {
        assert_eq!(worker_table.lock(key(n)).unwrap().arrive(5_000_000, 0).client, client);
    }
    assert_eq!(worker_table.take_rebuilt(), None);
    verify(table.view());
    // The table is full again: the oldest client is replaced.
    worker_table.lock(key(100_000)).unwrap().arrive(6_000_000, 0);
    assert_eq!(table.clients().count(), 100_000);
    assert!(!table.clients().any(|entry| entry.key == key(10)));
}

#[test]
fn large_tables_keep_every_client_until_a_shard_is_full() {
    // Two shards of 40000 slots, half full. The chance that one overflows is practically zero (45
    // standard deviations).
    let shape = crate::Shape { clients: 80_000, servers: 1, rows: 1, connections: 1 };
    let table = Table::create(shape).unwrap();
    assert_eq!(table.layout.shards, 2);
    let worker_table = table.worker_table(0);
    let first: Vec<_> =
        (0..40_000).map(|n| worker_table.lock(key(n)).unwrap().arrive(u64::from(n), 0)).collect();
    let second: Vec<_> =
        (0..40_000).map(|n| worker_table.lock(key(n)).unwrap().arrive(60_000, 0)).collect();
    assert!(first.iter().all(|arrival| arrival.former == Occupant::Nobody));
    assert!(second.iter().all(|arrival| arrival.former == Occupant::TheClient));
    assert!(first.iter().zip(&second).all(|(first, second)| first.client == second.client));
    assert_eq!(table.clients().count(), 40_000);
    // More clients than slots: the table never holds more clients than slots, and each shard is
    // full.
    let arrivals = (0..300_000).map(|n| worker_table.lock(key(n)).unwrap().arrive(90_000, 0));
    let evictions = arrivals.filter(|arrival| arrival.former == Occupant::AnotherClient).count();
    assert_eq!(evictions, 300_000 - 80_000);
    assert_eq!(table.clients().count(), 80_000);
    assert_eq!(worker_table.take_rebuilt(), None);
    verify(table.view());
}
