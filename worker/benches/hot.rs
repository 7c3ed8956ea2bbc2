//! What the hot structures of a relay worker cost: selection, timers, log lines, and HTTP heads
//! (`-H`). Run `cargo bench -p pen-worker`. The benchmarks of the shared table are in
//! `crates/table/benches`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pen_config::address::Address;
use pen_config::ids::{ClientKey, ServerId, Target, WorkerId};
use pen_config::maglev;
use pen_config::settings::{ConnectionLogFormat, Maglev, Selection, Server, Settings};
use pen_ipc::start::RequestLog;
use pen_table::{Shape, Table, WorkerTable};
use pen_worker::measured::connection::Timer;
use pen_worker::measured::connection::connections::Connections;
use pen_worker::measured::connection::end::{ConnectionEnd, Step};
use pen_worker::measured::connection::idle_timeout::SilenceLimits;
use pen_worker::measured::connection::timings::{Bytes, Durations};
use pen_worker::measured::connection_log::line::{Open, Record};
use pen_worker::measured::connection_log::{Dates, line};
use pen_worker::measured::log_writer::LogWriter;
use pen_worker::measured::request_log;
use pen_worker::measured::select::choices::Choices;
use pen_worker::measured::select::{Candidate, Placement};
use pen_worker::measured::upstream::Upstreams;
use pen_worker::measured::upstream::servers::Servers;
use pen_worker::parts::{Exchange, Others};

fn settings(servers: u32, selection: Selection) -> Settings {
    let address = Address::Inet("127.0.0.1:80".parse().expect("an address"));
    let server = Server::at(address);
    Settings { servers: vec![Some(server); servers as usize], selection, ..Settings::default() }
}

fn client() -> ClientKey {
    ClientKey::from_ip("192.0.2.7".parse().expect("an address"))
}

fn first(
    settings: &Settings,
    (worker_table, upstreams, choices): (&WorkerTable<'_>, &Upstreams, &RefCell<Choices>),
    recorded: Option<Target>,
) -> Option<Target> {
    let farm = Servers {
        worker_table,
        upstreams,
        choices,
        pending_max: 100,
        now: 1,
        examined: Cell::new(0),
        passed_over: Cell::new(None),
    };
    let candidate = Candidate { key: client(), port: 4711, recorded, permitted: true };
    let mut placement = Placement::new(settings, &farm, candidate, &mut |_, _| ());
    placement.next(settings, &farm).map(|trial| trial.target)
}

/// The choice of a server, and its count.
fn selection(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("first server");
    let modes = [
        ("known client", Selection::default(), Some(Target::Server(ServerId(1)))),
        ("round robin", Selection { roundrobin: true, ..Selection::default() }, None),
        ("hash", Selection { hash: true, ..Selection::default() }, None),
        ("weight", Selection { weight: true, ..Selection::default() }, None),
        ("prio", Selection { prio: true, ..Selection::default() }, None),
        ("leastconn", Selection { leastconn: true, ..Selection::default() }, None),
        ("p2c", Selection { p2c: true, ..Selection::default() }, None),
        ("maglev", Selection { maglev: Maglev::On, ..Selection::default() }, None),
        (
            "maglev bounded",
            Selection { maglev: Maglev::Bounded(125), ..Selection::default() },
            None,
        ),
    ];
    for servers in [2, 16, 200, 1000] {
        let shape = Shape { clients: 64, servers: servers + 2, rows: 4, connections: 64 };
        let table = Table::create(shape).expect("memory for a table");
        let worker_table = table.worker_table(0);
        let upstreams = Upstreams::new(servers + 2);
        for (name, selection, recorded) in modes {
            let settings = settings(servers, selection);
            group.bench_function(BenchmarkId::new(name, servers), |bencher| {
                let choices = RefCell::new(Choices::new(&settings, 0));
                let mut open = VecDeque::new();
                bencher.iter(|| {
                    let farm = (&worker_table, &upstreams, &choices);
                    let target = first(&settings, farm, black_box(recorded)).expect("a server");
                    let row = target.row(servers);
                    // It is counted, and its connection ends when ten more per server have come.
                    assert!(worker_table.reserve(row, None));
                    choices.borrow_mut().note(row);
                    open.push_back(row);
                    if open.len() > 10 * servers as usize
                        && let Some(ended) = open.pop_front()
                    {
                        worker_table.release(ended);
                        choices.borrow_mut().note(ended);
                    }
                });
            });
        }
    }
}

/// What the supervisor does with each change of the settings while maglev is on.
fn positions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("table of maglev");
    for servers in [3, 200, 1000] {
        let selection = Selection { maglev: Maglev::On, ..Selection::default() };
        let settings = settings(servers, selection);
        group.bench_function(BenchmarkId::new("servers", servers), |bencher| {
            bencher.iter(|| maglev::positions(black_box(&settings)));
        });
    }
}

fn timers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timers");
    for waiting in [10, 10_000] {
        let mut connections = Connections::new(SilenceLimits::default());
        let slots: Vec<u32> = (0..waiting).map(|_| connections.pool.take()).collect();
        slots.iter().for_each(|slot| connections.start(*slot, Timer::Linger, 0));
        let mut turn = slots.iter().cycle();
        group.bench_function(BenchmarkId::new("stop and start", waiting), |bencher| {
            bencher.iter(|| {
                let slot = *turn.next().expect("a cycle");
                connections.stop(slot);
                connections.start(slot, Timer::Linger, 1);
            });
        });
        group.bench_function(BenchmarkId::new("next deadline", waiting), |bencher| {
            bencher.iter(|| connections.next_deadline(Timer::Linger, black_box(5000)));
        });
    }
}

fn log_line(criterion: &mut Criterion) {
    let file = std::fs::OpenOptions::new().append(true).open("/dev/null").expect("/dev/null");
    let mut log = LogWriter::new(RequestLog::File(file.into()));
    let request = b"GET /some/page?of=many HTTP/1.1\r\nHost: example.org\r\n\r\n";
    // Includes the write(2) that comes once in 16 kB.
    criterion.bench_function("log line", |bencher| {
        bencher.iter(|| {
            let server = "198.51.100.1";
            request_log::line(&mut log, 0, 1_795_493_747, client(), server, black_box(request));
        });
    });
}

/// A line for a connection. Includes the write(2) that comes once in 16 kB.
fn connection_line(criterion: &mut Criterion) {
    let record = Record {
        start: 1_795_493_747_123,
        client: client(),
        client_port: 40112,
        listen: "0.0.0.0:80",
        worker: WorkerId(1),
        server: Some((Target::Server(ServerId(1)), "198.51.100.1:8080")),
        attempts: 1,
        durations: Durations {
            wait: Some(0),
            tls: None,
            connect: Some(1),
            first_byte: Some(20),
            total: 345,
        },
        bytes: Some(Bytes { sent: 123_456, received: 789 }),
        end: ConnectionEnd::Client,
        step: Step::Data,
        tls: None,
        server_tls: None,
        open: Open { all: 1234, of_server: 56 },
    };
    let mut group = criterion.benchmark_group("connection log line");
    for (name, format) in [
        ("text", ConnectionLogFormat::Text),
        ("json", ConnectionLogFormat::Json),
        ("haproxy", ConnectionLogFormat::Haproxy),
        ("haproxy_http", ConnectionLogFormat::HaproxyHttp),
    ] {
        let file = std::fs::OpenOptions::new().append(true).open("/dev/null").expect("/dev/null");
        let mut log = LogWriter::new(RequestLog::File(file.into()));
        let mut dates = Dates::new(|_| 3600);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                log.line(0, |to| line::write(black_box(&record), format, &mut dates, to));
            });
        });
    }
}

/// A request and its answer on an open connection.
fn http(criterion: &mut Criterion) {
    const SMALL: &str = "GET /some/page?of=many HTTP/1.1\r\nHost: example.org\r\n\r\n";
    const BROWSER: &str = "GET /some/page?of=many HTTP/1.1\r\nHost: example.org\r\n\
        User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
        Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
        Accept-Language: de,en-US;q=0.7,en;q=0.3\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
        Referer: https://example.org/some/\r\nConnection: keep-alive\r\n\
        Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=yes\r\n\
        X-Forwarded-For: 192.0.2.1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello";
    let mut group = criterion.benchmark_group("HTTP request and answer");
    for (name, request) in [("small", SMALL), ("of a browser", BROWSER)] {
        let (mut exchange, mut out) = (Exchange::new(client(), false, Others::Refused), Vec::new());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let passed = exchange.request(black_box(request.as_bytes()), &mut out).len();
                assert!(passed > request.len(), "it is named");
                exchange.answer(black_box(answer));
            });
        });
    }
}

criterion_group!(hot, selection, positions, timers, log_line, connection_line, http);
criterion_main!(hot);
