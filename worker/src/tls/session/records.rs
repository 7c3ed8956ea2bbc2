//! Records through the library: those that came become plain text, and plain text becomes records.

use rustls::client::ClientConnectionData;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};

use crate::tls::session::stage::Asking;

/// The result of the records that came in.
#[derive(Debug, Default)]
pub struct TakenRecords {
    /// Bytes of plain text.
    pub plain: usize,
    /// The peer sends no more (close_notify).
    pub closed: bool,
    /// The session is over.
    pub error: Option<rustls::Error>,
}

/// What to make records of.
#[derive(Clone, Copy)]
pub(super) enum Content<'p> {
    Plain(&'p [u8]),
    CloseNotify,
}

/// The library's connections, which differ in the type of their data only.
pub(super) trait Connection {
    type Data;

    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8])
    -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(records)
    }
}

impl Connection for Asking {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.sessions.will_read(records.len());
        self.tls.process_tls_records(records)
    }
}

/// Takes records as far as they are complete, and returns how many bytes they had. Plain text goes
/// into `plain`, and messages of the session into `out`.
///
/// The library sees one record more at a time, beyond the first `seen` bytes, which it must see
/// again. So a message that it hands to a store is at most as large as what it sees
/// ([`Sessions::will_read`]).
///
/// [`Sessions::will_read`]: crate::tls::resumption::Sessions::will_read
pub(super) fn exchange<C: Connection>(
    tls: &mut C,
    records: &mut [u8],
    seen: usize,
    plain: &mut [u8],
    out: &mut Vec<u8>,
    taken: &mut TakenRecords,
) -> usize {
    let mut start = 0;
    let mut end = after_record(records, 0);
    while end <= seen && end < records.len() {
        end = after_record(records, end);
    }
    loop {
        let UnbufferedStatus { discard, state, .. } = tls.process(&mut records[start..end]);
        let mut needs_more = false;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    plain[taken.plain..][..record.payload.len()].copy_from_slice(record.payload);
                    taken.plain += record.payload.len();
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut message)) => {
                put(out, |room| message.encode(room))
            }
            Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
            Ok(ConnectionState::PeerClosed) => taken.closed = true,
            Ok(_) => needs_more = true,
            Err(error) => {
                start += discard;
                final_alert(tls, &mut records[start..end], out);
                if error == rustls::Error::NoCertificatesPresented {
                    use_tls12_alert(out);
                }
                taken.error = Some(error);
                return start;
            }
        }
        start += discard;
        if needs_more && end == records.len() {
            return start;
        }
        if needs_more || start == end {
            end = after_record(records, end);
        }
    }
}

/// The end of the record that begins here, or of all bytes. Its header is a type, a version and the
/// length of the rest (RFC 8446, 5.1).
fn after_record(records: &[u8], start: usize) -> usize {
    let end = match records[start..] {
        [_, _, _, high, low, ..] => start + 5 + usize::from(u16::from_be_bytes([high, low])),
        _ => records.len(),
    };
    end.min(records.len())
}

/// Makes records of plain text, or the one of close_notify.
pub(super) fn records<C: Connection>(
    tls: &mut C,
    incomplete: &mut [u8],
    content: Content<'_>,
    room: &mut [u8],
) -> Option<usize> {
    match (tls.process(incomplete).state, content) {
        (Ok(ConnectionState::WriteTraffic(mut traffic)), Content::Plain(plain)) => {
            traffic.encrypt(plain, room).ok()
        }
        (Ok(ConnectionState::WriteTraffic(mut traffic)), Content::CloseNotify) => {
            traffic.queue_close_notify(room).ok()
        }
        (Ok(_) | Err(_), _) => None,
    }
}

/// Writes the alert that says why a session is over, if there is one. It is called once: only this
/// alert waits, and rustls does not support a second error in the records.
fn final_alert<C: Connection>(tls: &mut C, records: &mut [u8], out: &mut Vec<u8>) {
    if let Ok(ConnectionState::EncodeTlsData(mut message)) = tls.process(records).state {
        put(out, |room| message.encode(room));
    }
}

/// Replaces the alert certificate_required, which exists only in TLS 1.3 (where it is encrypted),
/// by that of TLS 1.2: handshake_failure (RFC 5246, 7.4.6).
fn use_tls12_alert(out: &mut [u8]) {
    if let [.., 21, 3, 3, 0, 2, 2, alert @ 116] = out {
        *alert = 40;
    }
}

/// Appends the output of `encode`, which tells how much room it needs.
fn put(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    if let Err(EncodeError::InsufficientSize(needs)) = encode(&mut []) {
        let start = out.len();
        out.resize(start + needs.required_size, 0);
        let written = encode(&mut out[start..]).unwrap_or(0);
        out.truncate(start + written);
    }
}
