//! Invalid server names: serves a client that requests one, although rustls refuses it.
//!
//! rustls answers a server name that is not valid in DNS (`web01-`, `1.2.3`, `a.test:443`) with the
//! alert illegal_parameter. No setting changes that (rustls 0.23.46, src/server/hs.rs,
//! `process_client_hello`). Other servers use their default certificate then. So rustls is given a
//! hello in which that extension has another type, which it does not know. But both ends prove to
//! each other that they have seen the same messages, and the client knows what it sent. So the hash
//! of all messages is computed here over the original hello.

use std::borrow::Cow;
use std::sync::OnceLock;

use rustls::crypto::CryptoProvider;
use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::{
    CipherSuite, CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

use crate::tls::hello::{Extensions, SERVER_NAME, STAND_IN};
use crate::tls::suites;

/// Hides the name in a hello. `slots` are the offsets of the two bytes of its extension's type.
pub fn hide(records: &mut [u8], slots: [usize; 2]) {
    for (position, byte) in slots.into_iter().zip(STAND_IN.to_be_bytes()) {
        if let Some(there) = records.get_mut(position) {
            *there = byte;
        }
    }
}

/// Messages as the client sent them: if the first one is a hello with a hidden name, with the name.
/// No other hello has this extension: [`crate::tls::hello::look`] leaves such a hello
/// unchanged, and rustls refuses it for its name.
pub fn as_it_came(messages: &[u8]) -> Cow<'_, [u8]> {
    let mut extensions = Extensions::of(messages).into_iter().flatten();
    match extensions.find(|(kind, _, _)| *kind == STAND_IN) {
        Some((_, at, _)) => {
            let mut messages = messages.to_vec();
            messages[at..at + 2].copy_from_slice(&SERVER_NAME.to_be_bytes());
            Cow::Owned(messages)
        }
        None => Cow::Borrowed(messages),
    }
}

/// The same suites, which hash the original messages.
pub fn hashing_what_came(provider: &CryptoProvider) -> CryptoProvider {
    let suites = provider.cipher_suites.iter().map(|suite| known(*suite)).collect();
    CryptoProvider { cipher_suites: suites, ..provider.clone() }
}

/// Suites must live for ever. Each is created once in a process.
fn known(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    static ALL: OnceLock<Vec<(CipherSuite, SupportedCipherSuite)>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let all = suites::provider().cipher_suites;
        all.iter().map(|suite| (suite.suite(), made(*suite))).collect()
    });
    all.iter().find(|(name, _)| *name == suite.suite()).map_or(suite, |(_, made)| *made)
}

fn made(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    match suite {
        SupportedCipherSuite::Tls12(suite) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&suite.common),
                prf_provider: suite.prf_provider,
                kx: suite.kx,
                sign: suite.sign,
                aead_alg: suite.aead_alg,
            })))
        }
        SupportedCipherSuite::Tls13(suite) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&suite.common),
                hkdf_provider: suite.hkdf_provider,
                aead_alg: suite.aead_alg,
                quic: suite.quic,
            })))
        }
    }
}

fn common(common: &CipherSuiteCommon) -> CipherSuiteCommon {
    let CipherSuiteCommon { suite, hash_provider, confidentiality_limit } = *common;
    CipherSuiteCommon {
        suite,
        hash_provider: Box::leak(Box::new(WhatCame(hash_provider))),
        confidentiality_limit,
    }
}

/// A hash of messages. It gets each message whole.
struct WhatCame(&'static dyn Hash);

impl Hash for WhatCame {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Running(self.0.start()))
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(&as_it_came(data))
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct Running(Box<dyn Context>);

impl Context for Running {
    fn fork_finish(&self) -> Output {
        self.0.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Running(self.0.fork()))
    }

    fn finish(self: Box<Self>) -> Output {
        self.0.finish()
    }

    fn update(&mut self, data: &[u8]) {
        self.0.update(&as_it_came(data));
    }
}
