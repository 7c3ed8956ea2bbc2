//! Tests that concern several files at once.

#[cfg(not(loom))]
mod adoption;
#[cfg(not(loom))]
mod another_table;
#[cfg(not(loom))]
mod deaths;
#[cfg(not(loom))]
mod foreign;
#[cfg(loom)]
mod models;
#[cfg(not(loom))]
mod nets;
#[cfg(not(loom))]
mod rows;
#[cfg(not(loom))]
mod sequences;
#[cfg(not(loom))]
mod spoiled;
#[cfg(not(loom))]
mod statistics;
#[cfg(not(loom))]
mod verify;

use crate::layout::{Layout, Room};
use crate::{Shape, Table, TableKind};

/// A table with shards of at most this many slots.
fn table(clients: u32, shard_slots: u32) -> Table {
    growing_table(clients, shard_slots, clients)
}

/// The same table with room for this many clients.
fn growing_table(clients: u32, shard_slots: u32, room: u32) -> Table {
    let shape = Shape { clients, servers: 3, rows: 3, connections: 20 };
    let room = Room { shard_slots, clients: room, connections: 20, net_shards: 1, least_nets: 0 };
    let table = Table::with_layout(Layout::new(shape, room).unwrap(), TableKind::Fixed).unwrap();
    (0..shape.rows).for_each(|row| table.use_row(row));
    table
}

/// The key of client `n`.
fn key(n: u32) -> [u8; 16] {
    let mut key = [0; 16];
    key[..4].copy_from_slice(&n.to_be_bytes());
    key[12..].copy_from_slice(&n.to_le_bytes());
    key
}
