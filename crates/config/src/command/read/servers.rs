//! Reads the arguments of commands about servers, access lists and the PROXY protocol.

use std::net::{IpAddr, Ipv4Addr};

use crate::acl::{AclVerdict, Net, is_mask};
use crate::address::Host;
use crate::command::read::{SERVER, WordIter, checks, refused, shown, tls};
use crate::command::table::{Entry, Offered};
use crate::command::{Command, CommandError, Number, ServerChange, Setting};
use crate::grammar;
use crate::grammar::{COUNT, ServerSpec, quoted};
use crate::proxy::{ProxyOut, Senders};

/// The keys of a server that pen offers.
pub fn server_keys() -> impl Iterator<Item = &'static str> {
    const KEYS: [&str; 11] = [
        "acl",
        "address",
        "blacklist",
        "check",
        "hard",
        "max",
        "port",
        "prio",
        "state",
        "tls",
        "weight",
    ];
    KEYS.into_iter().filter(|key| Offered::Built.has_key(key))
}

pub(crate) fn server(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        let text = words.next().ok_or(CommandError::Usage { word: "no server", arguments: "N" })?;
        return Ok(Command::Setting(Setting::NoServer(entry.ordinal(text, SERVER)?)));
    }
    let number = entry.ordinal(entry.required(words)?, SERVER)?;
    let mut changes = Vec::new();
    let mut keys = Vec::new();
    while let Some(key) = words.next() {
        let value = entry.required(words)?;
        if keys.contains(&key) {
            return Err(
                entry.wrong(format!("{key} is given twice, the second time as {}", quoted(value)))
            );
        }
        keys.push(key);
        let count = || entry.number(value, COUNT);
        changes.push(match key {
            "acl" => ServerChange::Acl(list_number(entry, value)?),
            "address" => ServerChange::Address(address(entry, value)?),
            "blacklist" => ServerChange::Blacklist(count()?),
            "check" => ServerChange::Check(checks::of_server(entry, value, words)?),
            "hard" => ServerChange::Hard(count()?),
            "max" => ServerChange::Max(count()?),
            "port" => ServerChange::Port(grammar::service(value).map_err(|why| entry.wrong(why))?),
            "prio" => ServerChange::Prio(count()?),
            "state" => ServerChange::State(checks::mode(entry, value)?),
            "tls" => ServerChange::Tls(tls::transport(entry, value)?),
            "weight" => ServerChange::Weight(count()?),
            other => {
                return Err(entry.wrong(format!(
                    "no key is called {}; there are {}",
                    quoted(other),
                    server_keys().collect::<Vec<_>>().join(", ")
                )));
            }
        });
    }
    if changes.is_empty() {
        return Err(CommandError::Usage { word: entry.word, arguments: entry.arguments });
    }
    Ok(Command::Setting(Setting::Server { number, changes }))
}

/// A server's address: a host without a port, unlike an operand.
fn address(entry: &Entry, text: &str) -> Result<Host, CommandError> {
    grammar::server_address(text).map_err(|why| match text.rsplit_once(':') {
        Some((host, port))
            if grammar::server_address(host).is_ok() && grammar::service(port).is_ok() =>
        {
            entry.wrong(format!(
                "address {text}: an address has no port here; write address {host} port {port}"
            ))
        }
        Some(_) | None => entry.wrong(why),
    })
}

/// The emergency or abuse server.
pub(crate) fn backup(
    setting: fn(Option<ServerSpec>) -> Setting,
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(setting(None)));
    }
    let Some(text) = words.next() else { return Ok(shown(entry)) };
    grammar::server(text)
        .map(|spec| Command::Setting(setting(Some(spec))))
        .map_err(|why| entry.wrong(why))
}

pub(crate) fn acl(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        let text = words.next().ok_or(CommandError::Usage { word: "no acl", arguments: "N" })?;
        return Ok(Command::Setting(Setting::NoAcl(list_number(entry, text)?)));
    }
    let list = list_number(entry, entry.required(words)?)?;
    let verdict = match entry.required(words)? {
        "permit" => AclVerdict::Permit,
        "deny" => AclVerdict::Deny,
        other => return Err(entry.wrong(format!("{} is neither permit nor deny", quoted(other)))),
    };
    let address = entry.required(words)?;
    if address == "country" {
        return refused(entry, "country: no country lookup is built in");
    }
    Ok(Command::Setting(Setting::Acl { list, verdict, net: net(entry, address, words)? }))
}

pub(super) fn list_number(entry: &Entry, text: &str) -> Result<u8, CommandError> {
    let number = entry.number(text, Number::ClientAcl.range())?;
    u8::try_from(number).map_err(|why| entry.wrong(why))
}

fn net(entry: &Entry, text: &str, words: &mut WordIter<'_>) -> Result<Net, CommandError> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let ip: IpAddr = address
        .parse()
        .map_err(|_| entry.wrong(format!("{} is no IP address", quoted(address))))?;
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    let length = length.map(|text| entry.number(text, 0..=longest)).transpose()?;
    let net = match ip {
        IpAddr::V6(ip) => Net::v6_prefix(ip, length.unwrap_or(128) as u8),
        IpAddr::V4(ip) => match length {
            Some(length) => Net::v4_prefix(ip, length as u8),
            None => match words.next() {
                None => Net::v4_prefix(ip, 32),
                Some(text) => Some(Net::v4(ip, mask(entry, text)?)),
            },
        },
    };
    net.ok_or_else(|| entry.wrong("the prefix is too long"))
}

/// Refuses a second address that is not a mask. Taken as a mask, it would permit or deny addresses
/// that the operator did not name.
fn mask(entry: &Entry, text: &str) -> Result<Ipv4Addr, CommandError> {
    let why = format!("{} is no IPv4 mask such as 255.255.255.0", quoted(text));
    match text.parse() {
        Ok(mask) if is_mask(mask) => Ok(mask),
        Ok(_) => Err(entry.wrong(why + "; a second address needs a line of its own")),
        Err(_) => Err(entry.wrong(why)),
    }
}

pub(crate) fn proxy_protocol(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    match (entry.required(words)?, entry.required(words)?) {
        ("in", "off") => Ok(Command::Setting(Setting::ProxyIn(Senders::default()))),
        ("in", "from") => {
            let senders = Senders::read(entry.required(words)?).map_err(|why| entry.wrong(why))?;
            Ok(Command::Setting(Setting::ProxyIn(senders)))
        }
        ("out", version) => {
            let known = ProxyOut::WORDS.iter().find(|(word, _)| *word == version);
            let (_, out) = known.ok_or_else(|| {
                entry.wrong(format!("{} is none of v1, v2, off", quoted(version)))
            })?;
            Ok(Command::Setting(Setting::ProxyOut(*out)))
        }
        ("in", other) => Err(entry.wrong(format!("{} is neither from nor off", quoted(other)))),
        (other, _) => Err(entry.wrong(format!("{} is neither in nor out", quoted(other)))),
    }
}
