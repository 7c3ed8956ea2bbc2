//! Input: writes of a hostile worker to the table. With any content, every operation ends, stays
//! within bounds, and returns a valid value.

#![no_main]

use std::sync::atomic::Ordering::Relaxed;

use libfuzzer_sys::fuzz_target;
use pen_table::{NetLimits, Rate, Shape, Table, Timed};

const CLIENTS: u32 = 9;
const ROOM: u32 = 24;
const CONNECTIONS: u32 = 20;

fuzz_target!(|image: &[u8]| {
    let [shards, image @ ..] = image else { return };
    // One shard, or several with few slots each.
    let shard_slots = if shards % 2 == 0 { 1 << 16 } else { 3 };
    let shape = Shape { clients: CLIENTS, servers: 4, rows: 3, connections: CONNECTIONS };
    let table = Table::cramped(shape, shard_slots, ROOM).unwrap();
    let words = table.words();
    let mut now = 1000;
    // A list of operations, each after one write to a word of the table.
    for change in image.chunks_exact(7) {
        let [low, high, a, b, c, d, operation] = *change else { return };
        words[usize::from(u16::from_le_bytes([low, high])) % words.len()]
            .store(u32::from_le_bytes([a, b, c, d]), Relaxed);
        now += 1;
        operate(&table, operation, now);
    }
    (0..=u8::MAX).for_each(|operation| operate(&table, operation, now + 9000));
});

fn operate(table: &Table, operation: u8, now: u64) {
    let (worker_table, number) = (table.worker_table(1), u32::from(operation >> 4));
    match operation % 16 {
        0..=3 => {
            // The holder of a lock may never release it.
            if let Ok(mut locked) = worker_table.lock([operation; 16]) {
                let arrival = locked.arrive(now, 5000);
                locked.record(arrival.client, number as i32);
            }
        }
        4 => {
            worker_table.release(number);
            let time = Timed { micros: u64::MAX, bucket: number as usize };
            worker_table.count_connect(number, time);
            worker_table.count_length(number, time);
        }
        5 => drop((worker_table.reserve(number, Some(2)), worker_table.connections(number))),
        6 => drop((
            worker_table.blacklist(number, now),
            worker_table.begin_probe(number, now, now + 1),
        )),
        7 => {
            let _ = (
                worker_table.set_blacklist(number, now, 1),
                worker_table.return_to_service(number, now),
            );
        }
        8 => assert!(
            worker_table.claim_connection(CONNECTIONS).is_none_or(|claimed| claimed < CONNECTIONS)
        ),
        9 => drop(worker_table.release_connection(number)),
        10 => drop(worker_table.advance_cursor(worker_table.cursor(), 1)),
        11 => {
            let _ = (table.server_statistics(number), table.server_totals(number));
            table.reset_server(number);
        }
        12 => {
            assert!(table.grow_clients(number) <= ROOM);
            assert!(table.clients().all(|client| client.slot < ROOM));
        }
        13 => drop((table.reclaim(number), table.use_row(number))),
        14 if number % 2 == 0 => {
            worker_table.want_nets(number);
            let rate = Some(Rate { attempts: 3, seconds: 1 + number });
            let limits = NetLimits { connections: Some(2), rate };
            let _ = worker_table.arrive_in_net(number, [operation / 64; 16], limits, now);
            let _ = worker_table.count_in_net(number + 1, [operation / 32; 16], now);
            let _ = worker_table.net_use([operation / 64; 16], 1, now);
            worker_table.release_net(number);
            let _ = (worker_table.reserve_tarpit(number), worker_table.tarpitted());
            worker_table.set_tarpitted(number);
            let _ = worker_table.republish(CONNECTIONS, [(number, Some(number))].into_iter());
            worker_table.want_recounts();
        }
        14 => drop((worker_table.await_connection(), table.connections_open())),
        _ => drop((table.current(), table.connection_owner(number))),
    }
}
