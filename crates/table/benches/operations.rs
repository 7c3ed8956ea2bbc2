//! The cost of the hot operations, when no other process uses the caches: `cargo bench -p
//! pen-table`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pen_table::{NetArrival, NetLimits, Rate, Shape, Table};

const SIZES: [u32; 2] = [2048, 2_000_000];

fn table(clients: u32) -> Table {
    // Four workers, as many more during an upgrade, and two further rows.
    let table = Table::create(Shape { clients, servers: 18, rows: 10, connections: 1024 })
        .expect("memory for a table");
    (0..4).for_each(|row| table.use_row(row));
    table
}

/// The key of client `n`.
fn key(n: u32) -> [u8; 16] {
    u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834).to_le_bytes()
}

/// Numbers below `end`, in an order that a processor cannot predict.
fn shuffled(end: u32) -> impl FnMut() -> u32 {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % u64::from(end)) as u32
    }
}

fn clients(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lock and arrive");
    for size in SIZES {
        let table = table(size);
        let worker_table = table.worker_table(0);
        // Nine tenths full, so that no shard of a large table has more clients than slots.
        let live = size / 10 * 9;
        for n in 0..live {
            worker_table.lock(key(n)).expect("nobody else").arrive(0, 0);
        }
        let mut next = shuffled(live);
        group.bench_function(BenchmarkId::new("known, same second", size), |bencher| {
            bencher
                .iter(|| worker_table.lock(key(next())).expect("nobody else").arrive(0, 3_600_000));
        });
        let mut now = 0;
        group.bench_function(BenchmarkId::new("known, another second", size), |bencher| {
            bencher.iter(|| {
                now += 1000;
                worker_table.lock(key(next())).expect("nobody else").arrive(now, 0)
            });
        });
        let mut client = live;
        group.bench_function(BenchmarkId::new("new, the oldest replaced", size), |bencher| {
            bencher.iter(|| {
                client = client.wrapping_add(1);
                now += 1;
                worker_table.lock(key(client)).expect("nobody else").arrive(now, 0)
            });
        });
        let mut lone = shuffled(16);
        group.bench_function(BenchmarkId::new("16 busy clients", size), |bencher| {
            bencher.iter(|| worker_table.lock(key(lone())).expect("nobody else").arrive(now, 0));
        });
    }
}

fn servers(criterion: &mut Criterion) {
    let table = table(2048);
    let worker_table = table.worker_table(0);
    for (name, limit) in
        [("reserve and release, unlimited", None), ("reserve and release, limited", Some(100))]
    {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                assert!(worker_table.reserve(black_box(3), limit));
                worker_table.release(3);
            });
        });
    }
}

fn samples(criterion: &mut Criterion) {
    let shape = Shape { clients: 1, servers: 1000, rows: 34, connections: 1024 };
    let table = Table::create(shape).expect("memory for a table");
    (0..16).for_each(|row| table.use_row(row));
    criterion.bench_function("traffic of 1000 servers, 16 workers", |bencher| {
        bencher.iter(|| {
            (0..1000).fold(0, |sum: u64, server| {
                sum.wrapping_add(black_box(table.server_traffic(server)).reached)
            })
        });
    });
    criterion.bench_function("statistics of 1000 servers, 16 workers", |bencher| {
        bencher.iter(|| {
            (0..1000).fold(0, |sum: u64, server| {
                sum.wrapping_add(black_box(table.server_totals(server)).sent)
                    .wrapping_add(black_box(table.server_statistics(server)).reached)
            })
        });
    });
}

fn numbers(criterion: &mut Criterion) {
    let table = table(2048);
    let worker_table = table.worker_table(0);
    // Half of them are in use.
    (0..512).for_each(|_| assert!(worker_table.claim_connection(1024).is_some()));
    criterion.bench_function("claim and release a connection", |bencher| {
        bencher.iter(|| {
            let number = worker_table.claim_connection(1024).expect("half are free");
            worker_table.release_connection(black_box(number))
        });
    });
    while worker_table.claim_connection(1024).is_some() {}
    criterion.bench_function("claim when all 1024 are in use", |bencher| {
        bencher.iter(|| worker_table.claim_connection(black_box(1024)));
    });
}

fn nets(criterion: &mut Criterion) {
    let table = table(2048);
    let worker_table = table.worker_table(0);
    worker_table.want_nets(1024);
    let number = worker_table.claim_connection(1024).expect("a free number");
    let connections = Some(1000);
    let rate = Some(Rate { attempts: u32::MAX, seconds: 10 });
    for (name, limits) in [
        ("count in a net and release, connections", NetLimits { connections, rate: None }),
        ("count in a net and release, both", NetLimits { connections, rate }),
    ] {
        for (what, nets) in [("16 nets", 16), ("50000 nets", 50_000)] {
            let (mut next, mut now) = (shuffled(nets), 1_000_000);
            criterion.bench_function(format!("{name}, {what}").as_str(), |bencher| {
                bencher.iter(|| {
                    now += 1;
                    let arrival = worker_table.arrive_in_net(number, key(next()), limits, now);
                    assert_eq!(arrival, NetArrival::Counted);
                    worker_table.release_net(number);
                });
            });
        }
    }
}

criterion_group!(operations, clients, servers, samples, numbers, nets);
criterion_main!(operations);
