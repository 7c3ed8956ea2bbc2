//! The TLS settings: towards clients here, and towards servers beside.

pub mod servers;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// TLS towards clients.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    /// Certificate file (`-E`); TLS is on if it is set.
    #[serde(with = "crate::paths", default)]
    pub certificate: Option<PathBuf>,
    /// Private key (`-K`); `None` = it is in the certificate file.
    #[serde(with = "crate::paths", default)]
    pub key: Option<PathBuf>,
    /// Certification authorities of clients (`-G`).
    #[serde(with = "crate::paths", default)]
    pub ca_file: Option<PathBuf>,
    /// A directory of certification authorities (`-A`).
    #[serde(with = "crate::paths", default)]
    pub ca_directory: Option<PathBuf>,
    /// Clients must present a valid certificate (`-R`).
    pub required: bool,
    /// Directory of certificates by server name (`ssl_sni_path`).
    #[serde(with = "crate::paths", default)]
    pub names: Option<PathBuf>,
    /// OCSP response for the certificate (`ssl_ocsp_response`).
    #[serde(with = "crate::paths", default)]
    pub ocsp: Option<PathBuf>,
    /// Allows TLS 1.2 besides 1.3.
    pub tls12: bool,
    /// Cipher suites of TLS 1.2 in order of preference (`ssl_ciphers`); empty = the default.
    pub suites: Vec<Suite>,
}

/// TLS off, both protocol versions allowed.
impl Default for Tls {
    fn default() -> Tls {
        Tls {
            certificate: None,
            key: None,
            ca_file: None,
            ca_directory: None,
            required: false,
            names: None,
            ocsp: None,
            tls12: true,
            suites: Vec::new(),
        }
    }
}

impl Tls {
    /// Whether clients speak TLS.
    pub fn is_on(&self) -> bool {
        self.certificate.is_some()
    }
}

macro_rules! suites {
    ($($variant:ident $name:literal $standard:literal,)*) => {
        /// A cipher suite of TLS 1.2 that pen supports.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
        pub enum Suite {
            $(#[doc = concat!("`", $standard, "`.")] $variant,)*
        }

        impl Suite {
            /// All of them.
            pub const ALL: &[Suite] = &[$(Suite::$variant,)*];

            /// Its name in OpenSSL.
            pub fn name(self) -> &'static str {
                match self { $(Suite::$variant => $name,)* }
            }

            /// Its name in the IANA registry of TLS.
            pub fn standard_name(self) -> &'static str {
                match self { $(Suite::$variant => $standard,)* }
            }
        }
    };
}

suites! {
    EcdsaAes256 "ECDHE-ECDSA-AES256-GCM-SHA384" "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    EcdsaAes128 "ECDHE-ECDSA-AES128-GCM-SHA256" "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    EcdsaChacha "ECDHE-ECDSA-CHACHA20-POLY1305" "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    RsaAes256 "ECDHE-RSA-AES256-GCM-SHA384" "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    RsaAes128 "ECDHE-RSA-AES128-GCM-SHA256" "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    RsaChacha "ECDHE-RSA-CHACHA20-POLY1305" "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
}

impl Suite {
    /// Whether it is for certificates with an RSA key; otherwise it is for certificates with an
    /// elliptic-curve key.
    pub fn is_rsa(self) -> bool {
        match self {
            Suite::RsaAes256 | Suite::RsaAes128 | Suite::RsaChacha => true,
            Suite::EcdsaAes256 | Suite::EcdsaAes128 | Suite::EcdsaChacha => false,
        }
    }
}

/// The content of a list of suites: the known suites, and the unknown words.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct SuiteList {
    /// The suites, in order, each once.
    pub suites: Vec<Suite>,
    /// Words that are not a suite.
    pub unknown: Vec<String>,
}

impl SuiteList {
    /// Reads names separated by colons. Names of TLS 1.3 suites are ignored, because they cannot be
    /// chosen here.
    pub fn read(text: &str) -> SuiteList {
        let mut list = SuiteList::default();
        for word in text.split(':').filter(|word| {
            !word.is_empty() && !word.starts_with("TLS_AES_") && *word != TLS13_CHACHA
        }) {
            let named = |suite: &&Suite| {
                word.eq_ignore_ascii_case(suite.name()) || word == suite.standard_name()
            };
            match Suite::ALL.iter().find(named) {
                Some(suite) if list.suites.contains(suite) => {}
                Some(suite) => list.suites.push(*suite),
                None => list.unknown.push(word.to_owned()),
            }
        }
        list
    }
}

/// The form that `read` takes.
impl fmt::Display for SuiteList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self
            .suites
            .iter()
            .map(|suite| suite.name())
            .chain(self.unknown.iter().map(String::as_str));
        f.write_str(&words.collect::<Vec<_>>().join(":"))
    }
}

const TLS13_CHACHA: &str = "TLS_CHACHA20_POLY1305_SHA256";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_known_by_both_names_and_each_counts_once() {
        let list = SuiteList::read(
            "ECDHE-RSA-AES128-GCM-SHA256:HIGH::!aNULL:TLS_AES_128_GCM_SHA256:\
             ecdhe-rsa-aes128-gcm-sha256:\
             TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        );
        assert_eq!(list.suites, [Suite::RsaAes128, Suite::EcdsaChacha]);
        assert_eq!(list.unknown, ["HIGH", "!aNULL"]);
        assert_eq!(SuiteList::read(""), SuiteList::default());
    }
}
