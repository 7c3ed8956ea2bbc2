//! What checks ask: for each kind a dialogue with a server, as a state machine. Runs in the
//! checker.
//!
//! Pure: no socket, no clock. Servers are not trusted: whatever they send, a machine ends within
//! [`MOST_READ`] bytes, and the same way however the bytes are cut. TLS is a layer below machines.

mod dialogue;
mod dns;
mod exchange;
mod http;
mod ldap;
mod mysql;
mod pgsql;
mod redis;
mod smtp;
mod tcp;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use pen_config::address::Address;
use pen_config::checks::{Check, CheckKind, HttpQuestion, RedisRole};
use pen_config::proxy::ProxyOut;

pub use dialogue::{Farewell, MOST_READ, Machine, Step};

/// The machine of a check. `address` is the one that is connected to.
pub fn machine(check: &Check, address: &Address) -> Machine {
    let host = check.host.as_deref();
    match &check.kind {
        CheckKind::Tcp => Machine::new(tcp::Tcp(Farewell::Reset)),
        CheckKind::Tls => Machine::new(tcp::Tcp(Farewell::Close(Vec::new()))),
        CheckKind::Http(question) => http(question, host, address, 80),
        CheckKind::Https(question) => http(question, host, address, 443),
        CheckKind::Smtp => Machine::new(smtp::Smtp::new(host.unwrap_or("localhost"))),
        CheckKind::Pgsql => Machine::new(pgsql::Pgsql),
        CheckKind::Mysql { user } => Machine::new(mysql::Mysql::new(user)),
        CheckKind::Redis(RedisRole::Any) => Machine::new(redis::Redis::new(redis::Wants::Answer)),
        CheckKind::Redis(RedisRole::Master) => {
            Machine::new(redis::Redis::new(redis::Wants::Master))
        }
        CheckKind::Ldap => Machine::new(ldap::Ldap),
        CheckKind::Dns { name } => Machine::new(dns::Dns::new(name)),
        CheckKind::Exchange { send, expect } => {
            Machine::new(exchange::Exchange::new(send.bytes(), expect.bytes()))
        }
    }
}

/// The header of the PROXY protocol that goes first, before a TLS handshake too. It names no
/// client, because there is none.
pub fn proxy_header(check: &Check) -> &'static [u8] {
    match check.proxy {
        ProxyOut::Off => b"",
        ProxyOut::V1 => b"PROXY UNKNOWN\r\n",
        // LOCAL, with no address.
        ProxyOut::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

fn http(question: &HttpQuestion, host: Option<&str>, address: &Address, usual: u16) -> Machine {
    let host = host.map_or_else(|| host_of(address, usual), str::to_owned);
    Machine::new(http::Http::new(question, &host))
}

/// The Host line for an address (RFC 9110, 7.2): with the port, unless it is the usual one.
fn host_of(address: &Address, usual: u16) -> String {
    match address {
        Address::Unix(_) => "localhost".into(),
        Address::Inet(inet) if inet.port() == usual => match inet {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        },
        Address::Inet(SocketAddr::V4(v4)) => v4.to_string(),
        // Without a zone, which means nothing to the server.
        Address::Inet(SocketAddr::V6(v6)) => format!("[{}]:{}", v6.ip(), v6.port()),
    }
}
