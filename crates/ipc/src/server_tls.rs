//! Why TLS handshakes with servers fail, and how many did.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a TLS handshake with a server failed. Append only, as all that is in an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum TlsFault {
    /// It did not finish within the connect timeout, or before unfinished ones took too much
    /// memory.
    Timeout,
    /// The server answers with something else than TLS.
    NotTls,
    /// The server closed or reset the connection.
    Closed,
    /// The server and pen have no version, cipher suite or signature scheme in common.
    NothingInCommon,
    /// Its certificate has expired, or one in its chain is not valid now.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate comes from an unknown authority.
    UnknownAuthority,
    /// Its certificate is self-signed, and no authority of pen's.
    SelfSigned,
    /// Its certificate is not for its name.
    WrongName,
    /// Its certificate is not for a server.
    WrongPurpose,
    /// Its certificate is not in order for another reason.
    BadCertificate,
    /// The server ended the handshake with this alert (RFC 8446, 6).
    Alert(u8),
    /// The server broke the protocol.
    Protocol,
    /// Its certificate is to be verified, and it has no name.
    NoName,
    /// The files of TLS towards servers did not arrive: nothing is sent without them.
    NoFiles,
}

/// A reason without its details, for counters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TlsFaultKind(u8);

/// How many reasons there are.
const KINDS: usize = 15;

/// The alerts are numbers behind all other reasons.
const ALERTS: u16 = 64;

impl TlsFault {
    /// One of each reason, in the order of their counters. Append only.
    pub const ALL: [TlsFault; KINDS] = [
        TlsFault::Timeout,
        TlsFault::NotTls,
        TlsFault::Closed,
        TlsFault::NothingInCommon,
        TlsFault::Expired,
        TlsFault::NotYetValid,
        TlsFault::UnknownAuthority,
        TlsFault::SelfSigned,
        TlsFault::WrongName,
        TlsFault::WrongPurpose,
        TlsFault::BadCertificate,
        TlsFault::Alert(0),
        TlsFault::Protocol,
        TlsFault::NoName,
        TlsFault::NoFiles,
    ];

    /// The reason without its details.
    pub fn kind(self) -> TlsFaultKind {
        TlsFaultKind(match self {
            TlsFault::Timeout => 0,
            TlsFault::NotTls => 1,
            TlsFault::Closed => 2,
            TlsFault::NothingInCommon => 3,
            TlsFault::Expired => 4,
            TlsFault::NotYetValid => 5,
            TlsFault::UnknownAuthority => 6,
            TlsFault::SelfSigned => 7,
            TlsFault::WrongName => 8,
            TlsFault::WrongPurpose => 9,
            TlsFault::BadCertificate => 10,
            TlsFault::Alert(_) => 11,
            TlsFault::Protocol => 12,
            TlsFault::NoName => 13,
            TlsFault::NoFiles => 14,
        })
    }

    /// The reason as one word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            TlsFault::Timeout => "timeout",
            TlsFault::NotTls => "not_tls",
            TlsFault::Closed => "closed",
            TlsFault::NothingInCommon => "nothing_in_common",
            TlsFault::Expired => "expired",
            TlsFault::NotYetValid => "not_yet_valid",
            TlsFault::UnknownAuthority => "unknown_authority",
            TlsFault::SelfSigned => "self_signed",
            TlsFault::WrongName => "wrong_name",
            TlsFault::WrongPurpose => "wrong_purpose",
            TlsFault::BadCertificate => "bad_certificate",
            TlsFault::Alert(_) => "alert",
            TlsFault::Protocol => "protocol",
            TlsFault::NoName => "no_name",
            TlsFault::NoFiles => "no_files",
        }
    }

    /// The fault as a number below 320, for the shared table.
    pub(crate) fn code(self) -> u16 {
        match self {
            TlsFault::Alert(alert) => ALERTS + u16::from(alert),
            other => other.kind().0.into(),
        }
    }

    /// The fault of a number; every number gives a valid result.
    pub(crate) fn from_code(code: u16) -> TlsFault {
        match code.checked_sub(ALERTS) {
            Some(alert) => TlsFault::Alert(u8::try_from(alert).unwrap_or(u8::MAX)),
            None => TlsFault::ALL.get(usize::from(code)).copied().unwrap_or(TlsFault::Protocol),
        }
    }
}

/// The fault as the end of a sentence about the server.
impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsFault::Timeout => "timeout in the TLS handshake",
            TlsFault::NotTls => "its answer is not TLS",
            TlsFault::Closed => "closed in the TLS handshake",
            TlsFault::NothingInCommon => "no version or cipher suite of TLS in common",
            TlsFault::Expired => "its certificate has expired",
            TlsFault::NotYetValid => "its certificate is not valid yet",
            TlsFault::UnknownAuthority => {
                "its certificate is of an unknown authority; see server_tls_ca"
            }
            TlsFault::SelfSigned => {
                "its certificate is self-signed, and not in the file of server_tls_ca"
            }
            TlsFault::WrongName => "its certificate is not for its name; see server_tls_name",
            TlsFault::WrongPurpose => "its certificate is not for a server (extKeyUsage)",
            TlsFault::BadCertificate => "its certificate is not in order",
            TlsFault::Alert(alert) => {
                return write!(f, "it ended the TLS handshake: {}", alert_text(*alert));
            }
            TlsFault::Protocol => "it broke the TLS protocol",
            TlsFault::NoName => "no name that its certificate must have; see server_tls_name",
            TlsFault::NoFiles => "the files of TLS towards servers are missing",
        })
    }
}

/// An alert by name and number (RFC 8446, 6; RFC 5246, 7.2).
pub fn alert_text(alert: u8) -> String {
    let name = match alert {
        40 => "handshake_failure",
        41 => "no_certificate",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => return format!("alert {alert}"),
    };
    format!("{name} (alert {alert})")
}

/// How many handshakes with servers failed, by reason. Only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct TlsFaults(pub(crate) [u64; KINDS]);

impl TlsFaults {
    /// Counts one failure.
    pub fn count(&mut self, kind: TlsFaultKind) {
        let count = &mut self.0[usize::from(kind.0)];
        *count = count.saturating_add(1);
    }

    /// Each reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        TlsFault::ALL.into_iter().map(TlsFault::name).zip(self.0)
    }

    /// Adds the counts of another worker. The sum saturates, because a worker may report any
    /// number.
    pub fn add(&mut self, other: &TlsFaults) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours = ours.saturating_add(theirs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_number_name_and_text() {
        let mut counts = TlsFaults::default();
        let mut seen = std::collections::BTreeSet::new();
        for (place, fault) in (0..).zip(TlsFault::ALL) {
            assert_eq!(fault.kind(), TlsFaultKind(place), "{fault:?}");
            assert_eq!(TlsFault::from_code(fault.code()), fault);
            assert!(seen.insert(fault.name()) && seen.insert(fault.to_string().leak()));
            (0..=place).for_each(|_| counts.count(fault.kind()));
        }
        counts.add(&counts.clone());
        assert_eq!(counts.iter().next(), Some(("timeout", 2)));
        assert_eq!(counts.iter().last(), Some(("no_files", 30)));
    }

    #[test]
    fn each_alert_comes_back_and_no_number_is_wrong() {
        for alert in 0..=u8::MAX {
            assert_eq!(TlsFault::from_code(TlsFault::Alert(alert).code()), TlsFault::Alert(alert));
        }
        (0..=u16::MAX).for_each(|code| assert!(!TlsFault::from_code(code).name().is_empty()));
        let text = TlsFault::Alert(116).to_string();
        assert_eq!(text, "it ended the TLS handshake: certificate_required (alert 116)");
    }
}
