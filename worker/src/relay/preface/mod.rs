//! What a connection says before its server is chosen: a TLS handshake, and a header of the PROXY
//! protocol.

pub(crate) mod greeting;
pub(crate) mod handshake;
pub(crate) mod incomplete;
pub mod proxy;
pub(crate) mod proxy_header;
