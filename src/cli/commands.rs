//! Options that are commands: each becomes its command, in its position among those of `-O`.

use std::ffi::OsString;

use pen_config::address::Local;
use pen_config::command::{self, Command, LogTarget, Number, Setting, SourcedCommand, Switch};
use pen_config::grammar::{self, quoted};
use pen_config::settings::Http;

use super::options::Opt;
use super::{Given, UsageError, find, usage, utf8};

/// Options that turn a switch on.
pub(super) const SWITCHES: &[(&str, Switch)] = &[
    ("round-robin", Switch::Roundrobin),
    ("hash", Switch::Hash),
    ("weight", Switch::Weight),
    ("prio", Switch::Prio),
    ("stubborn", Switch::Stubborn),
    ("ascii", Switch::Ascii),
];

/// Options that set a number.
pub(super) const NUMBERS: &[(&str, Number)] = &[
    ("blacklist-time", Number::Blacklist),
    ("tracking", Number::Tracking),
    ("timeout", Number::Timeout),
    ("clients", Number::ClientsMax),
    ("max-connections", Number::ConnMax),
    ("workers", Number::Workers),
    ("backlog", Number::Backlog),
];

/// Options with a text value that are commands, and `debug`, which can be repeated.
const OTHERS: &[&str] = &["forwarded-for", "log", "status-file", "debug"];

/// Options that contain a command.
const HOLDERS: &[&str] = &["command", "option"];

/// Whether a command can express the option.
pub(super) fn expresses(option: &Opt) -> bool {
    let long = option.long;
    SWITCHES.iter().any(|(known, _)| *known == long)
        || NUMBERS.iter().any(|(known, _)| *known == long)
        || OTHERS.contains(&long)
        || HOLDERS.contains(&long)
}

/// Whether `-O` is given.
pub(super) fn are_given(given: &Given) -> bool {
    HOLDERS.iter().filter_map(|long| find(long)).any(|option| given.has(option))
}

/// The commands, in the order of the command line.
pub(super) fn of(given: &Given) -> Result<Vec<SourcedCommand>, UsageError> {
    let mut found: Vec<(usize, SourcedCommand)> = Vec::new();
    let mut add = |long: &str, position: usize, setting: Setting| {
        let source_line = find(long).map_or(long.to_owned(), Opt::name);
        found.push((position, SourcedCommand { source_line, command: Command::Setting(setting) }));
    };
    for (long, switch) in SWITCHES.iter().filter(|(long, _)| given.flag(long)) {
        add(long, given.position(long), Setting::Switch(*switch, true));
    }
    if given.flag("forwarded-for") {
        add("forwarded-for", given.position("forwarded-for"), Setting::Http(Http::On));
    }
    for (long, number) in NUMBERS {
        // Too small values of some numbers are raised, with a notice.
        let value = given.number(long)?.map(|value| value.max(*number.range().start()));
        if let Some(value) = value.filter(|_| given.given(long)) {
            add(long, given.position(long), Setting::Number(*number, value));
        }
    }
    if let Some(target) = log(given)? {
        add("log", given.position("log"), Setting::Log(Some(target)));
    }
    if let Some(path) = given.path("status-file")? {
        add("status-file", given.position("status-file"), Setting::WebStats(Some(path)));
    }
    for position in given.positions("debug") {
        add("debug", position, Setting::Number(Number::Debug, 1));
    }
    for long in HOLDERS {
        found.extend(held(given, long)?);
    }
    found.sort_by_key(|(position, _)| *position);
    let mut commands: Vec<SourcedCommand> = found.into_iter().map(|(_, sourced)| sourced).collect();
    raise_debug(&mut commands);
    Ok(commands)
}

/// Each `-d` raises the debug level by one.
fn raise_debug(commands: &mut [SourcedCommand]) {
    let mut level = 0;
    for SourcedCommand { source_line, command } in commands {
        if let Command::Setting(Setting::Number(Number::Debug, value)) = command {
            if source_line == "-d" {
                *value = (level + 1).min(*Number::Debug.range().end());
            }
            level = *value;
        }
    }
}

/// The commands in an option's occurrences.
fn held(given: &Given, long: &'static str) -> Result<Vec<(usize, SourcedCommand)>, UsageError> {
    let name = find(long).map_or(long.to_owned(), Opt::name);
    let texts = given.0.get_many::<OsString>(long).unwrap_or_default();
    let one = |(position, text): (usize, &OsString)| {
        let what = format!("{name} {}", quoted(&text.to_string_lossy()));
        let text = utf8(text).map_err(|why| usage(&what, why))?;
        let command = command::parse_configuration(text).map_err(|why| usage(&what, why))?;
        Ok(command.map(|command| (position, SourcedCommand { source_line: what, command })))
    };
    given.positions(long).into_iter().zip(texts).filter_map(|held| one(held).transpose()).collect()
}

/// A file, or host:port if the text has a colon and no leading slash.
fn log(given: &Given) -> Result<Option<LogTarget>, UsageError> {
    let Some((name, value)) = given.raw("log")? else { return Ok(None) };
    let bytes = value.as_encoded_bytes();
    if bytes.starts_with(b"/") || !bytes.contains(&b':') {
        return Ok(given.path("log")?.map(LogTarget::File));
    }
    let text = utf8(value).map_err(|why| usage(&name, why))?;
    match grammar::local(text) {
        Ok(Local::Inet { host: Some(host), port }) => Ok(Some(LogTarget::Network(host, port))),
        Ok(_) => Err(usage(
            format!("{name} {}", quoted(text)),
            "with ':' it is host:port; the path of a file with ':' must begin with '/'",
        )),
        Err(why) => Err(usage(format!("{name} {}", quoted(text)), why.to_string())),
    }
}
