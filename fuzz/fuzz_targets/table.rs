//! A table that a hostile worker has written to: whatever is in it, every operation ends, stays within bounds, and what it returns is what
//! it may return.

#![no_main]

use std::sync::atomic::Ordering::Relaxed;

use libfuzzer_sys::fuzz_target;
use pen_table::{Shape, Table};

const CLIENTS: u32 = 9;
const CONNECTIONS: u32 = 20;

fuzz_target!(|image: &[u8]| {
    let table = Table::create(Shape { clients: CLIENTS, servers: 4, workers: 3, connections: CONNECTIONS }).unwrap();
    let words = table.words();
    let mut now = 1000;
    // An image is a list of places and what is put there, with an operation between any two.
    for change in image.chunks_exact(8) {
        let (place, value) = change.split_at(4);
        let place = u32::from_le_bytes(place.try_into().unwrap()) as usize;
        words[place % words.len()].store(u32::from_le_bytes(value.try_into().unwrap()), Relaxed);
        now += 1;
        operate(&table, change[0] ^ change[4], now);
    }
    (0..=u8::MAX).for_each(|operation| operate(&table, operation, now + 9000));
});

fn operate(table: &Table, operation: u8, now: u64) {
    let (seat, number) = (table.seat(1), u32::from(operation >> 4));
    match operation % 16 {
        0..=3 => {
            // A lock may be in the hands of somebody who will never give it back.
            if let Ok(mut locked) = seat.lock([operation; 16]) {
                let arrival = locked.arrive(now, 5000);
                locked.record(arrival.client, number as i32);
            }
        }
        4 => seat.release(number),
        5 => drop((seat.reserve(number, Some(2)), seat.connections(number))),
        6 => drop((seat.blacklist(number, now), seat.begin_probe(number, now, now + 1))),
        7 => drop((seat.set_blacklist(number, now, 1), seat.clear_blacklist(number))),
        8 => assert!(seat.claim_connection(CONNECTIONS).is_none_or(|claimed| claimed < CONNECTIONS)),
        9 => drop(seat.release_connection(number)),
        10 => drop(seat.advance_cursor(seat.cursor(), 1)),
        11 => drop(table.server_totals(number)),
        12 => assert!(table.clients().all(|client| client.slot < table.grow_clients(0).max(CLIENTS))),
        13 => drop(table.bury(number)),
        14 => drop((seat.await_connection(), table.connections_open())),
        _ => drop((table.current(), table.connection_owner(number))),
    }
}
