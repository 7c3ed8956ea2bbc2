//! The address of a control port, as the command line gives it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use socket2::SockAddr;

use crate::talk::plain;

/// The address of pen's control port.
#[derive(Debug, Eq, PartialEq)]
pub enum Place {
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

impl Place {
    /// Reads `/path`, `port` or `host:port`, split at the last colon. An IPv6 address may be in
    /// brackets. A port alone means 127.0.0.1, as for `-C`.
    ///
    /// # Errors
    /// The text is none of these: a line for the user.
    pub fn read(text: &OsStr) -> Result<Place, String> {
        if text.as_bytes().contains(&b'/') {
            return Ok(Place::Unix(text.to_os_string()));
        }
        let text = text.to_str().ok_or("the address is not UTF-8")?;
        let (host, port) = match text.rsplit_once(':') {
            None if is_number(text) => ("127.0.0.1", text),
            None => return Err(NO_PORT.to_owned()),
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
        Ok(Place::Inet { host: host.to_owned(), port: port.to_owned() })
    }

    /// All socket addresses of the place.
    ///
    /// # Errors
    /// There is none: a line for the user.
    pub fn sockets(&self) -> Result<Vec<SockAddr>, String> {
        let (host, port) = match self {
            Place::Unix(path) => {
                let address = SockAddr::unix(Path::new(path));
                return address
                    .map(|address| vec![address])
                    .map_err(|why| format!("{}: {}", Path::new(path).display(), plain(&why)));
            }
            Place::Inet { host, port } => (host, port),
        };
        if let (Ok(ip), Ok(port)) = (host.parse::<IpAddr>(), port.parse::<u16>()) {
            return Ok(vec![SocketAddr::new(ip, port).into()]);
        }
        let hints = dns_lookup::AddrInfoHints {
            socktype: dns_lookup::SockType::Stream.into(),
            ..Default::default()
        };
        let failed = |why: io::Error| format!("getaddrinfo: {host}:{port}: {}", plain(&why));
        let found = dns_lookup::getaddrinfo(Some(host), Some(port), Some(hints))
            .map_err(|why| failed(why.into()))?;
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

    fn place(text: &str) -> Result<Place, String> {
        Place::read(OsStr::new(text))
    }

    fn inet(host: &str, port: &str) -> Result<Place, String> {
        Ok(Place::Inet { host: host.to_owned(), port: port.to_owned() })
    }

    #[test]
    fn addresses_split_at_the_last_colon() {
        assert_eq!(place("localhost:8888"), inet("localhost", "8888"));
        assert_eq!(place("::1:8888"), inet("::1", "8888"));
        assert_eq!(place("[::1]:8888"), inet("::1", "8888"));
        assert_eq!(place("8888"), inet("127.0.0.1", "8888"));
        assert_eq!(place("/run/pen.ctl"), Ok(Place::Unix("/run/pen.ctl".into())));
        assert_eq!(place("./pen:1"), Ok(Place::Unix("./pen:1".into())));
        for text in ["", "localhost", "localhost:", "servers"] {
            assert_eq!(place(text), Err("no port given".to_owned()), "{text}");
        }
        assert!(place(":8888").is_err() && place("[]:8888").is_err());
        for text in ["localhost:0", "localhost:65536", "0", "65536"] {
            assert!(place(text).unwrap_err().ends_with(" is no port"), "{text}");
        }
    }
}
