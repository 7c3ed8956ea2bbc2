//! What every state gives as metrics, and whether the document has all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use super::*;
use crate::histogram::{CONNECT, Histogram};
use crate::samples::{empty, fine, half_down};
use crate::{CertificateStatus, ReasonCount, ServerStatus};

const BOTH: [Exposition; 2] = [Exposition::Prometheus, Exposition::OpenMetrics];

/// The lines that are samples, as name and labels, and value.
fn samples(text: &str) -> BTreeMap<&str, &str> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(samples.insert(series, value).is_none(), "{series} is there twice");
    }
    samples
}

fn lines_of<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    text.lines().filter(|line| line.split([' ', '{']).any(|word| word == name)).collect()
}

#[test]
fn every_metric_has_help_and_type_before_its_samples_and_no_series_is_there_twice() {
    for exposition in BOTH {
        let text = render(&half_down(5), exposition);
        samples(&text);
        let (mut described, mut typed) = (BTreeSet::new(), BTreeSet::new());
        let (mut over, mut last) = (BTreeSet::new(), "");
        for line in text.lines() {
            let words: Vec<&str> = line.split([' ', '{']).collect();
            match words[..] {
                ["#", "HELP", name, ..] => {
                    assert!(described.insert(name) && words.len() > 3, "{line}");
                }
                ["#", "TYPE", name, _] => assert!(typed.insert(name), "{line}"),
                ["#", "UNIT", name, unit] => {
                    assert!(name.ends_with(&format!("_{unit}")), "{line}");
                    assert_eq!(exposition, Exposition::OpenMetrics);
                }
                ["#", "EOF"] => {
                    assert_eq!(exposition, Exposition::OpenMetrics);
                    assert!(text.ends_with("\n# EOF\n"));
                }
                [name, ..] => {
                    let ends = ["", "_total", "_info", "_bucket", "_sum", "_count"];
                    let mut families = ends.iter().filter_map(|end| name.strip_suffix(end));
                    let family = families.find(|family| described.contains(family));
                    let family = family.unwrap_or_else(|| panic!("{line}"));
                    assert!(typed.contains(family), "{line}");
                    if last != family {
                        // The samples of a family stand together.
                        assert!(over.insert(family), "{line}");
                        last = family;
                    }
                }
                [] => panic!("an empty line"),
            }
        }
        assert_eq!(typed, described);
        assert!(typed.len() >= 36);
    }
}

#[test]
fn names_follow_the_rules_and_differ() {
    let names: BTreeSet<&str> = families().map(|family| family.name).collect();
    assert_eq!(names.len(), families().count());
    for Family { name, kind, help, labels, .. } in families() {
        assert!(name.starts_with("pen_"));
        assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert_eq!(*kind == Kind::Info, name.ends_with("_info"), "{name}");
        assert!(help.ends_with('.') && !help.contains(['\\', '\n', '"']), "{name}");
        assert!(!labels.contains(&"le"), "{name}");
    }
}

#[test]
fn samples_have_exactly_the_labels_of_their_family() {
    let (mut status, mut seen) = (half_down(3), BTreeSet::new());
    status.servers[1].connect_failures = vec![ReasonCount { reason: "refused".into(), count: 1 }];
    let text = render(&status, Exposition::Prometheus);
    for series in samples(&text).into_keys() {
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.split(['{', ',', '}']).filter_map(|label| label.split_once("=\""));
        let mut labels: Vec<&str> = labels.map(|(name, _)| name).collect();
        let family = families().find(|family| {
            let rest = name.strip_prefix(family.name);
            rest == Some("") || (family.kind == Kind::Histogram && rest.is_some())
        });
        let family = family.unwrap_or_else(|| panic!("{series}"));
        if name.ends_with("_bucket") {
            assert_eq!(labels.pop(), Some("le"), "{series}");
        }
        assert_eq!(labels, family.labels, "{series}");
        seen.insert(family.name);
    }
    assert_eq!(seen.len(), families().count());
}

#[test]
fn histograms_are_cumulative_and_end_with_all() {
    let mut status = fine(1);
    let mut connect = Histogram::default();
    for micros in [10, 20, 21, 1_500_000, u64::MAX / 4] {
        connect.record(&CONNECT, micros);
    }
    (status.servers[0].connect, status.servers[0].name) = (connect, Some("www".into()));
    status.servers[0].port = 80;
    let text = render(&status, Exposition::Prometheus);
    let found = samples(&text);
    let of = |what: &str, le: &str| {
        let series =
            format!("pen_server_connect_seconds{what}{{server=\"0\",address=\"www:80\"{le}}}");
        *found.get(series.as_str()).unwrap_or_else(|| panic!("{series}"))
    };
    let bucket = |le: &str| of("_bucket", &format!(",le=\"{le}\""));
    assert_eq!((bucket("2e-05"), bucket("5e-05"), bucket("0.0001")), ("2", "3", "3"));
    assert_eq!((bucket("1.0"), bucket("2.0"), bucket("500.0")), ("3", "4", "4"));
    assert_eq!((bucket("+Inf"), of("_count", "")), ("5", "5"));
    assert_eq!(of("_sum", ""), "4611686018428.887954");
}

#[test]
fn labels_are_escaped_and_ports_belong_to_addresses() {
    let mut status = fine(4);
    let server = |name: Option<&str>, address: &str| ServerStatus {
        state: crate::ServerState::Up,
        name: name.map(str::to_owned),
        address: Some(address.into()),
        port: 80,
        ..ServerStatus::default()
    };
    status.servers = vec![server(None, "::1"), server(Some("a\"b\\c"), "10.0.0.1")];
    status.abuse = Some(server(None, "/run/a\nb"));
    let text = render(&status, Exposition::Prometheus);
    let expected = [
        "# HELP pen_server_up Whether a server is used: it has neither failed nor been taken out.",
        "# TYPE pen_server_up gauge",
        r#"pen_server_up{server="0",address="[::1]:80"} 1"#,
        r#"pen_server_up{server="0",address="a\"b\\c:80"} 1"#,
        r#"pen_server_up{server="abuse",address="/run/a\nb"} 1"#,
    ];
    let mut found = lines_of(&text, "pen_server_up");
    found.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn each_server_has_one_state_of_the_three() {
    let mut status = fine(2);
    status.servers[1].mode = crate::Mode::Maint;
    let text = render(&status, Exposition::Prometheus);
    let samples = samples(&text);
    let values = |number: usize| {
        ["ready", "drain", "maint"].map(|state| {
            let labels = format!("server=\"{number}\"");
            let is_meant = |series: &&&str| {
                series.starts_with("pen_server_state{")
                    && series.contains(&labels)
                    && series.contains(&format!("state=\"{state}\""))
            };
            samples[samples.keys().find(is_meant).unwrap()]
        })
    };
    assert_eq!([values(0), values(1)], [["1", "0", "0"], ["0", "0", "1"]]);
}

#[test]
fn the_first_of_certificates_with_one_name_counts() {
    let mut status = fine(1);
    let certificate = |name: &str, end| CertificateStatus {
        name: name.into(),
        file: "/etc/www.pem".into(),
        used: "server".into(),
        not_after_unix: end,
    };
    status.certificates = vec![
        certificate("CN=b", Some(9)),
        certificate("CN=a", Some(7)),
        certificate("CN=b", Some(-8)),
        certificate("CN=c", None),
    ];
    let text = render(&status, Exposition::Prometheus);
    let found = lines_of(&text, "pen_certificate_not_after_seconds");
    let expected = [
        r#"pen_certificate_not_after_seconds{name="CN=a"} 7"#,
        r#"pen_certificate_not_after_seconds{name="CN=b"} -8"#,
    ];
    assert_eq!(found[2..], expected);
}

#[test]
fn what_does_not_exist_has_no_sample() {
    let text = render(&empty(), Exposition::Prometheus);
    for absent in ["pen_server_", "pen_tls_", "pen_certificate_"] {
        assert!(!text.contains(absent), "{text}");
    }
    assert!(text.contains("\npen_last_reload_success 1\n"), "the start has read it");
    let mut status = fine(1);
    status.worker_list[1].memory = None;
    let text = render(&status, Exposition::Prometheus);
    assert_eq!(lines_of(&text, "pen_worker_memory_bytes").len(), 3);
}

#[test]
fn a_counter_that_has_the_name_of_a_gauge_has_no_type_in_open_metrics() {
    let text = render(&fine(1), Exposition::OpenMetrics);
    for line in [
        "# TYPE pen_connections gauge\n",
        "# TYPE pen_connections_total unknown\n",
        "# TYPE pen_server_connections_total unknown\n",
        "# TYPE pen_refused counter\n",
        "# TYPE pen_server_bytes counter\n# UNIT pen_server_bytes bytes\n",
        "# TYPE pen_build info\n",
        "\npen_build_info{version=\"0.1.0\"} 1\n",
        "\npen_placement_info{method=\"leastconn\"} 1\n",
    ] {
        assert!(text.contains(line), "{line}");
    }
    let without_type = text.lines().filter(|line| line.ends_with(" unknown")).count();
    assert_eq!(without_type, 2);
}

#[test]
fn the_document_has_every_metric() {
    let mut table = String::from("| Metric | Type | Labels | What it says |\n|---|---|---|---|\n");
    for Family { name, kind, help, labels, .. } in families() {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels) = (kind.name(), labels.join(", "));
        writeln!(table, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let document = fs::read_to_string(path).unwrap();
    let (begin, end) = (
        "<!-- UPDATE_DOCS=1 cargo test -p pen-status writes this table. -->\n",
        "<!-- The end of the table. -->\n",
    );
    let (before, rest) = document.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let expected = format!("{before}{begin}{table}{end}{after}");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, &expected).unwrap();
        return;
    }
    assert!(
        document == expected,
        "docs/metrics.md is not up to date: UPDATE_DOCS=1 cargo test -p pen-status"
    );
}
