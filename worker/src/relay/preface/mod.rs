//! What a client sends before its server is chosen: a PROXY protocol header and a TLS handshake.

pub(crate) mod greeting;
pub(crate) mod handshake;
pub(crate) mod incomplete;
pub mod proxy;
pub(crate) mod proxy_header;
