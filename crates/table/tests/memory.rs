//! Tests that memory is allocated only for what is used: a supervisor and its workers can share a
//! table of the largest size.

#![cfg(not(loom))]

use pen_table::{Shape, Table, Timed};

/// Shared memory that this process has touched, in KiB: `RssShmem` (proc_pid_status(5)). No other
/// test may run in this process.
fn shared_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line =
        status.lines().find_map(|line| line.strip_prefix("RssShmem:")).expect("Linux 4.5 or later");
    line.trim().trim_end_matches(" kB").parse().expect("a number of kB")
}

#[test]
fn a_large_table_takes_memory_as_it_is_used() {
    let before = shared_memory();
    let table =
        Table::create(Shape { clients: 2_000_000, servers: 4098, rows: 194, connections: 1 << 20 })
            .unwrap();
    let worker_table = table.worker_table(3);
    for n in 0u128..10 {
        let arrival = worker_table.lock(n.to_le_bytes()).unwrap().arrive(0, 0);
        worker_table.record(arrival.client, 1);
        assert!(worker_table.reserve(0, Some(100)));
        assert_eq!(worker_table.claim_connection(1 << 20), Some(n as u32));
        worker_table.count_reached(0);
        worker_table.count_connect(0, Timed { micros: 7, bucket: 0 });
    }
    assert_eq!(table.clients().count(), 10);
    assert_eq!(table.connections_open(), 10);
    assert_eq!(table.server_totals(0).connections, 10);
    assert_eq!(table.server_statistics(0).reached, 10);
    // Ten entries, links and buckets in ten shards, and a page of each worker's rows: at worst each
    // is on a page of its own.
    let used = shared_memory() - before;
    assert_eq!(table.grow_clients(1 << 24), 1 << 24);
    assert!(used < 1024, "{used} KiB for ten clients");
    table.reclaim(3);
    // A reclaim also reads every server's lock.
    let used = shared_memory() - before;
    assert!(used < 2048, "{used} KiB after a reclaim");
    // Ten shards of the grown table; in each of them the old buckets (256 KiB) were read.
    for n in 0u128..10 {
        table.worker_table(3).lock(n.to_le_bytes()).unwrap().arrive(0, 0);
    }
    let used = shared_memory() - before;
    assert!(used < 2048 + 10 * 256 + 1024, "{used} KiB in the grown table");
}
