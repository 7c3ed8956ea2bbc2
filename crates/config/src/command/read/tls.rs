//! Reads the arguments of commands about TLS.

use std::path::PathBuf;

use crate::command::read::{WordIter, shown};
use crate::command::table::Entry;
use crate::command::{Command, CommandError, Setting};
use crate::grammar::{COUNT, quoted};
use crate::tls::servers::ServerTransport;
use crate::tls::{Suite, SuiteList};

pub(crate) fn certificate(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::Certificate(None)));
    }
    Ok(match words.next() {
        None => shown(entry),
        Some(file) => Command::Setting(Setting::Certificate(Some((
            file.into(),
            words.next().map(PathBuf::from),
        )))),
    })
}

pub(crate) fn client_ca(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::ClientCa(Vec::new())));
    }
    let paths: Vec<PathBuf> = words.by_ref().take(2).map(PathBuf::from).collect();
    Ok(if paths.is_empty() { shown(entry) } else { Command::Setting(Setting::ClientCa(paths)) })
}

pub(crate) fn server_tls_ca(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::ServerTlsCa(None)));
    }
    Ok(match words.next() {
        None => shown(entry),
        Some(path) => Command::Setting(Setting::ServerTlsCa(Some(path.into()))),
    })
}

pub(crate) fn server_tls_cert(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::ServerTlsCert(None)));
    }
    Ok(match words.next() {
        None => shown(entry),
        Some(file) => Command::Setting(Setting::ServerTlsCert(Some((
            file.into(),
            words.next().map(PathBuf::from),
        )))),
    })
}

pub(crate) fn server_tls_name(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::ServerTlsName(None)));
    }
    let Some(text) = words.next() else { return Ok(shown(entry)) };
    if text.eq_ignore_ascii_case("off") {
        return Err(entry.wrong("to have none, say no server_tls_name; a host off is 'off.'"));
    }
    let name = text.parse().map_err(|why| entry.wrong(why))?;
    Ok(Command::Setting(Setting::ServerTlsName(Some(name))))
}

/// Whether a server speaks TLS.
pub(super) fn transport(entry: &Entry, text: &str) -> Result<ServerTransport, CommandError> {
    let meant = ServerTransport::WORDS.iter().find(|(word, _)| *word == text);
    meant
        .map(|(_, transport)| *transport)
        .ok_or_else(|| entry.wrong(format!("tls: {} is none of on, off, default", quoted(text))))
}

pub(crate) fn ciphers(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::SslCiphers(None)));
    }
    let Some(text) = words.next() else { return Ok(shown(entry)) };
    let list = SuiteList::read(text);
    if list.suites.is_empty() {
        let known: Vec<&str> = Suite::ALL.iter().map(|suite| suite.name()).collect();
        return Err(entry.wrong(format!(
            "{} names no suite that is here; there are {}",
            quoted(text),
            known.join(", ")
        )));
    }
    Ok(Command::Setting(Setting::SslCiphers(Some(list))))
}

pub(crate) fn ssl_option(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    match entry.required(words)? {
        "no_tlsv1.2" => Ok(Command::Setting(Setting::SslNoTls12)),
        "tlsv1.2" => Ok(Command::Setting(Setting::SslTls12)),
        "no_sslv2" | "no_sslv3" | "no_tlsv1" | "no_tlsv1.1" | "cipher_server_preference" => {
            Ok(Command::Setting(Setting::SslAlways))
        }
        other => Err(entry.wrong(format!("{} is no option", quoted(other)))),
    }
}

pub(crate) fn renegotiation(
    entry: &Entry,
    words: &mut WordIter<'_>,
) -> Result<Setting, CommandError> {
    entry.number(entry.required(words)?, COUNT).map(Setting::SslRenegotiation)
}

/// A path, which is required; with `no`, none.
pub(crate) fn path(
    setting: fn(Option<PathBuf>) -> Setting,
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    let path = if no { None } else { Some(entry.required(words)?.into()) };
    Ok(Command::Setting(setting(path)))
}
