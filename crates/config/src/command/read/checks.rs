//! Reads the arguments of commands about checks, states of servers, and names over time.

use std::ops::RangeInclusive;

use crate::address::{Host, Service};
use crate::checks::{
    Check, CheckKind, CheckText, HttpQuestion, OnDown, Records, RedisRole, ServerCheck, ServerMode,
    ServersFrom, StatusRange,
};
use crate::command::read::{SERVER, WordIter, shown};
use crate::command::table::Entry;
use crate::command::{Action, AfterDrain, Command, CommandError, DRAIN_TIME, Setting};
use crate::grammar;
use crate::grammar::{PORT, quoted};
use crate::ids::MAX_SERVERS;
use crate::proxy::ProxyOut;

/// Longest path of an HTTP check, user of a MySQL check, and host, in bytes.
const LONGEST_PATH: usize = 1024;
const LONGEST_USER: usize = 80;
const LONGEST_HOST: usize = 255;

pub(crate) fn check(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    let Some(word) = words.next() else { return Ok(shown(entry)) };
    let check = match word {
        "off" => None,
        word => Some(one(entry, word, words)?),
    };
    Ok(Command::Setting(Setting::Check(check)))
}

/// The value of the key `check` of a server. `word` is its first word; it takes the rest of the
/// line.
pub(super) fn of_server(
    entry: &Entry,
    word: &str,
    words: &mut WordIter<'_>,
) -> Result<ServerCheck, CommandError> {
    let check = match word {
        "default" => ServerCheck::Default,
        "off" => ServerCheck::Off,
        word => return Ok(ServerCheck::Own(Box::new(one(entry, word, words)?))),
    };
    match words.next() {
        None => Ok(check),
        Some(other) => Err(behind(entry, other)),
    }
}

pub(super) fn mode(entry: &Entry, word: &str) -> Result<ServerMode, CommandError> {
    let known = ServerMode::WORDS.iter().find(|(known, _)| *known == word);
    let (_, mode) = known.ok_or_else(|| {
        entry.wrong(format!("state {} is none of ready, drain, maint", quoted(word)))
    })?;
    Ok(*mode)
}

/// A check from its first word to the end of the line.
fn one(entry: &Entry, word: &str, words: &mut WordIter<'_>) -> Result<Check, CommandError> {
    let mut check = Check::of(kind(entry, word, words)?);
    let mut given = Vec::new();
    while let Some(key) = words.next() {
        let no_use = |goes: &str| {
            Err(wrong(entry, &format!("check {word}: {key} has no use there; it goes with {goes}")))
        };
        match (key, &mut check.kind) {
            ("host", kind) if !kind.takes_host() => return no_use("tls, http and https"),
            ("host", _) => check.host = Some(host(entry, value(entry, key, words)?)?),
            ("status", CheckKind::Http(question) | CheckKind::Https(question)) => {
                question.status = status(entry, value(entry, key, words)?)?;
            }
            ("body", CheckKind::Http(question) | CheckKind::Https(question)) => {
                question.body = Some(text(entry, key, value(entry, key, words)?)?);
            }
            ("status" | "body", _) => return no_use("http and https"),
            ("port", _) => {
                // The range is that of u16.
                check.port = Some(number(entry, key, value(entry, key, words)?, PORT)? as u16);
            }
            ("proxy", _) => check.proxy = proxy(entry, value(entry, key, words)?)?,
            (other, _) => return Err(behind(entry, other)),
        }
        if given.contains(&key) {
            return Err(wrong(entry, &format!("check {word}: {key} is given twice")));
        }
        given.push(key);
    }
    match check.to_string().len() {
        ..=Check::LONGEST => Ok(check),
        many => Err(wrong(
            entry,
            &format!(
                "check {word}: written with its escapes it has {many} bytes; {} are the most",
                Check::LONGEST
            ),
        )),
    }
}

fn kind(entry: &Entry, word: &str, words: &mut WordIter<'_>) -> Result<CheckKind, CommandError> {
    Ok(match word {
        "tcp" => CheckKind::Tcp,
        "tls" => CheckKind::Tls,
        "http" => CheckKind::Http(question(entry, word, words)?),
        "https" => CheckKind::Https(question(entry, word, words)?),
        "smtp" => CheckKind::Smtp,
        "pgsql" => CheckKind::Pgsql,
        "mysql" => CheckKind::Mysql { user: user(entry, value(entry, word, words)?)? },
        "redis" if words.peek() == Some("master") => {
            words.next();
            CheckKind::Redis(RedisRole::Master)
        }
        "redis" => CheckKind::Redis(RedisRole::Any),
        "ldap" => CheckKind::Ldap,
        "dns" => CheckKind::Dns { name: name(entry, value(entry, word, words)?)? },
        "send" => {
            let send = text(entry, word, value(entry, word, words)?)?;
            match words.next() {
                Some("expect") => {}
                Some(other) => {
                    return Err(wrong(
                        entry,
                        &format!(
                            "check send: {} where expect has to stand; a space in TEXT is \\s",
                            quoted(other)
                        ),
                    ));
                }
                None => return Err(wrong(entry, "check send: expect TEXT is missing")),
            }
            CheckKind::Exchange {
                send,
                expect: text(entry, "expect", value(entry, "expect", words)?)?,
            }
        }
        other => {
            return Err(entry.wrong(format!(
                "no check is called {}; there are {}, off",
                quoted(other),
                CheckKind::FORMS.join(", ")
            )));
        }
    })
}

/// The word after a key, which is required.
fn value<'l>(entry: &Entry, key: &str, words: &mut WordIter<'l>) -> Result<&'l str, CommandError> {
    words.next().ok_or_else(|| wrong(entry, &format!("check: what follows {key} is missing")))
}

/// A word that no check has.
fn behind(entry: &Entry, word: &str) -> CommandError {
    let why = match entry.word {
        "server" => {
            "; check takes the rest of the line, so other keys of the server stand before it"
        }
        _ => "",
    };
    let known = "host, status, body, port, proxy";
    wrong(entry, &format!("check: {} is none of {known}{why}", quoted(word)))
}

/// An error about a check. The word of the command stands before it anyway.
fn wrong(entry: &Entry, why: &str) -> CommandError {
    let begins = |beginning| why.strip_prefix(beginning).filter(|_| entry.word == "check");
    entry.wrong(begins("check: ").or_else(|| begins("check ")).unwrap_or(why))
}

/// The number behind a key.
fn number(
    entry: &Entry,
    key: &str,
    text: &str,
    range: RangeInclusive<u32>,
) -> Result<u32, CommandError> {
    grammar::number(text, range).map_err(|why| wrong(entry, &format!("check: {key}: {why}")))
}

fn question(
    entry: &Entry,
    word: &str,
    words: &mut WordIter<'_>,
) -> Result<HttpQuestion, CommandError> {
    let path = value(entry, word, words)?;
    // It stands in the request line as it is.
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !path.starts_with('/') || !path.bytes().all(allowed) {
        return Err(wrong(
            entry,
            &format!(
                "check {word}: {} is no path: it begins with '/', and has ASCII letters, digits \
                 and signs without '#' only; write others as %XX",
                quoted(path)
            ),
        ));
    }
    shorter(entry, path, LONGEST_PATH, "a path")?;
    Ok(HttpQuestion { path: path.to_owned(), status: StatusRange::default(), body: None })
}

fn shorter(entry: &Entry, text: &str, most: usize, what: &str) -> Result<(), CommandError> {
    match text.len() {
        many if many > most => {
            Err(wrong(entry, &format!("check: {what} of {many} bytes; {most} are the most")))
        }
        _ => Ok(()),
    }
}

fn user(entry: &Entry, text: &str) -> Result<String, CommandError> {
    shorter(entry, text, LONGEST_USER, "a user")?;
    Ok(text.to_owned())
}

/// What a Host line can hold: a name or an address, with a port or without.
fn host(entry: &Entry, text: &str) -> Result<String, CommandError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    if !text.bytes().all(allowed) {
        let allowed = "letters, digits, '-', '_', '.', ':', '[', ']'";
        let why = format!("check: host {} has other characters than {allowed}", quoted(text));
        return Err(wrong(entry, &why));
    }
    shorter(entry, text, LONGEST_HOST, "a host")?;
    Ok(text.to_owned())
}

/// A name that can be looked up.
fn name(entry: &Entry, text: &str) -> Result<String, CommandError> {
    match grammar::server_address(text) {
        Ok(Host::Name(name)) => Ok(name),
        Ok(Host::Ip(_) | Host::Zoned(_, _) | Host::Unix(_)) => {
            Err(entry.wrong(format!("{} is no name", quoted(text))))
        }
        Err(why) => Err(entry.wrong(why)),
    }
}

/// `LOW-HIGH`, or one status.
fn status(entry: &Entry, text: &str) -> Result<StatusRange, CommandError> {
    let range = || u32::from(StatusRange::LOWEST)..=u32::from(StatusRange::HIGHEST);
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let one = |text| number(entry, "status", text, range()).map(|status| status as u16);
    let (low, high) = (one(low)?, one(high)?);
    match low <= high {
        true => Ok(StatusRange { low, high }),
        false => Err(wrong(entry, &format!("check: status {low}-{high} holds no status"))),
    }
}

fn text(entry: &Entry, key: &str, text: &str) -> Result<CheckText, CommandError> {
    text.parse().map_err(|why| wrong(entry, &format!("check: {key}: {why}")))
}

fn proxy(entry: &Entry, text: &str) -> Result<ProxyOut, CommandError> {
    match text {
        "v1" => Ok(ProxyOut::V1),
        "v2" => Ok(ProxyOut::V2),
        other => Err(wrong(entry, &format!("check: proxy {} is neither v1 nor v2", quoted(other)))),
    }
}

pub(crate) fn on_down(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    let what = match words.next() {
        None => return Ok(shown(entry)),
        Some("keep") => OnDown::Keep,
        Some("close") => OnDown::Close,
        Some(other) => {
            return Err(entry.wrong(format!("{} is neither keep nor close", quoted(other))));
        }
    };
    Ok(Command::Setting(Setting::OnDown(what)))
}

pub(crate) fn drain(entry: &Entry, words: &mut WordIter<'_>) -> Result<Action, CommandError> {
    let server = slot(entry, entry.required(words)?)?;
    let wait = match words.peek() {
        Some("wait") => {
            words.next();
            entry.number(entry.required(words)?, DRAIN_TIME)?
        }
        Some(_) | None => Action::USUAL_DRAIN,
    };
    let close = match words.peek() {
        Some("close") => {
            words.next();
            AfterDrain::Close
        }
        Some(_) | None => AfterDrain::Keep,
    };
    Ok(Action::Drain { server, wait, close })
}

/// The number of a server, which is in the range of the server table whatever its size.
fn slot(entry: &Entry, text: &str) -> Result<u16, CommandError> {
    let number = entry.ordinal(text, SERVER)?;
    match u16::try_from(number) {
        Ok(slot) if number < MAX_SERVERS => Ok(slot),
        Ok(_) | Err(_) => {
            Err(entry
                .wrong(format!("{number} is too large; there are {MAX_SERVERS} servers at most")))
        }
    }
}

pub(crate) fn servers_from(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        let usage = CommandError::Usage { word: "no servers_from", arguments: "NAME" };
        let name = name(entry, words.next().ok_or(usage)?)?;
        return Ok(Command::Setting(Setting::NoServersFrom(name)));
    }
    let Some(text) = words.next() else { return Ok(shown(entry)) };
    let name = name(entry, text)?;
    let port: Service = grammar::service(entry.required(words)?).map_err(|why| entry.wrong(why))?;
    let (first, last) = slots(entry, entry.required(words)?)?;
    let records = match words.peek() {
        Some("srv") => {
            words.next();
            Records::Srv
        }
        Some(_) | None => Records::Addresses,
    };
    Ok(Command::Setting(Setting::ServersFrom(ServersFrom { name, port, first, last, records })))
}

/// `FIRST-LAST`.
fn slots(entry: &Entry, text: &str) -> Result<(u16, u16), CommandError> {
    let (first, last) = text.split_once('-').ok_or_else(|| {
        entry.wrong(format!("{} is no range of servers, as in 0-9", quoted(text)))
    })?;
    let (first, last) = (slot(entry, first)?, slot(entry, last)?);
    match first <= last {
        true => Ok((first, last)),
        false => Err(entry.wrong(format!("{first}-{last} holds no server"))),
    }
}
