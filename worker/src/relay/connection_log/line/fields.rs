//! What the forms of a line have in common: numbers, names, servers' codes, addresses of clients.
//!
//! A line is made for every connection, so these are faster than the standard library's formatter.

use std::io::Write;
use std::net::IpAddr;

use pen_config::ids::{ClientKey, Target};

/// Appends the code of a server ([`Target::code`]).
pub fn code(target: Target, to: &mut Vec<u8>) {
    match target {
        Target::Server(id) => decimal(id.0.into(), to),
        Target::Emergency => to.extend(b"-1"),
        Target::Abuse => to.extend(b"-2"),
    }
}

/// Appends a number. The formatter of the standard library takes several times as long.
pub fn decimal(mut number: u64, to: &mut Vec<u8>) {
    let (mut digits, mut start) = ([0; 20], 20);
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return to.extend(&digits[start..]);
        }
    }
}

/// Appends a name as one word: `?` stands for what is not printable ASCII.
pub fn word(name: &str, to: &mut Vec<u8>) {
    to.extend(name.bytes().map(|byte| if byte.is_ascii_graphic() { byte } else { b'?' }));
}

/// The text of a client's address.
pub struct ClientAddress {
    bytes: [u8; ClientAddress::LONGEST],
    length: usize,
}

impl ClientAddress {
    /// An IPv6 address with eight groups.
    const LONGEST: usize = 39;

    /// The text of the address of this client.
    pub fn of(client: ClientKey) -> ClientAddress {
        let mut address = ClientAddress { bytes: [0; ClientAddress::LONGEST], length: 0 };
        match client.ip() {
            Some(IpAddr::V4(ip)) => {
                for (index, octet) in ip.octets().into_iter().enumerate() {
                    if index > 0 {
                        address.push(b'.');
                    }
                    if octet >= 100 {
                        address.push(b'0' + octet / 100);
                    }
                    if octet >= 10 {
                        address.push(b'0' + octet / 10 % 10);
                    }
                    address.push(b'0' + octet % 10);
                }
            }
            Some(IpAddr::V6(_)) | None => {
                let mut room = &mut address.bytes[..];
                // There is room for the longest.
                let _ = write!(room, "{client}");
                address.length = ClientAddress::LONGEST - room.len();
            }
        }
        address
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// The text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}
