//! The address of a control port, as the command line gives it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use socket2::SockAddr;

use crate::exchange::plain;
use crate::text::shown;

/// The address of pen's control port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ControlAddress {
    /// The path of a Unix socket.
    Unix(OsString),
    /// A port of a host, by name or number.
    Inet {
        /// The host, without brackets.
        host: String,
        /// The port.
        port: String,
    },
}

impl ControlAddress {
    /// Reads `/path`, `port` or `host:port`, split at the last colon. An IPv6 address may be in
    /// brackets. A port alone means 127.0.0.1, as for `-C`.
    ///
    /// # Errors
    /// The text is none of these: a line for the user.
    pub fn read(text: &OsStr) -> Result<ControlAddress, String> {
        if text.as_bytes().contains(&b'/') {
            return Ok(ControlAddress::Unix(text.to_os_string()));
        }
        let text = text.to_str().ok_or("the address is not UTF-8")?;
        let (host, port) = match text.rsplit_once(':') {
            None if is_number(text) => ("127.0.0.1", text),
            None if text.is_empty() => return Err(NO_PORT.to_owned()),
            None => return Err(format!("{NO_PORT}; a Unix socket needs a '/': ./{}", shown(text))),
            Some((_, "")) => return Err(NO_PORT.to_owned()),
            Some(both) => both,
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err("no host given".to_owned());
        }
        // getaddrinfo(3) would take such a number as another port.
        if is_number(port) && !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(format!("{port} is no port"));
        }
        Ok(ControlAddress::Inet { host: host.to_owned(), port: port.to_owned() })
    }

    /// All its socket addresses.
    ///
    /// # Errors
    /// There is none: a line for the user.
    pub fn sockets(&self) -> Result<Vec<SockAddr>, String> {
        let (host, port) = match self {
            ControlAddress::Unix(path) => {
                let address = SockAddr::unix(Path::new(path));
                return address.map(|address| vec![address]).map_err(|error| {
                    format!("{}: {}", shown(&path.to_string_lossy()), plain(&error))
                });
            }
            ControlAddress::Inet { host, port } => (host, port),
        };
        if let (Ok(ip), Ok(port)) = (host.parse::<IpAddr>(), port.parse::<u16>()) {
            return Ok(vec![SocketAddr::new(ip, port).into()]);
        }
        let hints = dns_lookup::AddrInfoHints {
            socktype: dns_lookup::SockType::Stream.into(),
            ..Default::default()
        };
        let failed = |error: io::Error| format!("getaddrinfo: {host}:{port}: {}", plain(&error));
        let found = dns_lookup::getaddrinfo(Some(host), Some(port), Some(hints))
            .map_err(|error| failed(error.into()))?;
        let found: Vec<SockAddr> =
            found.filter_map(|answer| Some(answer.ok()?.sockaddr.into())).collect();
        match found.is_empty() {
            true => Err(format!("getaddrinfo: {host}:{port}: no address")),
            false => Ok(found),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

const NO_PORT: &str = "no port given";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ControlAddress, String> {
        ControlAddress::read(OsStr::new(text))
    }

    fn inet(host: &str, port: &str) -> Result<ControlAddress, String> {
        Ok(ControlAddress::Inet { host: host.to_owned(), port: port.to_owned() })
    }

    #[test]
    fn addresses_split_at_the_last_colon() {
        assert_eq!(read("localhost:8888"), inet("localhost", "8888"));
        assert_eq!(read("::1:8888"), inet("::1", "8888"));
        assert_eq!(read("[::1]:8888"), inet("::1", "8888"));
        assert_eq!(read("8888"), inet("127.0.0.1", "8888"));
        assert_eq!(read("/run/pen.ctl"), Ok(ControlAddress::Unix("/run/pen.ctl".into())));
        assert_eq!(read("./pen:1"), Ok(ControlAddress::Unix("./pen:1".into())));
        for text in ["", "localhost:"] {
            assert_eq!(read(text), Err("no port given".to_owned()), "{text}");
        }
        for text in ["localhost", "pen.ctl"] {
            let why = format!("no port given; a Unix socket needs a '/': ./{text}");
            assert_eq!(read(text), Err(why));
        }
        assert!(read(":8888").is_err() && read("[]:8888").is_err());
        for text in ["localhost:0", "localhost:65536", "0", "65536"] {
            assert!(read(text).unwrap_err().ends_with(" is no port"), "{text}");
        }
    }
}
