//! Writes a header.

use std::io::Write;

use pen_config::proxy::ProxyOut;

use crate::relay::proxy::{FIXED, Origin, PROXY, Pair, SIGNATURE, TCP4, TCP6, UNSPECIFIED};

/// Writes the header of a relayed connection. Without an origin (a Unix socket), it says that the
/// addresses are unknown.
pub fn write(version: ProxyOut, origin: Option<&Origin>, out: &mut Vec<u8>) {
    match version {
        ProxyOut::Off => {}
        ProxyOut::V1 => line(origin, out),
        ProxyOut::V2 => binary(origin, out),
    }
}

fn line(origin: Option<&Origin>, out: &mut Vec<u8>) {
    // Writing to a Vec does not fail.
    let _ = match origin.map(|origin| (Pair::of(origin), origin.client.port(), origin.local.port()))
    {
        None => write!(out, "PROXY UNKNOWN\r\n"),
        Some((Pair::V4([client, local]), from, to)) => {
            write!(out, "PROXY TCP4 {client} {local} {from} {to}\r\n")
        }
        Some((Pair::V6([client, local]), from, to)) => {
            write!(out, "PROXY TCP6 {client} {local} {from} {to}\r\n")
        }
    };
}

fn binary(origin: Option<&Origin>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend(SIGNATURE);
    out.push(PROXY);
    // Family and length are set below.
    out.extend([UNSPECIFIED, 0, 0]);
    let Some(origin) = origin else { return };
    let family = match Pair::of(origin) {
        Pair::V4(pair) => {
            out.extend(pair.iter().flat_map(std::net::Ipv4Addr::octets));
            TCP4
        }
        Pair::V6(pair) => {
            out.extend(pair.iter().flat_map(std::net::Ipv6Addr::octets));
            TCP6
        }
    };
    out.extend(origin.client.port().to_be_bytes());
    out.extend(origin.local.port().to_be_bytes());
    let length = (out.len() - start - FIXED) as u16;
    out[start + FIXED - 3] = family;
    out[start + FIXED - 2..start + FIXED].copy_from_slice(&length.to_be_bytes());
}
