//! The settings of TLS towards servers: which servers speak it, and how they are verified.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// TLS towards servers. The names of the fields stand in the state of an upgrade.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ServerTls {
    /// Whether servers without a word of their own speak TLS (`server_tls`). The emergency and the
    /// abuse server have none.
    pub on: bool,
    /// Whether the certificate of a server must be valid (`server_tls_verify`).
    pub verify: bool,
    /// Certification authorities of servers: a file or a directory (`server_tls_ca`); `None` = the
    /// system's.
    #[serde(with = "crate::paths", default)]
    pub ca: Option<PathBuf>,
    /// The name of all servers (`server_tls_name`); `None` = each has the name in its address.
    pub name: Option<TlsName>,
    /// The certificate that servers may ask for (`server_tls_cert`).
    #[serde(with = "crate::paths", default)]
    pub certificate: Option<PathBuf>,
    /// Its key; `None` = it is in the certificate file.
    #[serde(with = "crate::paths", default)]
    pub key: Option<PathBuf>,
}

/// No server speaks TLS. One that does is verified.
impl Default for ServerTls {
    fn default() -> ServerTls {
        ServerTls { on: false, verify: true, ca: None, name: None, certificate: None, key: None }
    }
}

/// Whether a server speaks TLS (`server N tls`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum ServerTransport {
    /// As `server_tls` says.
    #[default]
    Default,
    /// It speaks TLS.
    Tls,
    /// It does not.
    Plain,
}

impl ServerTransport {
    /// The word of each.
    pub const WORDS: [(&str, ServerTransport); 3] = [
        ("on", ServerTransport::Tls),
        ("off", ServerTransport::Plain),
        ("default", ServerTransport::Default),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            ServerTransport::Tls => "on",
            ServerTransport::Plain => "off",
            ServerTransport::Default => "default",
        }
    }
}

/// The name that the certificate of a server must have: a name of the domain name system, or an IP
/// address. Only the former is sent in a handshake (RFC 6066, 3).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TlsName {
    /// A name, without a dot at its end.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

/// The longest name of the domain name system, and its longest label, in bytes.
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

impl FromStr for TlsName {
    type Err = String;

    fn from_str(text: &str) -> Result<TlsName, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(TlsName::Ip(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=LONGEST_LABEL).contains(&label.len())
                && label.bytes().all(allowed)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let last = name.rsplit('.').next().unwrap_or_default();
        if name.len() > LONGEST || !name.split('.').all(is_label) || is_number(last) {
            return Err(format!(
                "{} is no name of a server: letters, digits, '-', '_' and dots, or an IP address",
                crate::grammar::quoted(text)
            ));
        }
        Ok(TlsName::Dns(name.to_owned()))
    }
}

impl TryFrom<String> for TlsName {
    type Error = String;

    fn try_from(text: String) -> Result<TlsName, String> {
        text.parse()
    }
}

impl From<TlsName> for String {
    fn from(name: TlsName) -> String {
        name.to_string()
    }
}

impl fmt::Display for TlsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsName::Dns(name) => f.write_str(name),
            TlsName::Ip(ip) => ip.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_names_and_nothing_else() {
        for (text, expected) in [
            ("a.example", "a.example"),
            ("A_b.example.", "A_b.example"),
            ("localhost", "localhost"),
            ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
            ("10.0.0.1", "10.0.0.1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(text.parse::<TlsName>().unwrap().to_string(), expected);
        }
        let long = format!("{}.example", "a".repeat(64));
        for text in
            ["", ".", "a..b", "-a", "a-", "*.example", "a b", "a:443", "1.2.3", "münchen", &long]
        {
            assert!(text.parse::<TlsName>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_words_of_the_state_never_change() {
        let all = ServerTls {
            on: true,
            verify: false,
            ca: Some("/ca".into()),
            name: Some(TlsName::Dns("a".into())),
            certificate: Some("/c".into()),
            key: None,
        };
        let json =
            r#"{"on":true,"verify":false,"ca":"/ca","name":"a","certificate":"/c","key":null}"#;
        assert_eq!(serde_json::to_string(&all).unwrap(), json);
        assert_eq!(serde_json::from_str::<ServerTls>(json).unwrap(), all);
        let words = ServerTransport::WORDS.map(|(_, transport)| transport);
        assert_eq!(serde_json::to_string(&words).unwrap(), r#"["Tls","Plain","Default"]"#);
    }
}
