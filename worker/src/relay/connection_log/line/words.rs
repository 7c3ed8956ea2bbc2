//! A line as words with their names.

use std::net::IpAddr;

use crate::relay::connection::timings::Durations;
use crate::relay::connection_log::dates::Dates;
use crate::relay::connection_log::line::Record;
use crate::relay::connection_log::line::fields::{ClientAddress, code, decimal, word};
use crate::tls::TlsFacts;

/// Appends a line.
pub fn text(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    let Durations { wait, tls, connect, first_byte, total } = record.durations;
    to.extend(dates.utc(record.start).text().as_bytes());
    to.extend(b" client=");
    client(record, to);
    to.extend(b" listen=");
    word(record.listen, to);
    to.extend(b" worker=");
    decimal(record.worker.0.into(), to);
    to.extend(b" server=");
    match record.server {
        Some((target, _)) => code(target, to),
        None => to.push(b'-'),
    }
    to.extend(b" address=");
    word(record.server.map_or("-", |(_, address)| address), to);
    to.extend(b" attempts=");
    decimal(record.attempts.into(), to);
    for (name, value) in [
        (" wait_ms=", wait),
        (" tls_ms=", tls),
        (" connect_ms=", connect),
        (" first_byte_ms=", first_byte),
        (" total_ms=", Some(total)),
        (" bytes_sent=", record.bytes.map(|bytes| bytes.sent)),
        (" bytes_received=", record.bytes.map(|bytes| bytes.received)),
    ] {
        to.extend(name.as_bytes());
        match value {
            Some(value) => decimal(value, to),
            None => to.push(b'-'),
        }
    }
    to.extend(b" end=");
    to.extend(record.end.word().as_bytes());
    to.extend(b" tls=");
    match record.tls {
        Some(TlsFacts { version, cipher, name, resumed }) => {
            to.extend(version.as_bytes());
            to.extend(b" cipher=");
            word(cipher, to);
            to.extend(b" name=");
            word(name.unwrap_or("-"), to);
            to.extend(if resumed { b" resumed=yes".as_slice() } else { b" resumed=no" });
        }
        None => to.push(b'-'),
    }
    // Only with TLS to the server.
    if let Some(TlsFacts { version, cipher, name: _, resumed }) = record.server_tls {
        to.extend(b" server_tls=");
        to.extend(version.as_bytes());
        to.extend(b" server_cipher=");
        word(cipher, to);
        to.extend(if resumed { b" server_resumed=yes".as_slice() } else { b" server_resumed=no" });
    }
}

/// Appends the address and port of a client.
fn client(record: &Record<'_>, to: &mut Vec<u8>) {
    let address = ClientAddress::of(record.client);
    match record.client.ip() {
        Some(IpAddr::V4(_)) => to.extend(address.text().as_bytes()),
        Some(IpAddr::V6(_)) => {
            to.push(b'[');
            to.extend(address.text().as_bytes());
            to.push(b']');
        }
        None => return to.extend(address.text().as_bytes()),
    }
    to.push(b':');
    decimal(record.client_port.into(), to);
}
