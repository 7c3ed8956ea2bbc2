//! The reports as JSON (RFC 8259), for scripts. Rows are written one by one: there may be millions.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Write};

use pen_config::ids::Target;
use pen_ipc::stats::{ConnectionInfo, Counters};
use pen_ipc::text::date_time;
use pen_ipc::tls_files::{Fact, Purpose};
use pen_status::{OldWorkerStatus, ServerStatus};
use serde::Serialize;

use crate::files::certificates::moment;
use crate::report::Program;
use crate::report::rows::{ClientRow, code_or_null};
use crate::report::snapshot::Snapshot;

/// The status page.
pub(super) fn status(snapshot: Snapshot<'_>, to: &mut dyn Write) -> io::Result<()> {
    let full = snapshot.connections_full();
    let Snapshot {
        time,
        current,
        servers,
        clients_max,
        clients,
        connections_max,
        connections_used,
        ..
    } = snapshot;
    let Program { uptime, listen, workers, version: _, checks: _, lookups: _ } = snapshot.program;
    write!(to, "{{\"time\":")?;
    value(&date_time(time), to)?;
    write!(to, ",\"unix_time\":{},\"current\":", time.unix_timestamp())?;
    value(&Target::from_code(current).map(Target::code), to)?;
    to.write_all(b",\"servers\":")?;
    array(servers.into_iter(), to)?;
    for (name, backup) in [("emergency", &snapshot.emergency), ("abuse", &snapshot.abuse)] {
        write!(to, ",\"{name}\":")?;
        value(backup, to)?;
    }
    to.write_all(b",\"listen\":")?;
    value(listen, to)?;
    write!(to, ",\"uptime\":{},\"workers\":{workers}", uptime.as_secs())?;
    write!(to, ",\"clients_max\":{clients_max},\"clients\":")?;
    array(clients, to)?;
    write!(
        to,
        ",\"connections_max\":{connections_max},\"connections_used\":{connections_used},\
         \"connections\":"
    )?;
    array(snapshot.connections.iter().map(ConnectionRow::from), to)?;
    write!(to, ",\"connections_full\":{full},\"workers_missing\":")?;
    array(snapshot.missing.iter().map(|worker| worker.0), to)?;
    to.write_all(b",\"old_workers\":")?;
    array(snapshot.old_workers.iter().map(OldWorkerStatus::from), to)?;
    let Counters {
        requests_refused,
        handshakes_by_kind,
        handshake_failures,
        server_handshakes,
        server_tls_faults,
        ..
    } = &snapshot.counters;
    for (name, counts) in [
        ("requests_refused", by_name(requests_refused.iter().map(|(why, n)| (why.name(), n)))),
        ("tls_handshakes", by_name(handshakes_by_kind.iter().map(|(kind, n)| (kind.name(), n)))),
        ("tls_failures", by_name(handshake_failures.iter().map(|(why, n)| (why.name(), n)))),
        (
            "server_tls_handshakes",
            by_name(server_handshakes.iter().map(|(kind, n)| (kind.name(), n))),
        ),
        ("server_tls_failures", by_name(server_tls_faults.iter())),
    ] {
        write!(to, ",\"{name}\":")?;
        value(&counts, to)?;
    }
    to.write_all(b",\"counters\":")?;
    value(&counted(&snapshot.counters), to)?;
    to.write_all(b",\"sandbox\":")?;
    value(snapshot.sandbox, to)?;
    to.write_all(b"}\n")
}

/// The servers.
pub(super) fn servers(
    rows: impl Iterator<Item = ServerStatus>,
    to: &mut dyn Write,
) -> io::Result<()> {
    array(rows, to)?;
    to.write_all(b"\n")
}

/// The certificates of TLS.
pub(super) fn certificates(facts: &[Fact], now: i64, to: &mut dyn Write) -> io::Result<()> {
    array(facts.iter().map(|fact| CertificateRow::new(fact, now)), to)?;
    to.write_all(b"\n")
}

/// The clients that were last used within so many seconds.
pub(super) fn recent(
    rows: impl Iterator<Item = ClientRow>,
    seconds: u32,
    to: &mut dyn Write,
) -> io::Result<()> {
    array(rows.filter(|row| row.age <= seconds.into()), to)?;
    to.write_all(b"\n")
}

fn by_name(counts: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<&'static str, u64> {
    counts.collect()
}

/// What workers counted since the start of pen, by name.
fn counted(counters: &Counters) -> BTreeMap<&'static str, u64> {
    let Counters {
        accepted,
        // With `accepted`, the connections that are open, which the table knows better.
        closed: _,
        unserved,
        refused,
        failed_connects,
        failovers,
        pauses,
        shortages,
        log_lines,
        log_lost,
        lock_timeouts,
        events_dropped,
        handshakes,
        resumed,
        failed_handshakes,
        crowded,
        connection_log_lines,
        connection_log_lost,
        // Fields of their own, by reason and kind.
        requests_refused: _,
        handshakes_by_kind: _,
        handshake_failures: _,
        server_handshakes: _,
        server_tls_faults: _,
        evictions,
        bad_senders,
        over_limit,
        held,
        // With `held`, the clients that are held now, which only living workers have.
        held_ended: _,
        beyond_max,
        beyond_rate,
        tarpitted,
        // As `held_ended`.
        tarpit_ended: _,
        limits_unchecked,
    } = *counters;
    BTreeMap::from([
        ("accepted", accepted),
        ("unserved", unserved),
        ("refused", refused),
        ("failed_connects", failed_connects),
        ("failovers", failovers),
        ("pauses", pauses),
        ("shortages", shortages),
        ("log_lines", log_lines),
        ("log_lost", log_lost),
        ("lock_timeouts", lock_timeouts),
        ("events_dropped", events_dropped),
        ("handshakes", handshakes),
        ("handshakes_resumed", resumed),
        ("handshakes_failed", failed_handshakes),
        ("crowded", crowded),
        ("connection_log_lines", connection_log_lines),
        ("connection_log_lost", connection_log_lost),
        ("evictions", evictions),
        ("bad_senders", bad_senders),
        ("over_limit", over_limit),
        ("held", held),
        ("beyond_max", beyond_max),
        ("beyond_rate", beyond_rate),
        ("tarpitted", tarpitted),
        ("limits_unchecked", limits_unchecked),
    ])
}

/// A certificate.
#[derive(Serialize)]
struct CertificateRow<'f> {
    name: &'f str,
    issuer: &'f str,
    serial: &'f str,
    not_before: Option<String>,
    not_after: Option<String>,
    not_after_unix: Option<i64>,
    seconds_left: Option<i64>,
    key: &'f str,
    used: &'static str,
    server_name: Option<&'f str>,
    file: &'f str,
}

impl<'f> CertificateRow<'f> {
    fn new(fact: &'f Fact, now: i64) -> CertificateRow<'f> {
        let Fact { file, purpose, name, issuer, serial, not_before, not_after, key } = fact;
        let (used, server_name) = match purpose {
            Purpose::Server(name) => ("server", name),
            Purpose::Chain(name) => ("chain", name),
            Purpose::Authority(name) => ("authority", name),
            Purpose::Client => ("client", &None),
            Purpose::ClientChain => ("client_chain", &None),
            Purpose::ServerAuthority => ("server_authority", &None),
        };
        CertificateRow {
            name,
            issuer,
            serial,
            not_before: not_before.map(moment),
            not_after: not_after.map(moment),
            not_after_unix: *not_after,
            seconds_left: not_after.map(|end| end.saturating_sub(now)),
            key,
            used,
            server_name: server_name.as_deref(),
            file,
        }
    }
}

/// An open connection.
#[derive(Serialize)]
struct ConnectionRow {
    number: u32,
    state: u8,
    downfd: Option<u32>,
    upfd: Option<u32>,
    pending_down: u32,
    pending_up: u32,
    client: Option<u32>,
    #[serde(serialize_with = "code_or_null")]
    server: i32,
}

impl From<&ConnectionInfo> for ConnectionRow {
    fn from(info: &ConnectionInfo) -> ConnectionRow {
        let ConnectionInfo {
            number,
            state,
            downfd,
            upfd,
            pending_down,
            pending_up,
            client,
            server,
        } = *info;
        let there = |number: i32| u32::try_from(number).ok();
        let (downfd, upfd, client) = (there(downfd), there(upfd), there(client));
        ConnectionRow { number, state, downfd, upfd, pending_down, pending_up, client, server }
    }
}

fn array<T: Serialize>(rows: impl Iterator<Item = T>, to: &mut dyn Write) -> io::Result<()> {
    to.write_all(b"[")?;
    for (index, row) in rows.enumerate() {
        to.write_all(if index == 0 { b"\n" } else { b",\n" })?;
        value(&row, to)?;
    }
    to.write_all(b"]")
}

fn value<T: Serialize + ?Sized>(value: &T, to: &mut dyn Write) -> io::Result<()> {
    Ok(serde_json::to_writer(to, value)?)
}

#[cfg(test)]
mod tests {
    use pen_config::ids::WorkerId;
    use serde_json::{Value, json};

    use super::*;
    use crate::report::snapshot::tests::{client, connection, snapshot};

    #[test]
    fn everything_is_in_the_status() {
        let connections = [connection(1), connection(2)];
        let mut text = Vec::new();
        status(snapshot(&connections, 3, &[WorkerId(1)]), &mut text).unwrap();
        assert_eq!(text.last(), Some(&b'\n'));
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["servers"][1]["address"], "/run/<&\">.sock");
        assert_eq!((&value["emergency"], &value["abuse"]), (&Value::Null, &Value::Null));
        assert_eq!(
            (&value["listen"], &value["uptime"], &value["workers"]),
            (&json!("www:80"), &json!(7300), &json!(2))
        );
        assert_eq!(value["clients"].as_array().unwrap().len(), 3);
        assert_eq!(value["connections"][1]["number"], 2);
        assert_eq!(
            (&value["workers_missing"], &value["connections_max"]),
            (&json!([1]), &json!(500))
        );
        assert_eq!(value["requests_refused"]["late"], 0);
        assert_eq!(value["tls_handshakes"]["tls12_resumed"], 0);
        assert_eq!(value["tls_failures"]["not_tls"], 0);
        assert_eq!(
            (&value["counters"]["log_lost"], &value["counters"]["accepted"]),
            (&0.into(), &0.into())
        );
        assert_eq!(value["sandbox"], json!({ "seccomp": true, "landlock": 6, "root": "empty" }));
    }

    #[test]
    fn certificates_are_an_array() {
        let mut text = Vec::new();
        certificates(
            &[crate::files::certificates::tests::fact(0, 1_793_592_621)],
            1_793_592_600,
            &mut text,
        )
        .unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            value,
            json!([{
                "name": "CN=www", "issuer": "CN=Test \"CA\"", "serial": "0A",
            "not_before": "1970-01-01 00:00:00 UTC",
                "not_after": "2026-11-02 04:10:21 \
                 UTC", "not_after_unix": 1_793_592_621, "seconds_left": 21,
                "key": "ECDSA P-256", "used": "server", "server_name": null, "file": "/etc/www.pem"
            }])
        );
    }

    #[test]
    fn lists_are_arrays_and_what_is_unset_is_null() {
        let mut rows = snapshot(&[], 0, &[]).servers;
        rows[1].address = None;
        let mut text = Vec::new();
        servers(rows.into_iter(), &mut text).unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&value[0]["sent"], &value[1]["address"]), (&json!(28), &Value::Null));
        assert_eq!((&value[0]["state"], &value[0]["last_failure"]), (&json!("up"), &Value::Null));
        let mut text = Vec::new();
        recent([client(0), ClientRow { age: 2, ..client(1) }].into_iter(), 1, &mut text).unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            value,
            json!([{
                "slot": 0, "address": "127.0.0.1", "age": 0, "server": 1,
                "server_name": "127.0.0.1:21001", "connects": 2, "sent": 41, "received": 28
            }])
        );
        let nobodys = ClientRow { server: -3, server_name: None, ..client(0) };
        let mut text = Vec::new();
        recent([nobodys].into_iter(), 1, &mut text).unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&value[0]["server"], &value[0]["server_name"]), (&Value::Null, &Value::Null));
        let none = ConnectionInfo { downfd: -1, upfd: -1, client: -1, server: -3, ..connection(1) };
        let mut text = Vec::new();
        status(Snapshot { current: -3, ..snapshot(&[none], 0, &[]) }, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(!text.contains(":-"), "{text}");
        let mut text = Vec::new();
        recent(std::iter::empty(), 1, &mut text).unwrap();
        assert_eq!(text, b"[]\n");
    }
}
