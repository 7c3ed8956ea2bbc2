//! The format in which the TLS files are passed to the workers: one sealed memory that holds all of
//! them or none.
//!
//! The supervisor copies the files into that memory within the kernel and never reads them; only
//! the workers read them. After the files comes an [`Index`], which gives the position of each file
//! and holds no secret.

use pen_config::tls::Suite;
use serde::{Deserialize, Serialize};

use crate::codec::{CodecError, decode_long, encode_long};

/// The content of the memory with the TLS files, and the TLS settings that apply to it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// Clients must present a valid certificate.
    pub required: bool,
    /// Allows TLS 1.2 besides 1.3.
    pub tls12: bool,
    /// Cipher suites of TLS 1.2; empty = the default.
    pub suites: Vec<Suite>,
    /// The files.
    pub files: Vec<Part>,
}

/// The content of the memory with the files of TLS towards servers, and the settings that apply to
/// it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ServerIndex {
    /// Whether the certificate of a server must be valid.
    pub verify: bool,
    /// The files: authorities, and the certificate and key for servers that ask for one.
    pub files: Vec<Part>,
}

/// An index at the end of a memory.
pub trait FileIndex: Serialize + for<'de> Deserialize<'de> {
    /// The files.
    fn files(&self) -> &[Part];

    /// The encoded index as it follows the files, with its length at the end.
    ///
    /// # Errors
    /// It cannot be encoded.
    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = encode_long::<INDEX_LIMIT>(self)?;
        let length = bytes.len() as u64;
        bytes.extend_from_slice(&length.to_le_bytes());
        Ok(bytes)
    }

    /// Decodes an index, without its length.
    ///
    /// # Errors
    /// The bytes are not an index.
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        decode_long::<INDEX_LIMIT, Self>(bytes)
    }
}

impl FileIndex for Index {
    fn files(&self) -> &[Part] {
        &self.files
    }
}

impl FileIndex for ServerIndex {
    fn files(&self) -> &[Part] {
        &self.files
    }
}

/// A file in the memory.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The purpose of the file.
    pub role: Role,
    /// The path that messages show.
    pub path: String,
    /// The offset of its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// The purpose of a file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Role {
    /// Certificates, and the key if there is no [`Role::Key`].
    Certificate,
    /// The private key.
    Key,
    /// Certification authorities of clients, chosen by the operator.
    Authorities,
    /// The certification authorities of the system.
    SystemAuthorities,
    /// An OCSP response.
    Ocsp,
    /// A file for a server name, in lower case; `*.` at its beginning stands for one label.
    Named(String, NamedRole),
}

/// The purpose of a file for a server name.
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

/// The result of an examination of the files.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Examined {
    /// Notices for the administrator about valid files, one line each.
    pub notices: Vec<String>,
    /// The certificates in the files, except those of the system's authorities.
    pub certificates: Vec<Fact>,
}

/// The facts about a certificate for the administrator. The texts have at most a few hundred bytes
/// and only printable characters.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// The path of its file.
    pub file: String,
    /// Its purpose.
    pub purpose: Purpose,
    /// The name of its subject.
    pub name: String,
    /// The name of its issuer.
    pub issuer: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// The first second of its validity, since 1970; `None` = it cannot be read.
    pub not_before: Option<i64>,
    /// The last second of its validity.
    pub not_after: Option<i64>,
    /// The type and size of its key.
    pub key: String,
}

/// The purpose of a certificate. The name, if there is one, is the server name that the client asks
/// for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Purpose {
    /// Pen presents it to clients.
    Server(Option<String>),
    /// Pen sends it along with the server certificate.
    Chain(Option<String>),
    /// Pen verifies client certificates with it.
    Authority(Option<String>),
    /// Pen presents it to servers.
    Client,
    /// Pen sends it to servers along with that one.
    ClientChain,
    /// Pen verifies servers' certificates with it.
    ServerAuthority,
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

/// Bytes after the index that hold its length: a number of 64 bits, little-endian.
pub const TRAILER: u64 = 8;

/// Bytes of a ticket secret, which protects one generation of session tickets.
pub const TICKET_SECRET: usize = 64;

/// Seconds for which new tickets use one secret. Workers accept its tickets for as long again, and
/// then forget it.
pub const TICKET_PERIOD: u64 = 6 * 3600;

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

    #[test]
    fn an_index_that_no_worker_would_take_is_not_made() {
        let part = Part { role: Role::Ocsp, path: "x".repeat(4096), offset: 0, length: 1 };
        let index = |files| Index {
            required: false,
            tls12: false,
            suites: Vec::new(),
            files: vec![part.clone(); files],
        };
        assert!(index(2000).encode().is_ok());
        assert!(matches!(index(2100).encode(), Err(CodecError::Encode(_))));
    }
}
