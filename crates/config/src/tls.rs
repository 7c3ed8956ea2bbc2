//! The TLS settings.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::command::{Command, Switch};
use crate::configuration::{ConfigurationError, SourcedCommand};

/// TLS towards clients.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Tls {
    /// Certificate file (`-E`); TLS is on if it is set.
    pub certificate: Option<PathBuf>,
    /// Private key (`-K`); `None` = it is in the certificate file.
    pub key: Option<PathBuf>,
    /// Certification authorities of clients (`-G`).
    pub ca_file: Option<PathBuf>,
    /// A directory of certification authorities (`-A`).
    pub ca_directory: Option<PathBuf>,
    /// Clients must present a valid certificate (`-R`).
    pub required: bool,
    /// Directory of certificates by server name (`ssl_sni_path`).
    pub names: Option<PathBuf>,
    /// OCSP response for the certificate (`ssl_ocsp_response`).
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

/// Finds TLS settings that have no effect. Each error begins with its option or command's word. TLS
/// or the check of clients must not be off silently if the operator meant it to be on. The lines
/// that `show` prints while TLS is off are not errors.
///
/// # Errors
/// One for each setting.
pub fn check<'c>(
    tls: &Tls,
    commands: impl IntoIterator<Item = &'c SourcedCommand>,
) -> Result<(), Vec<ConfigurationError>> {
    let mut errors = Vec::new();
    let commands: Vec<&SourcedCommand> = commands.into_iter().collect();
    let given = [
        ("-K", tls.key.is_some()),
        ("-R", tls.required),
        ("-G", tls.ca_file.is_some()),
        ("-A", tls.ca_directory.is_some()),
    ];
    for (option, _) in given.iter().filter(|(_, given)| *given) {
        let said = of_command(option, &commands);
        let what = said
            .as_ref()
            .map_or((*option).to_owned(), |(source_line, word)| at(source_line) + word);
        let author = Author::of(said.map_or("-", |(source_line, _)| source_line));
        match (tls.is_on(), tls.required, *option) {
            (false, _, _) => errors.push(format!("{what}: {}", author.without_certificate())),
            (true, false, "-G" | "-A") => errors.push(match demand_ended(&commands) {
                Some(source_line) => format!("{}{DEMAND_ENDED}", at(source_line)),
                None => format!("{what}: {}", author.without_demand()),
            }),
            _ => {}
        }
    }
    if !tls.is_on() {
        let of_tls = |placed: &SourcedCommand| {
            let word = word(&placed.command)?;
            Some(format!(
                "{}{word}: {}",
                at(&placed.source_line),
                Author::of(&placed.source_line).without_certificate()
            ))
        };
        errors.extend(commands.into_iter().filter_map(of_tls));
    }
    errors.dedup();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.into_iter().map(ConfigurationError).collect())
    }
}

/// The beginning of a message about a source line.
fn at(source_line: &str) -> String {
    if source_line.is_empty() { String::new() } else { format!("{source_line}: ") }
}

/// Where a setting was given, and so where the missing one can be given.
#[derive(Clone, Copy)]
enum Author {
    Operator,
    CommandLine,
    File,
}

impl Author {
    fn of(source_line: &str) -> Author {
        match source_line.bytes().next() {
            None => Author::Operator,
            Some(b'-') => Author::CommandLine,
            Some(_) => Author::File,
        }
    }

    fn without_certificate(self) -> String {
        let add = match self {
            Author::Operator => "only the file of -F, or a start, can give one",
            Author::CommandLine => "add -E FILE",
            Author::File => "add certificate FILE",
        };
        format!("means nothing without a certificate; {add}")
    }

    fn without_demand(self) -> String {
        let (demand, add) = match self {
            Author::CommandLine => ("-R", "-R"),
            Author::Operator | Author::File => ("require_client_cert", "require_client_cert"),
        };
        format!(
            "says whose client certificates are good, and without {demand} no client is asked for \
             one; add {add}, or, if it is \
             for the issuers of pen's own certificate, put them behind it in the file of -E"
        )
    }
}

/// The source line of the last command that ends the demand for client certificates. `None` if no
/// command does, or if a command sets the authorities.
fn demand_ended<'c>(commands: &[&'c SourcedCommand]) -> Option<&'c str> {
    if of_command("-G", commands).is_some() {
        return None;
    }
    let ends = |placed: &&&SourcedCommand| {
        placed.command == Command::Switch(Switch::RequireClientCert, false)
    };
    commands.iter().rev().find(ends).map(|placed| placed.source_line.as_str())
}

const DEMAND_ENDED: &str = "require_client_cert: client_ca (-G, -A) says whose client certificates \
    are good, and that means nothing if no client \
                            is asked for one; say no client_ca too, in the file of -F";

/// The command that is equivalent to an option, and its source line, if it is given.
fn of_command<'c>(
    option: &str,
    commands: &[&'c SourcedCommand],
) -> Option<(&'c str, &'static str)> {
    let word = |command: &Command| match command {
        Command::Switch(Switch::RequireClientCert, true) => Some(("-R", "require_client_cert")),
        Command::ClientCa(paths) if !paths.is_empty() => Some(("-G", "client_ca")),
        _ => None,
    };
    let option = if option == "-A" { "-G" } else { option };
    commands.iter().rev().find_map(|placed| {
        let (_, word) = word(&placed.command).filter(|(same, _)| *same == option)?;
        Some((placed.source_line.as_str(), word))
    })
}

/// The word of a command about TLS.
fn word(command: &Command) -> Option<&'static str> {
    match command {
        Command::SslAlways | Command::SslNoTls12 => Some("ssl_option"),
        Command::SslRenegotiation(_) => Some("ssl_client_renegotiation_interval"),
        // A command that asks for nothing is allowed without a certificate.
        Command::SslCiphers(Some(_)) => Some("ssl_ciphers"),
        Command::SslOcsp(Some(_)) => Some("ssl_ocsp_response"),
        Command::SslNames(Some(_)) => Some("ssl_sni_path"),
        _ => None,
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
            "ECDHE-RSA-AES128-GCM-SHA256:HIGH::!aNULL:TLS_AES_128_GCM_SHA256:ecdhe-rsa-aes128-gcm-sha256:\
             TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        );
        assert_eq!(list.suites, [Suite::RsaAes128, Suite::EcdsaChacha]);
        assert_eq!(list.unknown, ["HIGH", "!aNULL"]);
        assert_eq!(SuiteList::read(""), SuiteList::default());
    }

    #[test]
    fn what_means_nothing_is_told_with_what_is_missing_where_it_was_said() {
        let placed = |source_line: &str, line: &str| SourcedCommand {
            source_line: source_line.into(),
            command: crate::command::parse(line).unwrap(),
        };
        let said = |tls: &Tls, source_line: &str, lines: &[&str]| {
            let commands: Vec<SourcedCommand> =
                lines.iter().map(|line| placed(source_line, line)).collect();
            let errors = check(tls, &commands).err().unwrap_or_default();
            errors.into_iter().map(|error| error.0).collect::<Vec<_>>()
        };
        let off = Tls::default();
        for (source_line, add) in [
            (
                "/f:1",
                "/f:1: ssl_ciphers: means nothing without a certificate; add certificate FILE",
            ),
            ("-O 'x'", "-O 'x': ssl_ciphers: means nothing without a certificate; add -E FILE"),
            (
                "",
                "ssl_ciphers: means nothing without a certificate; only the file of -F, or a \
                 start, can give one",
            ),
        ] {
            assert_eq!(
                said(&off, source_line, &["ssl_ciphers ECDHE-RSA-AES128-GCM-SHA256"]),
                [add]
            );
        }
        let shown = [
            "no certificate",
            "no client_ca",
            "no require_client_cert",
            "ssl_option tlsv1.2",
            "no ssl_ciphers",
        ];
        assert_eq!(said(&off, "/f:1", &shown), [""; 0]);
        assert_eq!(said(&off, "/f:1", &["no ssl_ocsp_response", "no ssl_sni_path"]), [""; 0]);
        let on = Tls { certificate: Some("c".into()), ca_file: Some("a".into()), ..Tls::default() };
        let why = said(&on, "", &["no require_client_cert"]);
        assert!(
            why.len() == 1 && why[0].starts_with("require_client_cert: client_ca (-G, -A) says"),
            "{why:?}"
        );
        assert!(why[0].ends_with("say no client_ca too, in the file of -F"), "{why:?}");
        let why = said(&on, "/f:2", &["client_ca a"]);
        assert!(
            why[0].starts_with("/f:2: client_ca: says whose")
                && why[0].contains("add require_client_cert"),
            "{why:?}"
        );
        assert!(said(&on, "-", &[])[0].contains("add -R"));
    }
}
