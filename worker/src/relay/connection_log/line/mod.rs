//! The forms of a line of the connection log: words, JSON, and the logs of haproxy.
//!
//! Pure. Each line is one line whatever the names in it contain.

mod fields;
mod haproxy;
mod json;
#[cfg(test)]
mod tests;
mod words;

use pen_config::ids::{ClientKey, Target, WorkerId};
use pen_config::settings::ConnectionLogFormat;

use crate::relay::connection::end::{ConnectionEnd, Step};
use crate::relay::connection::timings::{Bytes, Durations};
use crate::relay::connection_log::dates::Dates;
use crate::tls::TlsFacts;

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When the client was accepted, in milliseconds of Unix time.
    pub start: u64,
    /// The client.
    pub client: ClientKey,
    /// Its port; it means nothing for a Unix socket.
    pub client_port: u16,
    /// The listen address.
    pub listen: &'a str,
    /// The worker.
    pub worker: WorkerId,
    /// The server that was tried last, and its address.
    pub server: Option<(Target, &'a str)>,
    /// How many connects were begun.
    pub attempts: u32,
    /// How long the steps took.
    pub durations: Durations,
    /// Bytes in both directions, if they are known.
    pub bytes: Option<Bytes>,
    /// Why it ended.
    pub end: ConnectionEnd,
    /// How far it had come.
    pub step: Step,
    /// Its TLS session, if a handshake was finished.
    pub tls: Option<TlsFacts<'a>>,
    /// The TLS session with the server; none without TLS.
    pub server_tls: Option<TlsFacts<'a>>,
    /// Connections that are open at its end, itself included; only the forms of haproxy have them.
    pub open: Open,
}

/// Open connections of all workers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open {
    /// All of them.
    pub all: u32,
    /// Those to the server.
    pub of_server: u32,
}

/// Appends a line, without its line end.
pub fn write(
    record: &Record<'_>,
    format: ConnectionLogFormat,
    dates: &mut Dates,
    to: &mut Vec<u8>,
) {
    match format {
        ConnectionLogFormat::Text => words::text(record, dates, to),
        ConnectionLogFormat::Json => json::json(record, dates, to),
        ConnectionLogFormat::Haproxy => haproxy::tcp(record, dates, to),
        ConnectionLogFormat::HaproxyHttp => haproxy::http(record, dates, to),
    }
}
