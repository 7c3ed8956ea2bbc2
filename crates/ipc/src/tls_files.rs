//! How the files of TLS travel to the workers: in one sealed memory that holds them all, whole or
//! not at all.
//!
//! The supervisor copies the files into that memory within the kernel and never reads them; workers
//! read them and nobody else. Behind the files comes an [`Index`], which says what is where and
//! holds no secret.

use pen_config::tls::Suite;
use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, decode_long, encode_long};

/// What is in the memory that holds the files of TLS, and how they are to be used.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Clients must present a valid certificate.
    pub required: bool,
    /// TLS 1.2 beside 1.3.
    pub tls12: bool,
    /// Cipher suites of TLS 1.2; empty = the default.
    pub suites: Vec<Suite>,
    /// The files.
    pub files: Vec<Part>,
}

/// A file in the memory.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// What it is.
    pub role: Role,
    /// Where it came from, as messages name it.
    pub path: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

/// What a file is for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Role {
    /// Certificates, and the key if there is no [`Role::Key`].
    Certificate,
    /// The private key.
    Key,
    /// Certification authorities of clients that somebody chose.
    Authorities,
    /// Those of the system.
    SystemAuthorities,
    /// An OCSP response.
    Ocsp,
    /// A file for a server name, in lower case; `*.` at its beginning stands for one label.
    Named(String, NamedRole),
}

/// What a file for a server name is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum NamedRole {
    /// `NAME.crt`.
    Certificate,
    /// `NAME.key`.
    Key,
    /// `NAME.ca`.
    Authorities,
    /// `NAME.ocsp`.
    Ocsp,
}

/// What came of an examination of the files.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Examined {
    /// What the administrator should know although they are good, a line each.
    pub notices: Vec<String>,
    /// The certificates in them, but for those of the system's authorities.
    pub certificates: Vec<Fact>,
}

/// A certificate as its administrator knows it. Its texts have a few hundred bytes and nothing that
/// does not print.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The file that it is in.
    pub file: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Whose it is.
    pub name: String,
    /// Who gave it.
    pub issuer: String,
    /// Its number among those of the issuer, in hexadecimal digits.
    pub serial: String,
    /// The first second of its validity, since 1970; none = it cannot be read.
    pub not_before: Option<i64>,
    /// The last.
    pub not_after: Option<i64>,
    /// Kind and size of its key.
    pub key: String,
}

/// What a certificate is for. Where there is a name, it is for clients that ask for that one.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Purpose {
    /// It is shown to clients.
    Server(Option<String>),
    /// It is sent along with that.
    Chain(Option<String>),
    /// Clients' certificates are verified by it.
    Authority(Option<String>),
}

/// Most certificates in an [`Examined`].
pub const MOST_CERTIFICATES: usize = 40_000;

/// Longest file of certificates or keys, in bytes.
pub const FILE_LIMIT: u64 = 1 << 20;

/// Longest file of certification authorities, in bytes.
pub const AUTHORITIES_LIMIT: u64 = 8 << 20;

/// Longest OCSP response, in bytes.
pub const OCSP_LIMIT: u64 = 64 << 10;

/// Most files in one memory.
pub const MOST_FILES: usize = 16_384;

/// Most bytes in one memory, without the index.
pub const MEMORY_LIMIT: u64 = 128 << 20;

/// Longest encoded index, in bytes.
pub const INDEX_LIMIT: usize = 8 << 20;

/// Bytes behind the index that say how long it is: a number of 64 bits, little-endian.
pub const TRAILER: u64 = 8;

/// Bytes of a ticket secret: what one generation of session tickets is protected with.
pub const TICKET_SECRET: usize = 64;

/// Seconds that one generation of tickets is given out. It is taken for as long again, and then
/// forgotten.
pub const TICKET_PERIOD: u64 = 6 * 3600;

impl Index {
    /// The index as it follows the files, its length at the end.
    ///
    /// # Errors
    /// It is not expressible.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = encode_long::<INDEX_LIMIT>(self)?;
        let length = bytes.len() as u64;
        bytes.extend_from_slice(&length.to_le_bytes());
        Ok(bytes)
    }

    /// Reads an index, without its length.
    ///
    /// # Errors
    /// The bytes are no index.
    pub fn decode(bytes: &[u8]) -> Result<Index, CodecError> {
        decode_long::<INDEX_LIMIT, Index>(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_whole_or_not_at_all() {
        let index = Index {
            required: true,
            tls12: false,
            suites: Suite::ALL.to_vec(),
            files: vec![Part {
                role: Role::Named("*.example".into(), NamedRole::Ocsp),
                path: "/etc/pen/*.example.ocsp".into(),
                offset: 5,
                length: 9,
            }],
        };
        let bytes = index.encode().unwrap();
        let (body, length) = bytes.split_at(bytes.len() - TRAILER as usize);
        assert_eq!(u64::from_le_bytes(length.try_into().unwrap()), body.len() as u64);
        assert_eq!(Index::decode(body).unwrap(), index);
        assert!(Index::decode(&bytes).is_err() && Index::decode(&body[1..]).is_err());
    }
}
