//! No counter falls, whatever happens to a pen; and what the counters say is true.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use pen_status::metrics::{Family, Kind, families};
use rustix::process::Signal;

use super::needs_prometheus;
use super::scraper::Scraper;
use crate::harness::tls::Authority;
use crate::harness::tls_server::TlsServer;
use crate::harness::{Backend, Client, Pen, Port, SetOnDrop, eventually};
use crate::upgrade::Installed;

/// The names of all series that may never fall. This pen has no TLS with clients.
fn counters() -> Vec<String> {
    let families = families().filter(|family| !family.name.starts_with("pen_tls_"));
    let names = |family: &Family| match family.kind {
        Kind::Gauge | Kind::Info => Vec::new(),
        Kind::Counter => vec![family.name.to_owned()],
        Kind::Histogram => {
            ["_bucket", "_count", "_sum"].map(|end| family.name.to_owned() + end).to_vec()
        }
    };
    families.flat_map(names).collect()
}

/// Clients that come and go while `act` runs. Returns how many were served.
fn under_load(to: SocketAddr, act: impl FnOnce(&AtomicU64)) -> u64 {
    let (over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let ends = SetOnDrop(&over);
        for number in 0..3 {
            let (over, served) = (&over, &served);
            scope.spawn(move || {
                let from = IpAddr::from(Ipv4Addr::new(127, 91, 0, number));
                while !over.load(SeqCst) {
                    // A worker that is killed takes its clients along.
                    let Ok(client) = Client::connect(from, to) else { continue };
                    if client.read(2).is_ok_and(|greeting| greeting == b"a\n") {
                        client.finish();
                        let _ = client.read_to_end();
                        served.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        act(&served);
        drop(ends);
    });
    served.into_inner()
}

#[test]
fn no_counter_falls_by_load_reloads_deaths_and_upgrades() {
    if !needs_prometheus() {
        return;
    }
    let identity = Authority::root("root").issue(&["127.0.0.1"]);
    let (server, other) = (TlsServer::named("a", identity).start(), Backend::down("b"));
    let (builder, page) = (Pen::builder(), Port::reserve());
    let (socket, file) = (builder.directory().join("ctl"), builder.directory().join("pen.cfg"));
    let [at, other_at] =
        [&server.backend, &other].map(|server| server.operand().replace(':', " port "));
    let config = format!(
        "server 0 address {at} tls on\nserver 1 address {other_at}\nblacklist 1\n\
         server_tls_verify off\ncheck tcp\ncheck_fall 100\n"
    );
    let options = ["-O".to_owned(), format!("page {}", page.address())];
    let pen = Installed::start(builder.file(&config).options(options).control_unix(&socket));
    let scraper = Scraper::start(&pen, &page);
    let served = under_load(pen.address(), |served| {
        // After each event, clients are served and Prometheus collects.
        let goes_on = || {
            let before = served.load(SeqCst);
            scraper.collects();
            eventually("clients are served", || served.load(SeqCst) > before);
        };
        goes_on();
        for round in 1..=2 {
            pen.supervisor().signal(Signal::HUP);
            goes_on();
            std::fs::write(&file, "frob\n").unwrap();
            pen.supervisor().signal(Signal::HUP);
            goes_on();
            std::fs::write(&file, &config).unwrap();
            pen.workers()[round % 3].signal(Signal::KILL);
            goes_on();
        }
        pen.install("0.2.1");
        pen.goes_on_as(env!("CARGO_PKG_VERSION"), "0.2.1");
        goes_on();
        pen.workers()[0].signal(Signal::KILL);
        goes_on();
        pen.supervisor().signal(Signal::HUP);
        pen.install("0.2.2 layout 1001");
        pen.goes_on_as("0.2.1", "0.2.2");
        goes_on();
        pen.install("0.2.3 format 77");
        pen.supervisor().signal(Signal::USR2);
        goes_on();
    });
    // What workers counted, they have said within a second.
    eventually("all clients are counted", || {
        scraper.value(r#"pen_server_connections_total{server="0", job="command"}"#)
            >= Some(served as f64)
    });
    for counter in counters() {
        assert_eq!(scraper.query(&format!("resets({counter}[1h]) > 0")), []);
        assert!(scraper.query(&counter).len() >= 2, "{counter}");
    }
    let moved = scraper.query("changes(pen_start_time_seconds[1h]) > 0");
    assert_eq!(moved, [], "pen was started once");
    for (expression, expected) in [
        (r#"pen_reloads_total{result="success"}"#, 3.0),
        (r#"pen_reloads_total{result="failure"}"#, 2.0),
        (r#"pen_upgrades_total{result="success"}"#, 2.0),
        (r#"pen_upgrades_total{result="failure"}"#, 1.0),
        ("sum by (job) (pen_worker_restarts_total)", 3.0),
        ("pen_last_reload_success", 1.0),
        ("pen_workers", 3.0),
        (r#"pen_server_up{server="0"}"#, 1.0),
    ] {
        let found = scraper.query(expression);
        let values: Vec<f64> = found.iter().map(|(_, value)| *value).collect();
        assert_eq!(values, [expected; 2], "{expression}");
    }
    for expression in [
        "pen_connections_total",
        r#"pen_server_bytes_total{server="0", direction="received"}"#,
        r#"pen_server_connect_failures_total{server="1", reason="refused"}"#,
        r#"pen_server_connect_seconds_count{server="0"}"#,
        r#"pen_server_connect_seconds_sum{server="0"}"#,
        r#"pen_server_connection_seconds_count{server="0"}"#,
        "sum by (job) (pen_worker_busy_seconds_total)",
        "min by (job) (pen_worker_memory_bytes)",
        "pen_clients",
    ] {
        let found = scraper.query(&format!("({expression}) > 0"));
        assert_eq!(found.len(), 2, "{expression}");
    }
    for name in ["pen_server_connect_seconds", "pen_server_connection_seconds"] {
        let all = format!("{name}_bucket{{le=\"+Inf\"}} != ignoring(le) {name}_count");
        assert_eq!(scraper.query(&all), []);
    }
}
