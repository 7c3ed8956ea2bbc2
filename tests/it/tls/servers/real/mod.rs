//! Real servers of Debian behind pen: nginx, haproxy and openssl(1). nginx and haproxy say in their
//! answers what they have seen of the connection.

mod haproxy;
mod nginx;
mod openssl;
mod refused;
mod served;

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::{failures, is_explained, pen};
use crate::harness::program::installed;
use crate::harness::tls::{Authority, Identity, write};
use crate::harness::{Pen, Program};

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// The name in the certificates of servers.
const NAME: &str = "www.example";

/// The command that gives every server this name.
const NAMED: &str = "server_tls_name www.example";

/// A request whose answer ends with the connection.
const REQUEST: &str = "GET /seen HTTP/1.0\r\nHost: www.example\r\n\r\n";

/// A program that speaks HTTP over TLS.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Nginx,
    Haproxy,
}

/// The versions of TLS that a server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Versions {
    All,
    Only12,
    Only13,
}

/// What a server is to be.
struct Wanted<'w> {
    identity: &'w Identity,
    versions: Versions,
    /// The authority of the certificates that it demands.
    demands: Option<&'w Authority>,
}

/// What a server has seen.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Seen {
    version: String,
    name: String,
    resumed: bool,
    /// The common name in the client's certificate.
    subject: String,
    forwarded_for: String,
    forwarded_proto: String,
}

impl Kind {
    /// Those that are installed; the test says which are not.
    fn all() -> Vec<Kind> {
        [Kind::Nginx, Kind::Haproxy]
            .into_iter()
            .filter(|kind| match kind {
                Kind::Nginx => installed(&[nginx::PROGRAM]),
                Kind::Haproxy => installed(&[haproxy::PROGRAM]),
            })
            .collect()
    }

    /// A server of this kind, whose files are in this directory.
    fn start(self, directory: &Path, wanted: &Wanted<'_>) -> Program {
        match self {
            Kind::Nginx => nginx::start(directory, wanted),
            Kind::Haproxy => haproxy::start(directory, wanted),
        }
    }
}

impl<'w> Wanted<'w> {
    fn new(identity: &'w Identity) -> Wanted<'w> {
        Wanted { identity, versions: Versions::All, demands: None }
    }

    fn speaks(self, versions: Versions) -> Wanted<'w> {
        Wanted { versions, ..self }
    }

    fn demands(self, authority: &'w Authority) -> Wanted<'w> {
        Wanted { demands: Some(authority), ..self }
    }
}

/// Writes a file of a server, of this kind of file and for this certificate, and returns its path.
fn file(directory: &Path, identity: &Identity, what: &str, text: impl AsRef<[u8]>) -> String {
    // The servers of one pen have their files in one directory.
    let number: String =
        identity.certificate.iter().rev().take(8).map(|byte| format!("{byte:02x}")).collect();
    write(directory, &format!("{number}.{what}"), text).display().to_string()
}

/// What the server has seen of a request, by its answer.
#[track_caller]
fn seen(answer: impl AsRef<[u8]>) -> Seen {
    let answer = String::from_utf8_lossy(answer.as_ref()).into_owned();
    assert!(answer.starts_with("HTTP/1.") && answer.contains(" 200 "), "{answer:?}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let words: Vec<&str> = body.trim_end().split('|').collect();
    let [version, name, resumed, subject, forwarded_for, forwarded_proto] = words[..] else {
        panic!("{answer:?}")
    };
    let text = |word: &str| word.trim_start_matches("CN=").to_owned();
    Seen {
        version: text(version),
        name: text(name),
        resumed: match resumed {
            "r" | "1" => true,
            "." | "0" => false,
            _ => panic!("{answer:?}"),
        },
        subject: text(subject),
        forwarded_for: text(forwarded_for),
        forwarded_proto: text(forwarded_proto),
    }
}

/// What a client of pen gets for its request.
fn asks(pen: &Pen) -> io::Result<Vec<u8>> {
    let client = pen.connect(LOCALHOST);
    client.send(REQUEST);
    client.read_to_end()
}

/// The answer to a client of pen.
#[track_caller]
fn answer(pen: &Pen) -> Vec<u8> {
    asks(pen).expect("an orderly end")
}

/// A client of pen is closed without an answer.
#[track_caller]
fn is_unserved(pen: &Pen) {
    // Mostly by a reset, because pen has not read the request.
    assert!(asks(pen).unwrap_or_default().is_empty());
}
