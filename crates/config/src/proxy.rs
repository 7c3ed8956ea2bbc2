//! The settings of the PROXY protocol: the trusted senders, and whether servers get a header.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::acl::Net;
use crate::grammar;
use crate::grammar::{GrammarError, quoted};

/// Whether pen sends a PROXY header to servers, and in which version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum ProxyOut {
    /// No header.
    #[default]
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
}

impl ProxyOut {
    /// The word of each setting.
    pub const WORDS: [(&str, ProxyOut); 3] =
        [("off", ProxyOut::Off), ("v1", ProxyOut::V1), ("v2", ProxyOut::V2)];
}

impl fmt::Display for ProxyOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxyOut::Off => "off",
            ProxyOut::V1 => "v1",
            ProxyOut::V2 => "v2",
        })
    }
}

/// Most networks of senders.
pub const MAX_SENDERS: usize = 64;

/// The networks of trusted senders. A trusted sender begins each connection with a header that
/// gives the client's address. By default there is none.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Senders {
    nets: Vec<Net>,
}

impl Senders {
    /// Senders from these networks; networks beyond [`MAX_SENDERS`] are ignored.
    pub fn new(nets: impl IntoIterator<Item = Net>) -> Senders {
        Senders { nets: nets.into_iter().take(MAX_SENDERS).collect() }
    }

    /// Reads `NET[,NET...]`, each an address or address/length.
    ///
    /// # Errors
    /// One of them is invalid, or there are too many.
    pub fn read(text: &str) -> Result<Senders, GrammarError> {
        let nets: Vec<Net> = text.split(',').map(net).collect::<Result<_, _>>()?;
        match nets.len() {
            ..=MAX_SENDERS => Ok(Senders { nets }),
            many => Err(GrammarError(format!("{many} networks, but {MAX_SENDERS} are the most"))),
        }
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }

    /// Whether an address is listed. An IPv4-mapped address counts as IPv4.
    pub fn lists(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.nets.iter().any(|net| net.contains(ip))
    }
}

fn net(text: &str) -> Result<Net, GrammarError> {
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let ip: IpAddr = address
        .parse()
        .map_err(|_| GrammarError(format!("{} is no IP address", quoted(address))))?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Ok(longest), |length| grammar::number(length, 0..=longest))? as u8;
    let net = match ip {
        IpAddr::V4(ip) => Net::v4_prefix(ip, length),
        IpAddr::V6(ip) => Net::v6_prefix(ip, length),
    };
    net.ok_or_else(|| GrammarError(format!("{}: the prefix is too long", quoted(text))))
}

/// The form that `proxy_protocol in from` takes.
impl fmt::Display for Senders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, net) in self.nets.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            match net {
                // The mask was made from a prefix, so the number of its ones is the length.
                Net::V4 { address, mask } => {
                    write!(f, "{address}/{}", mask.to_bits().count_ones())?
                }
                Net::V6 { address, length } => write!(f, "{address}/{length}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_networks() {
        let senders = Senders::read("10.0.0.0/8,192.0.2.7,2001:db8::/32,::ffff:127.0.0.1").unwrap();
        assert_eq!(senders.to_string(), "10.0.0.0/8,192.0.2.7/32,2001:db8::/32,127.0.0.1/32");
        for (ip, listed) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:1::1", true),
            ("::1", false),
            ("127.0.0.1", true),
        ] {
            assert_eq!(senders.lists(ip.parse().unwrap()), listed, "{ip}");
        }
        assert!(!Senders::default().lists("10.0.0.1".parse().unwrap()));
        for text in [
            "",
            ",",
            "10.0.0.1,",
            "10.0.0.0/33",
            "::/129",
            "host",
            "10.0.0.1/",
            "10.0.0.0/255.0.0.0",
            "[::1]",
        ] {
            assert!(Senders::read(text).is_err(), "{text:?}");
        }
        let many = |count| vec!["10.0.0.1"; count].join(",");
        assert!(
            Senders::read(&many(MAX_SENDERS)).is_ok()
                && Senders::read(&many(MAX_SENDERS + 1)).is_err()
        );
    }
}
