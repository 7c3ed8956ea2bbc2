//! Sessions with one server that later connections resume: how many are kept, and for how long.
//!
//! A certificate is verified in a full handshake only, and a resumed connection brings new tickets.
//! Without an end, a server could be resumed for ever after one handshake. So a store is good until
//! a certificate that was verified for it ends, and at most for [`LONGEST`]. Then the next
//! connection gets another store, and its handshake is a full one.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use crate::tls::x509::certificate::Certificate;

/// Most tickets of TLS 1.3. Each is good for one connection, and each connection gets one or two
/// new ones. So this many connections may begin at once.
const MOST: usize = 32;

/// Most bytes of them: so many tickets with a usual chain of certificates. The library keeps the
/// server's chain with each ticket.
const MOST_BYTES: usize = 128 * 1024;

/// The most bytes of records that tickets may come in: two tickets of 4 KiB, which some servers put
/// into one record. Usual tickets have some hundred bytes; those of a server that puts pen's
/// certificate into them have more.
const LARGEST: usize = 8 * 1024;

/// What the library keeps with a ticket, besides the ticket and the chain.
const BESIDES: usize = 256;

/// Seconds from the first full handshake to the last connection that resumes what came of it.
const LONGEST: u64 = 12 * 3600;

/// The sessions with a server, under one name. Only one thread uses them.
#[derive(Debug, Default)]
pub struct Sessions {
    kept: Mutex<Kept>,
    /// How many bytes the library reads now. A ticket in them is not larger.
    reads: AtomicUsize,
}

#[derive(Default)]
struct Kept {
    /// Unix seconds from the first full handshake to the end of what was verified. None: there was
    /// no full handshake.
    good: Option<Range<u64>>,
    /// Bytes of the longest chain that was verified.
    chain: usize,
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// The newest at the end, each with the bytes that it counts.
    tls13: VecDeque<(usize, Tls13ClientSessionValue)>,
    bytes: usize,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("tickets", &self.tls13.len()).finish_non_exhaustive()
    }
}

impl Sessions {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the certificates of a full handshake.
    pub fn note_verified<'c>(
        &self,
        chain: impl Iterator<Item = &'c CertificateDer<'c>>,
        now: UnixTime,
    ) {
        let now = now.as_secs();
        let (mut end, mut bytes) = (now.saturating_add(LONGEST), 0);
        for certificate in chain {
            bytes += certificate.len();
            let validity = Certificate::read(certificate).and_then(|read| read.validity());
            let last = validity.and_then(|(_, last)| u64::try_from(last).ok());
            // One that is over did not count for the verification.
            if let Some(last) = last.filter(|last| *last >= now) {
                end = end.min(last.saturating_add(1));
            }
        }
        let mut kept = self.kept();
        kept.good = Some(match &kept.good {
            Some(good) => good.start..good.end.min(end),
            None => now..end,
        });
        kept.chain = kept.chain.max(bytes);
    }

    /// Whether these sessions must not be resumed any more. Also if the clock was set back to
    /// before the first handshake: then nobody knows how old they are.
    pub fn are_over(&self, now: UnixTime) -> bool {
        self.kept().good.as_ref().is_some_and(|good| !good.contains(&now.as_secs()))
    }

    /// How many tickets are kept, and the bytes that they count.
    #[cfg(test)]
    pub fn measure(&self) -> (usize, usize) {
        let kept = self.kept();
        (kept.tls13.len(), kept.bytes)
    }

    /// Notes how many bytes the library is given to read.
    pub fn will_read(&self, bytes: usize) {
        self.reads.store(bytes, Ordering::Relaxed);
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.kept().tls12 = Some(session);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let most = self.reads.load(Ordering::Relaxed);
        let mut kept = self.kept();
        let bytes = most + kept.chain + BESIDES;
        if most > LARGEST || bytes > MOST_BYTES {
            return;
        }
        kept.bytes += bytes;
        kept.tls13.push_back((bytes, ticket));
        while kept.tls13.len() > MOST || kept.bytes > MOST_BYTES {
            let Some((oldest, _)) = kept.tls13.pop_front() else { break };
            kept.bytes -= oldest;
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut kept = self.kept();
        let (bytes, ticket) = kept.tls13.pop_back()?;
        kept.bytes -= bytes;
        Some(ticket)
    }
}
