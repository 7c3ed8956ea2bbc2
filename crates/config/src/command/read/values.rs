//! Reads the arguments of commands that set one value: addresses, files, sizes, modes.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::address::Local;
use crate::command::read::{WordIter, on, shown, value};
use crate::command::table::Entry;
use crate::command::{
    BOUND, BufferSide, Command, CommandError, ConnectionLogTarget, LogTarget, Number, Query,
    Setting, Startup,
};
use crate::grammar;
use crate::grammar::{COUNT, GrammarError, quoted};
use crate::settings::{BufferSizes, ConnectionLogFormat, Fastclose, Http, Maglev};

/// A file with the name of the daemon needs a slash: `./syslog`.
pub(crate) fn connection_log(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::ConnectionLog(None)));
    }
    let target = match words.next() {
        None => return Ok(Command::Query(Query::ConnectionLog)),
        Some("syslog") => ConnectionLogTarget::Syslog,
        Some(text) => ConnectionLogTarget::Log(log_target(text).map_err(|why| entry.wrong(why))?),
    };
    Ok(Command::Setting(Setting::ConnectionLog(Some(target))))
}

pub(crate) fn connection_log_format(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    let form = match words.next() {
        None => return Ok(shown(entry)),
        Some("text") => ConnectionLogFormat::Text,
        Some("json") => ConnectionLogFormat::Json,
        Some("haproxy") => ConnectionLogFormat::Haproxy,
        Some("haproxy_http") => ConnectionLogFormat::HaproxyHttp,
        Some(other) => {
            return Err(entry
                .wrong(format!("{} is none of text, json, haproxy, haproxy_http", quoted(other))));
        }
    };
    Ok(Command::Setting(Setting::ConnectionLogFormat(form)))
}

/// A port alone means an address of this machine only, because every client that reaches the port
/// can command pen.
pub(crate) fn control(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    let shown = Command::Query(Query::Control);
    own_port(Startup::Control, shown, entry, words, no)
}

/// A port alone means an address of this machine only, because every client that reaches the port
/// sees what pen does.
pub(crate) fn page(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    own_port(Startup::Page, shown(entry), entry, words, no)
}

/// A port of pen's own. Without a word, the command is `shown`.
fn own_port(
    made: fn(Option<Local>) -> Startup,
    shown: Command,
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::Startup(made(None))));
    }
    let Some(text) = words.next() else { return Ok(shown) };
    let local = grammar::local(text).map_err(|why| entry.wrong(why))?;
    Ok(Command::Setting(Setting::Startup(made(Some(local.or_loopback())))))
}

/// A setting of the start that has one word as its value.
pub(crate) fn startup<T: for<'w> From<&'w str>>(
    made: fn(Option<T>) -> Startup,
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    let value = if no { None } else { words.next() };
    Ok(match value {
        None if !no => shown(entry),
        value => Command::Setting(Setting::Startup(made(value.map(T::from)))),
    })
}

/// A switch that only a start can change.
pub(crate) fn start_switch(
    made: fn(bool) -> Startup,
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    Ok(Command::Setting(Setting::Startup(made(on(entry, words, no)?))))
}

pub(crate) fn http(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::Http(Http::Off)));
    }
    Ok(Command::Setting(Setting::Http(match words.next() {
        None | Some("on") => Http::On,
        Some("off") => Http::Off,
        Some("mixed") => Http::Mixed,
        Some(other) => {
            return Err(entry.wrong(format!("{} is none of on, off, mixed", quoted(other))));
        }
    })))
}

pub(crate) fn maglev(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::Maglev(Maglev::Off)));
    }
    Ok(Command::Setting(Setting::Maglev(match words.next() {
        None | Some("on") => Maglev::On,
        Some("off") => Maglev::Off,
        Some("bounded") => {
            let text = entry.required(words)?;
            let percent = grammar::number(text, BOUND);
            Maglev::Bounded(percent.map_err(|why| entry.wrong(why))?)
        }
        Some(other) => {
            return Err(entry.wrong(format!("{} is none of on, off, bounded", quoted(other))));
        }
    })))
}

/// The original treats a negative time as 0.
pub(crate) fn idle_timeout(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    match words.peek().and_then(|text| text.strip_prefix('-')) {
        Some(digits) => {
            words.next();
            entry.number(digits, COUNT)?;
            Ok(Command::Setting(Setting::Number(Number::IdleTimeout, 0)))
        }
        None => value(Number::IdleTimeout, entry, words),
    }
}

pub(crate) fn listen(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    let Some(text) = words.next() else { return Ok(Command::Query(Query::Listen)) };
    grammar::local(text)
        .map(|local| Command::Setting(Setting::Listen(local)))
        .map_err(|why| entry.wrong(why))
}

pub(crate) fn log(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::Log(None)));
    }
    let Some(text) = words.next() else { return Ok(Command::Query(Query::Log)) };
    log_target(text)
        .map(|target| Command::Setting(Setting::Log(Some(target))))
        .map_err(|why| entry.wrong(why))
}

/// Reads the destination of a log: host:port if the text has a colon and no leading
/// slash, else a file.
///
/// # Errors
/// The text is neither; the error says why.
fn log_target(text: &str) -> Result<LogTarget, GrammarError> {
    if text.starts_with('/') || !text.contains(':') {
        return Ok(LogTarget::File(PathBuf::from(text)));
    }
    match grammar::local(text)? {
        Local::Inet { host: Some(host), port } => Ok(LogTarget::Network(host, port)),
        Local::Inet { host: None, .. } | Local::Unix(_) => {
            Err(GrammarError(format!("{} is no host:port", quoted(text))))
        }
    }
}

pub(crate) fn web_stats(
    _: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::WebStats(None)));
    }
    Ok(match words.next() {
        None => Command::Query(Query::WebStats),
        Some(path) => Command::Setting(Setting::WebStats(Some(path.into()))),
    })
}

pub(crate) fn source(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::Source(None)));
    }
    let text = entry.required(words)?;
    text.parse()
        .map(|ip| Command::Setting(Setting::Source(Some(ip))))
        .map_err(|_| CommandError::Source(text.to_owned()))
}

pub(crate) fn socket_buffers(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    let side = match entry.required(words)? {
        "client" => BufferSide::Client,
        "server" => BufferSide::Server,
        other => return Err(entry.wrong(format!("{} is neither client nor server", quoted(other)))),
    };
    let receive = entry.number(entry.required(words)?, BUFFER)?;
    let send = entry.number(entry.required(words)?, BUFFER)?;
    Ok(Command::Setting(Setting::SocketBuffers(side, BufferSizes { receive, send })))
}

/// The range of a socket buffer size, in bytes. The kernel limits it to `net.core.rmem_max` and
/// `wmem_max`.
const BUFFER: RangeInclusive<u32> = 0..=64 << 20;

pub(crate) fn fastclose(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    let which = match words.next() {
        None => return Err(CommandError::FastcloseAlone),
        Some("off") => Fastclose::Off,
        Some("up") => Fastclose::Up,
        Some("down") => Fastclose::Down,
        Some("both") => Fastclose::Both,
        Some(other) => {
            return Err(entry.wrong(format!("{} is none of up, down, both, off", quoted(other))));
        }
    };
    Ok(Command::Setting(Setting::Fastclose(which)))
}
