//! The examples for Prometheus and Grafana: every expression in them works with what a pen says.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pen_status::metrics::families;
use rustix::process::Signal;
use serde_json::Value;

use super::needs_prometheus;
use super::scraper::Scraper;
use crate::harness::program::curl;
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Pen, Port, eventually};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/examples").join(name)
}

/// Runs promtool with this input; it must find nothing.
#[track_caller]
fn promtool<S: AsRef<std::ffi::OsStr>>(words: &[S], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let said =
        format!("{}{}", String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{said}");
    said
}

/// A pen with TLS, an emergency and an abuse server, and something to tell of each metric.
struct Eventful {
    pen: Pen,
    page: Port,
    _servers: [Backend; 3],
}

impl Eventful {
    fn start() -> Eventful {
        let (builder, page) = (Pen::builder(), Port::reserve());
        let authority = Authority::root("root");
        let identity = authority.issue(&["www"]);
        let pem = identity.key + &identity.chain;
        let pem = write(builder.directory(), "www.pem", pem);
        let servers = [Backend::named("a"), Backend::down("b"), Backend::named("c")];
        let [server, down, other] = servers.each_ref().map(Backend::operand);
        let [server, down] = [server, down].map(|server| server.replace(':', " port "));
        let text = format!(
            "server 0 address {server} max 9 tls off\nserver 1 address {down} tls off\n\
             emergency {other}\nabuse {other}\nserver_tls\nserver_tls_verify off\npage {}\n\
             check tcp\n",
            page.address()
        );
        let socket = builder.directory().join("ctl");
        let options = ["-E".as_ref(), pem.as_os_str()];
        let pen = builder.file(&text).options(options).control_unix(&socket).start();
        let eventful = Eventful { pen, page, _servers: servers };
        let mut client = authority.client();
        for _ in 0..3 {
            let (greeting, _) = client.ask(eventful.pen.address(), "www").expect("an answer");
            assert_eq!(greeting, "a");
        }
        eventful.fails_in_tls();
        eventually("a check succeeded", || {
            eventful.pen.tell("metrics").contains("\npen_server_check_duration_seconds{")
        });
        eventful
    }

    fn fails_in_tls(&self) {
        let client = self.pen.connect(Ipv4Addr::LOCALHOST);
        client.send("no TLS\n");
        let _ = client.read_to_end();
    }
}

#[test]
fn promtool_finds_nothing_to_complain_of_in_the_metrics() {
    if !needs_prometheus() {
        return;
    }
    let eventful = Eventful::start();
    let text = eventful.pen.tell("metrics");
    for family in families() {
        let there = text.lines().any(|line| {
            let rest = line.strip_prefix(family.name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
        });
        assert!(there, "{} is not in {text}", family.name);
    }
    assert_eq!(promtool(&["check", "metrics"], &text), "");
    let page = format!("http://{}/metrics", eventful.page.address());
    let text_of_page = curl([&page]);
    assert_eq!(promtool(&["check", "metrics"], &text_of_page), "");
    let helps = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("# HELP")).map(str::to_owned).collect()
    };
    assert_eq!(helps(&text_of_page), helps(&text));
    let open = curl(["-i", "-H", "Accept: application/openmetrics-text;version=1.0.0", &page]);
    let kind = "\r\nContent-Type: application/openmetrics-text; version=1.0.0;";
    assert!(open.contains(kind) && open.ends_with("\n# EOF\n"), "{open}");
}

#[test]
fn every_alert_is_raised_by_what_it_is_about() {
    if !needs_prometheus() {
        return;
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/metrics/alerts-test.yml");
    promtool(&["test".as_ref(), "rules".as_ref(), tests.as_os_str()], "");
    promtool(&["check".as_ref(), "config".as_ref(), example("prometheus.yml").as_os_str()], "");
    let (rules, tests) = (read("prometheus-alerts.yml"), fs::read_to_string(tests).unwrap());
    let names = |text: &str, key: &str| -> BTreeSet<String> {
        let lines = text.lines().map(str::trim).filter_map(|line| line.strip_prefix(key));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(names(&rules, "- alert: "), names(&tests, "- alertname: "));
}

fn read(name: &str) -> String {
    fs::read_to_string(example(name)).unwrap()
}

/// The expressions of the dashboard, with what Grafana puts into them.
fn dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let annotations = dashboard["annotations"]["list"].as_array().unwrap().iter();
    let expressions = targets.chain(annotations).map(|target| target["expr"].as_str().unwrap());
    let filled =
        |expression: &str| expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
    let expressions: Vec<String> = expressions.map(filled).collect();
    assert!(expressions.len() > 50 && expressions.iter().all(|one| !one.contains('$')));
    expressions
}

#[test]
fn the_dashboard_shows_every_metric_and_every_expression_of_it_finds_something() {
    if !needs_prometheus() {
        return;
    }
    let shown = dashboard().join("\n");
    for family in families() {
        assert!(shown.contains(family.name), "{} is not in the dashboard", family.name);
    }
    let eventful = Eventful::start();
    let pen = &eventful.pen;
    let scraper = Scraper::start(pen, &eventful.page);
    scraper.collects();
    pen.supervisor().signal(Signal::HUP);
    pen.workers()[0].signal(Signal::KILL);
    pen.supervisor().signal(Signal::USR2);
    eventually("the last upgrade is collected", || {
        scraper.value(r#"pen_upgrades_total{job="command", result="success"}"#) == Some(1.0)
    });
    eventful.fails_in_tls();
    scraper.collects();
    scraper.collects();
    for (metric, kind, unit) in [
        ("pen_build", "info", ""),
        ("pen_connections", "gauge", ""),
        ("pen_connections_total", "unknown", ""),
        ("pen_refused", "counter", ""),
        ("pen_worker_busy_seconds", "counter", "seconds"),
        ("pen_server_connect_seconds", "histogram", "seconds"),
    ] {
        // Names without _total and units are those of OpenMetrics.
        assert_eq!(scraper.described(metric), (kind.to_owned(), unit.to_owned()), "{metric}");
    }
    for expression in dashboard() {
        // What is only shown where it is not 0 may be nothing.
        let whole = expression.strip_suffix(" > 0").unwrap_or(&expression);
        assert_ne!(scraper.query(whole), [], "{whole}");
    }
}
