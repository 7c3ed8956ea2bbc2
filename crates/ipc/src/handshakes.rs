//! How many TLS handshakes there were: finished ones by kind, and failed ones by reason.

use serde::{Deserialize, Serialize};

/// The kind of a finished handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FinishedHandshake {
    /// TLS 1.2, a new session.
    Full12,
    /// TLS 1.2, an earlier session.
    Resumed12,
    /// TLS 1.3, a new session.
    Full13,
    /// TLS 1.3, an earlier session.
    Resumed13,
}

impl FinishedHandshake {
    /// All kinds, in the order of their numbers.
    pub const ALL: [FinishedHandshake; 4] = [
        FinishedHandshake::Full12,
        FinishedHandshake::Resumed12,
        FinishedHandshake::Full13,
        FinishedHandshake::Resumed13,
    ];

    /// The version of TLS, for programs.
    pub fn version(self) -> &'static str {
        match self {
            FinishedHandshake::Full12 | FinishedHandshake::Resumed12 => "TLSv1.2",
            FinishedHandshake::Full13 | FinishedHandshake::Resumed13 => "TLSv1.3",
        }
    }

    /// Whether it resumed an earlier session.
    pub fn is_resumed(self) -> bool {
        match self {
            FinishedHandshake::Resumed12 | FinishedHandshake::Resumed13 => true,
            FinishedHandshake::Full12 | FinishedHandshake::Full13 => false,
        }
    }

    /// The kind as one word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            FinishedHandshake::Full12 => "tls12",
            FinishedHandshake::Resumed12 => "tls12_resumed",
            FinishedHandshake::Full13 => "tls13",
            FinishedHandshake::Resumed13 => "tls13_resumed",
        }
    }
}

/// How many handshakes finished, by kind. Only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Handshakes(pub(crate) [u64; FinishedHandshake::ALL.len()]);

impl Handshakes {
    /// Counts one handshake.
    pub fn count(&mut self, kind: FinishedHandshake) {
        let count = &mut self.0[kind as usize];
        *count = count.saturating_add(1);
    }

    /// Each kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (FinishedHandshake, u64)> {
        FinishedHandshake::ALL.into_iter().zip(self.0)
    }

    /// Adds the counts of another worker. The sum saturates, because a worker may report any
    /// number.
    pub fn add(&mut self, other: &Handshakes) {
        add(&mut self.0, &other.0);
    }
}

/// Why a handshake failed, without the details that a message has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailedHandshake {
    /// The client's data is not TLS.
    NotTls,
    /// The handshake did not finish in time.
    Timeout,
    /// The client and pen have no common protocol, cipher suite or signature scheme.
    NothingInCommon,
    /// A certificate is required, and the client has none.
    NoCertificate,
    /// The client's certificate is not acceptable.
    BadCertificate,
    /// The client's certificate is not valid at this time.
    CertificateTime,
    /// The client's certificate comes from an unknown authority.
    UnknownAuthority,
    /// The client ended the handshake with an alert.
    Alert,
    /// The client broke the protocol.
    Protocol,
}

impl FailedHandshake {
    /// All kinds, in the order of their numbers.
    pub const ALL: [FailedHandshake; 9] = [
        FailedHandshake::NotTls,
        FailedHandshake::Timeout,
        FailedHandshake::NothingInCommon,
        FailedHandshake::NoCertificate,
        FailedHandshake::BadCertificate,
        FailedHandshake::CertificateTime,
        FailedHandshake::UnknownAuthority,
        FailedHandshake::Alert,
        FailedHandshake::Protocol,
    ];

    /// The reason as one word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            FailedHandshake::NotTls => "not_tls",
            FailedHandshake::Timeout => "timeout",
            FailedHandshake::NothingInCommon => "nothing_in_common",
            FailedHandshake::NoCertificate => "no_certificate",
            FailedHandshake::BadCertificate => "bad_certificate",
            FailedHandshake::CertificateTime => "certificate_time",
            FailedHandshake::UnknownAuthority => "unknown_authority",
            FailedHandshake::Alert => "alert",
            FailedHandshake::Protocol => "protocol",
        }
    }
}

/// How many handshakes failed, by reason. Only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct HandshakeFailures(pub(crate) [u64; FailedHandshake::ALL.len()]);

impl HandshakeFailures {
    /// Counts one failure.
    pub fn count(&mut self, kind: FailedHandshake) {
        let count = &mut self.0[kind as usize];
        *count = count.saturating_add(1);
    }

    /// Each reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (FailedHandshake, u64)> {
        FailedHandshake::ALL.into_iter().zip(self.0)
    }

    /// Adds the counts of another worker, as [`Handshakes::add`].
    pub fn add(&mut self, other: &HandshakeFailures) {
        add(&mut self.0, &other.0);
    }
}

fn add(ours: &mut [u64], theirs: &[u64]) {
    for (ours, theirs) in ours.iter_mut().zip(theirs) {
        *ours = ours.saturating_add(*theirs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_count() {
        let mut handshakes = Handshakes::default();
        for (index, kind) in FinishedHandshake::ALL.into_iter().enumerate() {
            (0..=index).for_each(|_| handshakes.count(kind));
        }
        handshakes.add(&handshakes.clone());
        let found: Vec<_> = handshakes
            .iter()
            .map(|(kind, count)| (kind.version(), kind.is_resumed(), kind.name(), count))
            .collect();
        let expected = [
            ("TLSv1.2", false, "tls12", 2),
            ("TLSv1.2", true, "tls12_resumed", 4),
            ("TLSv1.3", false, "tls13", 6),
            ("TLSv1.3", true, "tls13_resumed", 8),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn each_reason_has_its_own_count_and_name() {
        let mut failures = HandshakeFailures::default();
        for (index, kind) in FailedHandshake::ALL.into_iter().enumerate() {
            (0..=index).for_each(|_| failures.count(kind));
            let same = FailedHandshake::ALL.iter().filter(|other| other.name() == kind.name());
            assert_eq!(same.count(), 1);
        }
        let counts: Vec<u64> = failures.iter().map(|(_, count)| count).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let mut full = HandshakeFailures([u64::MAX; 9]);
        full.count(FailedHandshake::NotTls);
        full.add(&failures);
        assert_eq!(full.0, [u64::MAX; 9]);
    }
}
