//! `mysql USER`: the greeting, the login of a user without a password, COM_QUIT.
//!
//! A server counts each handshake that is not finished against the host, and refuses a host of too
//! many (max_connect_errors). So ours is always finished, by the server's OK or its error.

use pen_ipc::checks::{CheckFault, FaultClass};

use super::dialogue::{Dialogue, Farewell, Reading, Step, unexpected};

/// Capabilities: CLIENT_LONG_PASSWORD, CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION.
const CAPABILITIES: u32 = 0x1 | PROTOCOL_41 | 0x8000;
const PROTOCOL_41: u32 = 0x200;
const PLUGIN_AUTH: u32 = 0x8_0000;
/// The largest packet that we would take, and the character set utf8mb3_general_ci.
const LARGEST: u32 = 1 << 16;
const UTF8: u8 = 33;

/// Most bytes of a packet that we await.
const LONGEST: usize = 16 << 10;

/// The first byte of a greeting, and those of the answers to a login.
const GREETING: u8 = 10;
const OK: u8 = 0;
const MORE_DATA: u8 = 1;
const SWITCH: u8 = 0xfe;
const ERROR: u8 = 0xff;

/// The method of MySQL since 8.0. It has its own form of an empty password, and what it says when a
/// cache has the answer.
const SHA2: &[u8] = b"caching_sha2_password";
const SHA2_IS_CACHED: u8 = 3;

const COM_QUIT: u8 = 1;

/// The dialogue.
pub(super) struct Mysql {
    user: String,
    awaits: Awaits,
}

#[derive(Clone, Copy)]
enum Awaits {
    Greeting,
    Verdict,
}

impl Mysql {
    pub(super) fn new(user: &str) -> Mysql {
        Mysql { user: user.into(), awaits: Awaits::Greeting }
    }

    /// The response to a greeting; `None`: it is none.
    fn response(&mut self, greeting: &[u8]) -> Option<Vec<u8>> {
        let Greeting { capabilities, plugin } = Greeting::read(greeting)?;
        if capabilities & PROTOCOL_41 == 0 {
            return None;
        }
        let with_plugin = capabilities & PLUGIN_AUTH;
        let mut payload = (CAPABILITIES | with_plugin).to_le_bytes().to_vec();
        payload.extend(LARGEST.to_le_bytes());
        payload.push(UTF8);
        payload.extend([0; 23]);
        payload.extend(self.user.bytes().filter(|byte| *byte != 0));
        // The end of the name, and a password of 0 bytes.
        payload.extend([0, 0]);
        if with_plugin != 0 {
            payload.extend(plugin);
            payload.push(0);
        }
        self.awaits = Awaits::Verdict;
        Some(payload)
    }

    /// What follows from an answer to the login.
    fn verdict(packet: &Packet) -> Reading {
        let Packet { sequence, payload, length } = *packet;
        let answer = |payload: &[u8]| Reading::Send(length, framed(sequence + 1, payload));
        match payload {
            [OK, ..] => Reading::Done(Farewell::Close(framed(0, &[COM_QUIT]))),
            [ERROR, ..] => Reading::Fail(error(payload)),
            [MORE_DATA, SHA2_IS_CACHED, ..] => Reading::Take(length),
            // Another method. Whatever it is, an empty password is our answer.
            [SWITCH, method @ ..] if method.starts_with(SHA2) => answer(&[0]),
            [SWITCH, ..] => answer(&[]),
            [MORE_DATA, ..] => answer(&[0]),
            _ => Reading::Fail(unexpected("an answer to the login", payload)),
        }
    }
}

impl Dialogue for Mysql {
    fn begin(&mut self) -> Step {
        Step::Await
    }

    fn read(&mut self, input: &[u8]) -> Reading {
        let expected = match self.awaits {
            Awaits::Greeting => "a MySQL greeting",
            Awaits::Verdict => "an answer to the login",
        };
        let packet = match Packet::read(input) {
            Ok(Some(packet)) => packet,
            Ok(None) => return Reading::More,
            Err(()) => return Reading::Fail(unexpected(expected, input)),
        };
        match self.awaits {
            Awaits::Greeting if packet.sequence != 0 => Reading::Fail(unexpected(expected, input)),
            Awaits::Greeting if packet.payload.first() == Some(&ERROR) => {
                Reading::Fail(error(packet.payload))
            }
            Awaits::Greeting => match self.response(packet.payload) {
                Some(payload) => Reading::Send(packet.length, framed(1, &payload)),
                None => Reading::Fail(unexpected(expected, packet.payload)),
            },
            Awaits::Verdict => Mysql::verdict(&packet),
        }
    }
}

/// A packet: three bytes of length, a sequence number, the payload.
struct Packet<'i> {
    sequence: u8,
    payload: &'i [u8],
    /// With its header.
    length: usize,
}

impl Packet<'_> {
    /// The first packet; `None`: it is not whole. No server sends one without a payload, or a long
    /// one, before a query.
    fn read(input: &[u8]) -> Result<Option<Packet<'_>>, ()> {
        let &[low, middle, high, ref rest @ ..] = input else { return Ok(None) };
        let size = u32::from_le_bytes([low, middle, high, 0]) as usize;
        if size == 0 || size > LONGEST {
            return Err(());
        }
        let Some((&sequence, rest)) = rest.split_first() else { return Ok(None) };
        let packet = |payload| Packet { sequence, payload, length: size + 4 };
        match sequence {
            ..0x80 => Ok(rest.get(..size).map(packet)),
            0x80.. => Err(()),
        }
    }
}

/// A packet's bytes.
fn framed(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let [low, middle, high, _] = (payload.len() as u32).to_le_bytes();
    [&[low, middle, high, sequence], payload].concat()
}

/// What we read of a greeting.
struct Greeting<'g> {
    capabilities: u32,
    /// The method that the server proposes.
    plugin: &'g [u8],
}

impl Greeting<'_> {
    /// Reads a greeting of protocol 10: version, thread and the first 8 bytes of a challenge, then
    /// capabilities, character set, status, capabilities, the length of the challenge, 10 bytes,
    /// the rest of the challenge, the method.
    fn read(payload: &[u8]) -> Option<Greeting<'_>> {
        let [GREETING, rest @ ..] = payload else { return None };
        let version = rest.iter().position(|byte| *byte == 0)?;
        let rest = rest.get(version + 1..)?;
        let low = rest.get(13..15)?;
        let Some(rest) = rest.get(18..) else {
            let capabilities = u32::from(u16::from_le_bytes([low[0], low[1]]));
            return Some(Greeting { capabilities, plugin: &[] });
        };
        let &[high_first, high_second, challenge, ref rest @ ..] = rest else { return None };
        let capabilities = u32::from_le_bytes([low[0], low[1], high_first, high_second]);
        let more = usize::from(challenge).saturating_sub(8).max(13);
        let plugin = rest.get(10 + more..).unwrap_or_default();
        let plugin = plugin.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Greeting { capabilities, plugin })
    }
}

/// The fault that an error packet tells.
fn error(payload: &[u8]) -> CheckFault {
    match payload {
        &[_, low, high, ..] => {
            CheckFault::numbered(FaultClass::Code, u16::from_le_bytes([low, high]))
        }
        _ => unexpected("an error with its number", payload),
    }
}
