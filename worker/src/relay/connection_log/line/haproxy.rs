//! A line as haproxy's logs have it, for the programs that read those.

use pen_config::ids::Target;

use crate::relay::connection::timings::Durations;
use crate::relay::connection_log::dates::Dates;
use crate::relay::connection_log::line::fields::{ClientAddress, decimal, word};
use crate::relay::connection_log::line::{Open, Record};

/// `CLIENT:PORT [DATE] FRONTEND BACKEND/SERVER Tw/Tc/Tt BYTES CODE ACT/FE/BE/SRV/RETRIES 0/0`
pub fn tcp(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    head(record, dates, to);
    let Durations { wait, connect, total, .. } = record.durations;
    slashed(&[wait, connect, Some(total)], to);
    to.push(b' ');
    decimal(record.bytes.map_or(0, |bytes| bytes.sent), to);
    to.push(b' ');
    to.extend(record.end.code(record.step).as_bytes());
    load(record, to);
}

/// As [`tcp`], with the fields of an HTTP request, of which a connection has none.
pub fn http(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    head(record, dates, to);
    let Durations { wait, tls, connect, first_byte, total } = record.durations;
    slashed(&[tls.or(Some(0)), wait, connect, first_byte, Some(total)], to);
    to.extend(b" -1 ");
    decimal(record.bytes.map_or(0, |bytes| bytes.sent), to);
    to.extend(b" - - ");
    to.extend(record.end.code(record.step).as_bytes());
    to.extend(b"--");
    load(record, to);
    to.extend(b" \"TCP ");
    to.extend(record.end.word().as_bytes());
    to.extend(b" -\"");
}

fn head(record: &Record<'_>, dates: &mut Dates, to: &mut Vec<u8>) {
    to.extend(ClientAddress::of(record.client).text().as_bytes());
    to.push(b':');
    decimal(record.client_port.into(), to);
    to.extend(b" [");
    dates.haproxy(record.start, to);
    to.extend(b"] ");
    word(record.listen, to);
    to.extend(b" pen/");
    match record.server.map(|(target, _)| target) {
        Some(Target::Server(id)) => decimal(id.0.into(), to),
        Some(Target::Emergency) => to.extend(b"emergency"),
        Some(Target::Abuse) => to.extend(b"abuse"),
        None => to.extend(b"<NOSRV>"),
    }
    to.push(b' ');
}

fn load(record: &Record<'_>, to: &mut Vec<u8>) {
    let Open { all, of_server } = record.open;
    let retries = record.attempts.saturating_sub(1);
    to.push(b' ');
    slashed(&[all, all, all, of_server, retries].map(|count| Some(count.into())), to);
    to.extend(b" 0/0");
}

/// Appends numbers with a slash between them; -1 for none.
fn slashed(numbers: &[Option<u64>], to: &mut Vec<u8>) {
    for (index, number) in numbers.iter().enumerate() {
        if index > 0 {
            to.push(b'/');
        }
        match number {
            Some(number) => decimal(*number, to),
            None => to.extend(b"-1"),
        }
    }
}
