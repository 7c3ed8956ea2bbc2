//! Tests of what goes from one table to another: exports, and a row that mirrors old workers.

use proptest::prelude::*;

use super::foreign::{held, opened};
use super::key;
use super::statistics::{Counted, Model, counted};
use super::verify::verify;
use crate::servers::statistics::Words;
use crate::sync::Ordering::*;
use crate::{
    Blacklist, ExportedBlacklist, ExportedClient, ExportedServers, Failure, FailureClass,
    ForeignTable, Imported, Shape, Table, Timed,
};

const OLD: Shape = Shape { clients: 9, servers: 3, rows: 4, connections: 40 };
const NEW: Shape = Shape { clients: 20, servers: 4, rows: 10, connections: 40 };

fn written_down<T: serde::Serialize + serde::de::DeserializeOwned>(it: &T) -> T {
    serde_json::from_str(&serde_json::to_string(it).unwrap()).unwrap()
}

fn client(n: u32) -> ExportedClient {
    ExportedClient {
        key: key(n),
        server: n as i32 % 3,
        last_use: 1000 * u64::from(n),
        connects: 1,
        sent: u64::from(n),
        received: 7,
    }
}

#[test]
fn clients_are_known_in_the_other_table_in_their_order_of_use() {
    let (old, new) = (Table::create(OLD).unwrap(), Table::create(NEW).unwrap());
    let worker_table = old.worker_table(0);
    for n in [5, 3, 8, 1] {
        let client = worker_table.lock(key(n)).unwrap().arrive(1000 * u64::from(n), 0).client;
        worker_table.record(client, n as i32 % 3);
        worker_table.add_client_bytes(client, u64::from(n), 7);
    }
    let exported: Vec<ExportedClient> = old.export_clients().collect();
    assert_eq!(exported, [5, 3, 8, 1].map(client));
    let twice = exported.iter().chain(&exported).copied();
    assert_eq!(new.import_clients(twice), Imported { kept: 4, left_out: 4 });
    verify(new.view());
    assert!(new.export_clients().eq(exported));
    let worker_table = new.worker_table(0);
    assert_eq!(worker_table.lock(key(3)).unwrap().arrive(9000, 0).recorded, 0);
    for n in 100..118 {
        worker_table.lock(key(n)).unwrap().arrive(9000, 0);
    }
    // Slots were missing for two: the clients that were used least recently.
    let left: Vec<bool> =
        [1, 5, 8, 3].map(|n| new.clients().any(|entry| entry.key == key(n))).to_vec();
    assert_eq!(left, [false, false, true, true]);
    assert_eq!(worker_table.take_rebuilt(), None, "no worker has to mend anything");
}

#[test]
fn a_smaller_table_keeps_clients_that_were_used_late() {
    let new = Table::create(Shape { clients: 5, ..NEW }).unwrap();
    let imported = new.import_clients((0..50).map(client));
    assert_eq!(imported, Imported { kept: 5, left_out: 45 });
    let new = Table::create(Shape { clients: 5, ..NEW }).unwrap();
    assert_eq!(new.import_clients((0..50).rev().map(client)).kept, 5);
    assert!(new.clients().all(|entry| entry.last_use >= 45_000));
    verify(new.view());
}

#[test]
fn servers_are_in_the_state_that_they_had() {
    let (old, new) = (Table::create(OLD).unwrap(), Table::create(NEW).unwrap());
    let workers = [old.worker_table(0), old.worker_table(1)];
    workers[0].add_server_bytes(0, 1, 2);
    workers[1].add_server_bytes(0, 10, 20);
    workers[0].count_reached(0);
    workers[1].count_failure(0, FailureClass::Timeout);
    old.reset_server(1);
    workers[1].count_length(1, Timed { micros: 5, bucket: 23 });
    assert!(workers[0].set_blacklist(0, 5000, 77) && workers[0].move_address(0, 0, 3));
    workers[0].note_failure(0, 78, 111);
    old.take_out(1, 6000, 79);
    old.reset_server(2);
    assert!(workers[0].advance_cursor(0, 2));
    workers[0].set_current(-2);
    let exported: ExportedServers = written_down(&old.export_servers(&[]));
    assert_eq!(exported.servers.len(), 3);
    assert_eq!(exported.servers[1].blacklist, ExportedBlacklist::TakenOut { until: 6000 });
    new.import_servers(&exported);
    assert_eq!((new.export_servers(&[]).servers[..3]).to_vec(), exported.servers);
    assert_eq!([0, 1, 2].map(|n| new.server_totals(n)), [0, 1, 2].map(|n| old.server_totals(n)));
    let statistics = |table: &Table| [0, 1, 2].map(|n| table.server_statistics(n));
    assert_eq!(statistics(&new), statistics(&old));
    assert_eq!((statistics(&new)[0].reached, statistics(&new)[1].length.buckets[23]), (1, 1));
    let worker_table = new.worker_table(0);
    assert_eq!((worker_table.cursor(), new.current()), (2, -2));
    assert_eq!(worker_table.blacklist(0, 4999), Blacklist::Until(5000));
    assert!(worker_table.is_taken_out(1) && !worker_table.is_taken_out(0));
    assert_eq!(worker_table.last_failure(0), Some(Failure { at: 78, cause: 111 }));
    worker_table.add_server_bytes(0, 100, 200);
    assert_eq!((new.server_totals(0).sent, new.server_totals(0).received), (111, 222));
    // A server that is probed may be tried by others when the lease is over, as before.
    assert!(workers[0].begin_probe(0, 5000, 8000));
    new.import_servers(&old.export_servers(&[]));
    assert_eq!(worker_table.blacklist(0, 7999), Blacklist::Until(8000));
    assert!(worker_table.begin_probe(0, 8000, 9000));
    // More servers than there are.
    old.import_servers(&new.export_servers(&[]));
}

#[test]
fn a_mirror_keeps_old_workers_in_a_limit_until_they_are_gone() {
    let (old, new) = (Table::create(OLD).unwrap(), Table::create(NEW).unwrap());
    let workers = [old.worker_table(0), old.worker_table(1)];
    assert!(workers.iter().all(|worker_table| worker_table.reserve(0, Some(3))));
    let numbers = [0, 1].map(|n: usize| workers[n].claim_connection(3).unwrap());
    workers[1].set_pending(2, true);
    workers[1].add_server_bytes(0, 5, 6);
    let theirs = opened(&old);
    let mirror_alive = |alive: &[u32]| {
        let is_awaited = new.mirror(9, &theirs, &[0, 1], |row| alive.contains(&row));
        let (numbers, connections) = held(&new, 9);
        (numbers, connections, is_awaited)
    };
    let mirror = || mirror_alive(&[0, 1]);
    assert_eq!(mirror(), (2, 2, false));
    let worker_table = new.worker_table(0);
    assert!(worker_table.reserve(0, Some(3)) && !worker_table.reserve(0, Some(3)));
    assert!(worker_table.is_pending(2) && !worker_table.is_pending(0));
    assert_eq!(worker_table.claim_connection(3), Some(2));
    worker_table.await_connection();
    assert_eq!(worker_table.claim_connection(3), None);
    assert_eq!(mirror(), (2, 2, false));
    // A death in the new table takes nothing from the old workers.
    new.use_row(1);
    assert!(new.reclaim(1));
    let _ = worker_table.republish(3, [(2, Some(0))].into_iter());
    assert_eq!((new.server_totals(0).connections, new.connections_open()), (3, 3));
    // One of them ends a connection, the other dies.
    workers[0].release(0);
    assert!(!workers[0].release_connection(numbers[0]));
    assert_eq!(mirror(), (1, 1, true));
    assert_eq!(worker_table.claim_connection(3), Some(numbers[0]));
    assert_eq!(mirror_alive(&[0]), (0, 0, true));
    assert_eq!(new.server_totals(0).sent, 5, "what it relayed stays");
    assert!(!worker_table.is_pending(2));
    worker_table.stop_waiting();
    assert!(!new.reclaim(9));
    assert_eq!((new.server_totals(0).connections, new.connections_open()), (1, 2));
    assert!(!new.mirror(10, &theirs, &[0], |_| true), "there is no such row");
    assert_eq!((new.server_totals(0).connections, new.connections_open()), (1, 2));
}

/// What a worker of either table does: the worker, and a server or a number.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Reserve(u32, u32),
    Release(u32, u32),
    Claim(u32),
    GiveBack(u32, u32),
    Bytes(u32, u32),
    Count(u32, u32, Counted),
    Mirror,
    OldWorkerDies(u32),
    NewWorkerDies,
}

fn operation() -> impl Strategy<Value = Operation> {
    let worker = 0..5u32;
    prop_oneof![
        4 => (worker.clone(), 0..3u32).prop_map(|(w, s)| Operation::Reserve(w, s)),
        3 => (worker.clone(), 0..3u32).prop_map(|(w, s)| Operation::Release(w, s)),
        4 => worker.clone().prop_map(Operation::Claim),
        3 => (worker.clone(), 0..40u32).prop_map(|(w, n)| Operation::GiveBack(w, n)),
        2 => (worker.clone(), 0..3u32).prop_map(|(w, s)| Operation::Bytes(w, s)),
        3 => (worker, 0..3u32, counted()).prop_map(|(w, s, what)| Operation::Count(w, s, what)),
        3 => Just(Operation::Mirror),
        1 => (0..3u32).prop_map(Operation::OldWorkerDies),
        1 => Just(Operation::NewWorkerDies),
    ]
}

/// The rows of the old table that are mirrored. Row 1 is of a worker that died before.
const MIRRORED: [u32; 2] = [0, 2];
const MIRROR: u32 = 8;

fn check_mirror(old: &Table, opened: &ForeignTable, new: &Table, own: &[u32]) {
    let _ = new.mirror(MIRROR, opened, &MIRRORED, |_| true);
    let (theirs, ours) = (old.view(), new.view());
    for server in 0..3 {
        let sum: u32 = MIRRORED
            .iter()
            .map(|row| theirs.figures(*row, server).unwrap().connections.load(Relaxed))
            .sum();
        let in_mirror = ours.figures(MIRROR, server).unwrap();
        assert_eq!(in_mirror.connections.load(Relaxed), sum);
        let rows = MIRRORED.iter().map(|row| theirs.statistics(*row, server).unwrap().words());
        let counted = rows.fold(Words::default(), |mut sum, words| {
            sum.add(&words);
            sum
        });
        assert_eq!(ours.statistics(MIRROR, server).unwrap().words(), counted);
        let (old, new) = (old.server_totals(server), new.server_totals(server));
        assert_eq!(
            (new.connections, old.sent + u64::from(own[server as usize])),
            (sum + own[3 + server as usize], new.sent)
        );
    }
    for number in 0..40 {
        let wanted = old.connection_owner(number).is_some_and(|row| MIRRORED.contains(&row));
        match new.connection_owner(number) {
            Some(MIRROR) => assert!(wanted, "{number} is kept although it is free"),
            Some(_) => {}
            None => assert!(!wanted, "{number} is not kept"),
        }
    }
    let now = || (held(new, MIRROR), new.server_totals(0), new.server_statistics(0));
    let before = now();
    assert!(!new.mirror(MIRROR, opened, &MIRRORED, |_| true), "nothing became free");
    assert_eq!(now(), before, "twice is as once");
}

proptest! {
    #[test]
    fn a_mirror_is_exact(operations in prop::collection::vec(operation(), 1..120)) {
        let (old, new) = (Table::create(OLD).unwrap(), Table::create(NEW).unwrap());
        (0..3).for_each(|row| old.use_row(row));
        old.worker_table(1).add_server_bytes(0, 1000, 0);
        old.worker_table(0).add_server_bytes(1, 50, 0);
        let mut statistics = [Model::default(); 3];
        for (row, server) in [(1, 0), (0, 1)] {
            for what in [Counted::Reached, Counted::Connect(3, 2)] {
                what.happens(&old.worker_table(row), server, &mut statistics[server as usize]);
            }
        }
        new.import_servers(&old.export_servers(&MIRRORED));
        let theirs = opened(&old);
        let _ = new.mirror(MIRROR, &theirs, &MIRRORED, |_| true);
        // What the new workers sent to servers 0 to 2, and their connections there.
        let mut own = [0u32; 6];
        for operation in operations {
            // Workers 0 and 2 are old, 3 and 4 are new, 1 is none.
            let of = |worker: u32| match worker {
                0 | 2 => Some(old.worker_table(worker)),
                1 => None,
                _ => Some(new.worker_table(worker - 3)),
            };
            match operation {
                Operation::Reserve(worker, server) => {
                    let Some(worker_table) = of(worker) else { continue };
                    let reserved = worker_table.reserve(server, Some(6));
                    own[3 + server as usize] += u32::from(reserved && worker > 2);
                }
                Operation::Release(worker, server) => {
                    let Some(worker_table) = of(worker) else { continue };
                    if worker <= 2 {
                        worker_table.release(server);
                    } else if own[3 + server as usize] > 0 {
                        let before = new.server_totals(server).connections;
                        worker_table.release(server);
                        own[3 + server as usize] -= before - new.server_totals(server).connections;
                    }
                }
                Operation::Claim(worker) => {
                    let _ = of(worker).map(|worker_table| worker_table.claim_connection(40));
                }
                Operation::GiveBack(worker, number) => {
                    let _ = of(worker).map(|worker_table| worker_table.release_connection(number));
                }
                Operation::Bytes(worker, server) => {
                    let Some(worker_table) = of(worker) else { continue };
                    worker_table.add_server_bytes(server, 3, 4);
                    own[server as usize] += if worker > 2 { 3 } else { 0 };
                }
                Operation::Count(worker, server, what) => {
                    let Some(worker_table) = of(worker) else { continue };
                    what.happens(&worker_table, server, &mut statistics[server as usize]);
                }
                Operation::Mirror => check_mirror(&old, &theirs, &new, &own),
                Operation::OldWorkerDies(row) => {
                    old.reclaim(row);
                }
                Operation::NewWorkerDies => {
                    let before = [0, 1, 2].map(|server| new.server_totals(server).connections);
                    new.reclaim(1);
                    for server in 0..3 {
                        let now = new.server_totals(server as u32).connections;
                        own[3 + server] -= before[server] - now;
                    }
                }
            }
        }
        check_mirror(&old, &theirs, &new, &own);
        let all = || [0, 1, 2].map(|server| new.server_statistics(server));
        prop_assert_eq!(all(), statistics, "what all of both tables counted");
        // In the end nothing of theirs is left.
        MIRRORED.iter().for_each(|row| { old.reclaim(*row); });
        let _ = new.mirror(MIRROR, &theirs, &MIRRORED, |_| true);
        assert_eq!(held(&new, MIRROR), (0, 0));
        prop_assert_eq!(all(), statistics, "counts stay");
        check_mirror(&old, &theirs, &new, &own);
    }
}
