//! Tests of a table that another program adopts, in this process and through a descriptor of its
//! own.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::key;
use super::verify::verify;
use crate::{LAYOUT, Mismatch, Shape, Table, TableDescription, TableError, TableKind, Timed};

const SHAPE: Shape = Shape { clients: 4, servers: 3, rows: 194, connections: 64 };

/// The table as the next program gets it: by a descriptor that went through exec(2), and a
/// description that was written down.
fn handed_over(table: &Table) -> (OwnedFd, TableDescription) {
    let text = serde_json::to_string(&table.description()).unwrap();
    let path = format!("/proc/self/fd/{}", table.descriptor().as_raw_fd());
    let memory = File::options().read(true).write(true).open(path).unwrap();
    (memory.into(), serde_json::from_str(&text).unwrap())
}

fn refusal(memory: OwnedFd, description: TableDescription) -> TableError {
    Table::adopt(memory, description).expect_err("a memory that is no table")
}

#[test]
fn an_adopted_table_is_the_same_table() {
    let table = Table::create(SHAPE).unwrap();
    assert_eq!(table.kind(), TableKind::Growing);
    (0..3).for_each(|row| table.use_row(row));
    let (old, other) = (table.worker_table(0), table.worker_table(2));
    let client = old.lock(key(7)).unwrap().arrive(5000, 0).client;
    old.record(client, 2);
    assert!(old.reserve(1, Some(3)) && other.reserve(1, Some(3)));
    assert_eq!((old.claim_connection(64), other.claim_connection(64)), (Some(0), Some(1)));
    old.set_blacklist(2, 9000, 77);
    old.add_server_bytes(1, 10, 20);
    old.count_reached(1);
    table.reset_server(2);
    other.count_connect(2, Timed { micros: 70, bucket: 3 });
    assert!(old.advance_cursor(0, 2));
    table.grow_clients(100);
    let before: Vec<u32> = snapshot(&table);

    let (memory, description) = handed_over(&table);
    assert_eq!(description, table.description());
    let adopted = Table::adopt(memory, description).unwrap();
    assert!(snapshot(&table) == before, "an adoption writes nothing");
    assert_eq!(adopted.description(), table.description());
    assert_eq!(adopted.server_totals(1), table.server_totals(1));
    assert_eq!(adopted.server_totals(1).connections, 2);
    for server in [1, 2] {
        assert_eq!(adopted.server_statistics(server), table.server_statistics(server));
    }
    assert_eq!(adopted.server_statistics(2).connect.sum, 70);
    assert!(adopted.clients().eq(table.clients()));

    // Workers of both programs go on together.
    adopted.use_row(3);
    let new = adopted.worker_table(3);
    assert_eq!(new.lock(key(7)).unwrap().arrive(6000, 0).recorded, 2, "the key is the same");
    assert!(new.reserve(1, Some(3)) && !old.reserve(1, Some(3)) && !new.reserve(1, Some(3)));
    assert_eq!((new.claim_connection(64), new.cursor()), (Some(2), 2));
    for n in 100..150 {
        new.lock(key(n)).unwrap().arrive(7000, 0);
    }
    assert_eq!(adopted.clients().count(), 51, "the table has grown");
    assert_eq!(old.lock(key(7)).unwrap().recorded(8000, 0), 2);
    verify(adopted.view());
    // A row that has no worker now belongs to nobody; the others keep theirs.
    assert!(!adopted.reclaim(2));
    assert_eq!(adopted.server_totals(1).connections, 2);
    assert_eq!([0, 1, 2].map(|number| adopted.connection_owner(number)), [Some(0), None, Some(3)]);
    // The first program has gone; its memory stays.
    drop(table);
    assert_eq!(adopted.server_totals(1).received, 20);
    assert_eq!(adopted.server_statistics(1).reached, 1);
}

#[test]
fn a_fixed_table_is_adopted_as_one() {
    let table = Table::of_kind(TableKind::Fixed, SHAPE).unwrap();
    let (memory, description) = handed_over(&table);
    assert_eq!(description.kind, TableKind::Fixed);
    let adopted = Table::adopt(memory, description.clone()).unwrap();
    assert_eq!(adopted.grow_clients(100), 4);
    let (memory, _) = handed_over(&table);
    let description = TableDescription { kind: TableKind::Growing, ..description };
    assert!(matches!(refusal(memory, description), TableError::Foreign(Mismatch::Size { .. })));
}

#[test]
fn a_memory_that_is_not_the_described_table_is_refused_with_the_reason() {
    let table = Table::create(SHAPE).unwrap();
    let (memory, description) = handed_over(&table);
    let size = table.layout.bytes;
    let other = TableDescription { layout: LAYOUT + 1, ..description.clone() };
    let said = refusal(memory, other).to_string();
    let (theirs, ours) = (LAYOUT + 1, LAYOUT);
    let expected = format!("it has layout {theirs}, and this program knows layout {ours}");
    assert_eq!(said, format!("shared table of another program: {expected}"));
    let (memory, _) = handed_over(&table);
    let shape = Shape { rows: 195, ..SHAPE };
    let other = TableDescription { shape, ..description.clone() };
    assert!(matches!(refusal(memory, other), TableError::Shape(_)));
    let (memory, _) = handed_over(&table);
    let shape = Shape { rows: 193, ..SHAPE };
    let other = TableDescription { shape, ..description.clone() };
    let said = refusal(memory, other).to_string();
    assert!(said.contains(&format!("its memory has {size} bytes, and its shape needs")), "{said}");

    let file = File::options().read(true).write(true).open("/dev/null").unwrap();
    let said = refusal(file.into(), description.clone()).to_string();
    assert!(said.contains("its descriptor is not one of shared memory"), "{said}");
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    for seals in [all - SealFlags::SHRINK, all - SealFlags::GROW, all - SealFlags::SEAL] {
        let memory = memfd_create(c"no-table", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&memory, size as u64).unwrap();
        fcntl_add_seals(&memory, seals).unwrap();
        let said = refusal(memory, description.clone()).to_string();
        assert!(said.contains("is not sealed against a change of size"), "{said}");
    }
    // Read-only.
    let path = format!("/proc/self/fd/{}", table.descriptor().as_raw_fd());
    let said = refusal(File::open(path).unwrap().into(), description).to_string();
    assert!(said.contains("mmap: "), "{said}");
}

#[test]
fn a_description_does_not_show_its_key() {
    let description = Table::create(SHAPE).unwrap().description();
    let said = format!("{description:?}");
    assert!(description.key.iter().all(|word| !said.contains(&word.to_string())), "{said}");
}

/// The used part of the memory.
fn snapshot(table: &Table) -> Vec<u32> {
    use crate::sync::Ordering::Relaxed;
    table.memory.words().iter().take(1 << 18).map(|word| word.load(Relaxed)).collect()
}
