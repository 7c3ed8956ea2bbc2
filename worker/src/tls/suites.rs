//! The library and its cipher suites, with pen's limit of records under one key of TLS 1.2.
//!
//! The library ends a session of TLS 1.2 with AES-GCM after 2^24 records, because it cannot change
//! the keys (of TLS 1.3, it does). With small records, that is some hours of a busy connection.
//! The limit keeps what an attacker gains by counting blocks below 2^-60 (RFC 8446, 5.5; RFC 9325,
//! 4.4, recommends 2^24.5 and a new handshake, which pen does not have in TLS 1.2). TLS 1.2 itself
//! has no limit but that of its sequence numbers, 2^64 (RFC 5246, 6.1; RFC 5288, 3), and OpenSSL
//! has no other. Beyond 2^24 records, each doubling costs two bits. With pen's limit, an attacker
//! gains at most 2^-36, after a pebibyte in records of full size; records of 256 bytes have 64
//! times fewer blocks, and so 2^-48. A connection that reaches it ends as a session that broke.

use std::sync::OnceLock;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite};

/// Most records under one key of TLS 1.2 with AES-GCM.
const MOST_RECORDS: u64 = 1 << 36;

/// The library's provider with these suites.
pub fn provider() -> CryptoProvider {
    static SUITES: OnceLock<Vec<SupportedCipherSuite>> = OnceLock::new();
    let limited = || limited(&aws_lc_rs::default_provider().cipher_suites, MOST_RECORDS);
    let cipher_suites = SUITES.get_or_init(limited).clone();
    CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() }
}

/// The same suites, where those of TLS 1.2 that have a limit have this one. They live for ever: the
/// library takes no others.
pub fn limited(suites: &[SupportedCipherSuite], most: u64) -> Vec<SupportedCipherSuite> {
    let limited = |suite: &SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls12(known) if known.common.confidentiality_limit < u64::MAX => {
            let common = CipherSuiteCommon { confidentiality_limit: most, ..known.common };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite { common, ..**known })))
        }
        SupportedCipherSuite::Tls12(_) | SupportedCipherSuite::Tls13(_) => *suite,
    };
    suites.iter().map(limited).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::transcript::hashing_what_came;

    #[test]
    fn every_suite_is_there_and_no_session_of_tls_1_2_ends_after_hours() {
        let ours = provider();
        let names = |suites: &[SupportedCipherSuite]| -> Vec<_> {
            suites.iter().map(SupportedCipherSuite::suite).collect()
        };
        assert_eq!(names(&ours.cipher_suites), names(&aws_lc_rs::default_provider().cipher_suites));
        // Also for clients whose name is not valid.
        for provider in [hashing_what_came(&ours), ours] {
            let tls12 = provider.cipher_suites.iter().filter_map(|suite| match suite {
                SupportedCipherSuite::Tls12(suite) => Some(suite.common.confidentiality_limit),
                SupportedCipherSuite::Tls13(_) => None,
            });
            let limits: Vec<u64> = tls12.collect();
            assert!(limits.len() > 3 && limits.iter().all(|limit| *limit >= MOST_RECORDS));
        }
    }
}
