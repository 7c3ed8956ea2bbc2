//! A line as an object of JSON.

use crate::relay::connection::timings::Durations;
use crate::relay::connection_log::dates::Dates;
use crate::relay::connection_log::line::Record;
use crate::relay::connection_log::line::fields::{ClientAddress, code, decimal};

/// Appends a line. The keys are those of the manual. serde_json escapes the names. Made of a type,
/// a line would take more than twice as long.
pub fn json(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    let Durations { wait, tls, connect, first_byte, total } = record.durations;
    to.extend(br#"{"time":""#);
    to.extend(dates.utc(record.start).text().as_bytes());
    to.extend(br#"","client":""#);
    to.extend(ClientAddress::of(record.client).text().as_bytes());
    to.extend(br#"","client_port":"#);
    let port = record.client.ip().map(|_| record.client_port.into());
    or_null(port, to);
    to.extend(br#","listen":"#);
    quoted(Some(record.listen), to);
    to.extend(br#","worker":"#);
    decimal(record.worker.0.into(), to);
    to.extend(br#","server":"#);
    match record.server {
        Some((target, _)) => code(target, to),
        None => to.extend(b"null"),
    }
    to.extend(br#","address":"#);
    quoted(record.server.map(|(_, address)| address), to);
    for (key, value) in [
        (r#","attempts":"#, Some(record.attempts.into())),
        (r#","wait_ms":"#, wait),
        (r#","tls_ms":"#, tls),
        (r#","connect_ms":"#, connect),
        (r#","first_byte_ms":"#, first_byte),
        (r#","total_ms":"#, Some(total)),
        (r#","bytes_sent":"#, record.bytes.map(|bytes| bytes.sent)),
        (r#","bytes_received":"#, record.bytes.map(|bytes| bytes.received)),
    ] {
        to.extend(key.as_bytes());
        or_null(value, to);
    }
    to.extend(br#","end":""#);
    to.extend(record.end.word().as_bytes());
    to.extend(br#"","tls":"#);
    match record.tls {
        // Writing to a Vec does not fail, and every value of it has a form in JSON.
        Some(facts) => drop(serde_json::to_writer(&mut *to, &facts)),
        None => to.extend(b"null"),
    }
    to.extend(br#","server_tls":"#);
    match record.server_tls {
        // As above.
        Some(facts) => drop(serde_json::to_writer(&mut *to, &facts)),
        None => to.extend(b"null"),
    }
    to.push(b'}');
}

/// Appends a text in JSON, or null.
fn quoted(text: Option<&str>, to: &mut Vec<u8>) {
    match text {
        // As above.
        Some(text) => drop(serde_json::to_writer(&mut *to, text)),
        None => to.extend(b"null"),
    }
}

fn or_null(number: Option<u64>, to: &mut Vec<u8>) {
    match number {
        Some(number) => decimal(number, to),
        None => to.extend(b"null"),
    }
}
