//! The histograms agree with what a client measures.
//!
//! A client knows when something can have begun and ended at the latest and at the earliest. So it
//! has two bounds for each duration, however busy the machine is. The counts of a histogram must
//! lie between those of both bounds.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use pen_status::histogram::{Bounds, CONNECT, LENGTH};

use crate::harness::backend::{Blackhole, greeter};
use crate::harness::{Backend, Client, Pen, Port, eventually, until};

/// The samples of a pen, by name and labels.
fn samples(pen: &Pen) -> BTreeMap<String, f64> {
    let text = pen.tell("metrics");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// A histogram of server 0: the number of durations up to each bound, and the sum in seconds.
struct Seen {
    below: Vec<f64>,
    count: f64,
    sum: f64,
}

fn histogram(pen: &Pen, name: &str, server: SocketAddr) -> Seen {
    let samples = samples(pen);
    let labels = format!("server=\"0\",address=\"{server}\"");
    let begin = format!("{name}_bucket{{{labels},le=\"");
    let buckets = samples.iter().filter_map(|(series, count)| {
        let bound = series.strip_prefix(&begin)?.strip_suffix("\"}")?;
        Some((bound.parse::<f64>().unwrap(), *count))
    });
    let mut buckets: Vec<(f64, f64)> = buckets.collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (infinite, count) = buckets.pop().unwrap();
    assert_eq!((infinite, count), (f64::INFINITY, samples[&format!("{name}_count{{{labels}}}")]));
    let (below, sum) = (buckets.into_iter().map(|(_, count)| count).collect(), "_sum");
    Seen { below, count, sum: samples[&format!("{name}{sum}{{{labels}}}")] }
}

/// Checks a histogram against the bounds of all durations: the shortest and the longest that each
/// can have been.
#[track_caller]
fn agrees(seen: &Seen, durations: &[(Duration, Duration)], bounds: &Bounds) {
    assert_eq!(seen.count, durations.len() as f64);
    // A duration is counted in whole microseconds, which are not rounded up.
    let tick = Duration::from_micros(1);
    let shortest: Duration = durations.iter().map(|one| one.0.saturating_sub(tick)).sum();
    let longest: Duration = durations.iter().map(|one| one.1).sum();
    let sum = seen.sum;
    assert!(
        (shortest.as_secs_f64()..=longest.as_secs_f64()).contains(&sum),
        "{sum} s, and not from {shortest:?} to {longest:?}"
    );
    assert_eq!(seen.below.len(), bounds.len());
    for (micros, count) in bounds.iter().zip(&seen.below) {
        let bound = Duration::from_micros(*micros);
        let surely = durations.iter().filter(|one| one.1 <= bound).count() as f64;
        let possibly =
            durations.iter().filter(|one| one.0.saturating_sub(tick) <= bound).count() as f64;
        assert!(
            (surely..=possibly).contains(count),
            "{count} of {durations:?} up to {bound:?}, and not from {surely} to {possibly}"
        );
    }
}

#[test]
fn the_lengths_of_connections_are_those_that_clients_measure() {
    let server = Backend::named("a");
    let pen = Pen::builder().workers(1).control().server(&server).start();
    let mut durations = Vec::new();
    for (number, echoes) in [1, 1, 10, 100, 1000, 5000, 20_000].into_iter().enumerate() {
        let before = Instant::now();
        let client = pen.connect(Ipv4Addr::LOCALHOST);
        assert_eq!(client.line().as_deref(), Some("a"));
        let open = Instant::now();
        for echo in 1..echoes {
            client.echoes(&echo.to_string());
        }
        let last = Instant::now();
        client.echoes("the last");
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
        let name = "pen_server_connection_seconds";
        eventually("the connection is counted", || {
            histogram(&pen, name, server.address()).count == (number + 1) as f64
        });
        durations.push((last - open, before.elapsed()));
    }
    let seen = histogram(&pen, "pen_server_connection_seconds", server.address());
    agrees(&seen, &durations, &LENGTH);
}

#[test]
fn connect_times_are_those_that_clients_measure_and_failures_are_not_in_them() {
    let port = Port::reserve();
    let address = port.address();
    let black_hole = Blackhole::on(&port);
    let builder = Pen::builder().workers(1).control().options(["-t", "30", "-b", "1"]);
    let pen = builder.server_as(address.to_string()).start();
    let before = Instant::now();
    let waiting = pen.connect(Ipv4Addr::LOCALHOST);
    eventually("pen connects", || is_connecting(address).is_some());
    let seen = Instant::now();
    // The kernel asks once more after a second: until then, and longer, nobody answers.
    until("the kernel repeats its question", || is_connecting(address).filter(|times| *times > 0));
    let unanswered = seen.elapsed();
    let server = black_hole.revive(greeter("a"));
    assert_eq!(waiting.line().as_deref(), Some("a"));
    let mut durations = vec![(unanswered, before.elapsed())];
    waiting.finish();
    assert_eq!(waiting.read_to_end().unwrap(), b"");
    for _ in 0..20 {
        let before = Instant::now();
        let client = pen.connect(Ipv4Addr::LOCALHOST);
        assert_eq!(client.line().as_deref(), Some("a"));
        durations.push((Duration::ZERO, before.elapsed()));
        client.finish();
        assert_eq!(client.read_to_end().unwrap(), b"");
    }
    agrees(&histogram(&pen, "pen_server_connect_seconds", address), &durations, &CONNECT);
    drop(server);
    let refused = Client::connect(Ipv4Addr::LOCALHOST.into(), pen.address()).unwrap();
    assert_eq!(refused.line(), None);
    let failures = "pen_server_connect_failures_total";
    let refusals = format!("{failures}{{server=\"0\",address=\"{address}\",reason=\"refused\"}}");
    eventually("the failure is counted", || samples(&pen)[&refusals] > 0.0);
    agrees(&histogram(&pen, "pen_server_connect_seconds", address), &durations, &CONNECT);
}

/// How often the kernel has repeated the first packet of a connect to this address, if there is one
/// (proc(5), net/tcp: state 02 and the number of unanswered repetitions).
fn is_connecting(to: SocketAddr) -> Option<u32> {
    let SocketAddr::V4(to) = to else { panic!("{to}") };
    let ip = u32::from_le_bytes(to.ip().octets());
    let remote = format!("{ip:08X}:{:04X}", to.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.get(2) == Some(&remote.as_str()) && row[3] == "02")?;
    Some(u32::from_str_radix(row[6], 16).unwrap())
}
