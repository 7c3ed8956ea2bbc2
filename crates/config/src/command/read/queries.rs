//! Reads the arguments of queries and actions.

use std::path::PathBuf;

use crate::command::help::suggestion;
use crate::command::read::servers::list_number;
use crate::command::read::{SERVER, WordIter};
use crate::command::table::{COMMANDS, Entry, setting_words};
use crate::command::{Action, CommandError, Form, Query};
use crate::grammar::{COUNT, quoted};

/// Most events that pen keeps.
const MAX_EVENTS: u32 = 1000;

/// Error text: the range of connection numbers.
const CONNECTION: &str = "a connection, which begin at 0 and end below conn_max";

pub(crate) fn close(entry: &Entry, words: &mut WordIter<'_>) -> Result<Action, CommandError> {
    Ok(Action::Close(entry.ordinal(entry.required(words)?, CONNECTION)?))
}

pub(crate) fn connection(entry: &Entry, words: &mut WordIter<'_>) -> Result<Query, CommandError> {
    let number = words.next().map_or(Ok(0), |text| entry.ordinal(text, CONNECTION))?;
    Ok(Query::Connection(number))
}

pub(crate) fn events(entry: &Entry, words: &mut WordIter<'_>) -> Result<Query, CommandError> {
    const EVENTS: u32 = 20;
    match words.peek() {
        None | Some("json") => Ok(Query::Events(EVENTS, form(words))),
        Some(text) => {
            words.next();
            Ok(Query::Events(entry.number(text, 1..=MAX_EVENTS)?, form(words)))
        }
    }
}

pub(crate) fn explain(entry: &Entry, words: &mut WordIter<'_>) -> Result<Query, CommandError> {
    let text = entry.required(words)?;
    text.parse()
        .map(Query::Explain)
        .map_err(|_| entry.wrong(format!("{} is no IP address", quoted(text))))
}

pub(crate) fn help(entry: &Entry, words: &mut WordIter<'_>) -> Result<Query, CommandError> {
    let Some(word) = words.next() else { return Ok(Query::Help(None)) };
    match COMMANDS.iter().find(|known| known.word == word) {
        Some(known) => Ok(Query::Help(Some(known.word.to_owned()))),
        None if word == "no" => Ok(Query::Help(Some(word.to_owned()))),
        None => Err(entry.wrong(format!(
            "no command is called {}{}",
            quoted(word),
            suggestion(word, |_| true)
        ))),
    }
}

pub(crate) fn recent(entry: &Entry, words: &mut WordIter<'_>) -> Result<Query, CommandError> {
    const SECONDS: u32 = 300;
    match words.next() {
        None => Ok(Query::Recent(SECONDS, Form::Plain)),
        Some("json") => Ok(Query::Recent(SECONDS, Form::Json)),
        Some(text) => Ok(Query::Recent(entry.number(text, COUNT)?, form(words))),
    }
}

pub(crate) fn show(entry: &Entry, words: &mut WordIter<'_>) -> Result<Query, CommandError> {
    let Some(word) = words.next() else { return Ok(Query::Show(None)) };
    let Some(word) = setting_words().find(|known| *known == word) else {
        let meant = suggestion(word, Entry::is_setting);
        let known = match meant.is_empty() {
            true => format!("; there are {}", setting_words().collect::<Vec<_>>().join(", ")),
            false => meant,
        };
        return Err(entry.wrong(format!("{} is no setting{known}", quoted(word))));
    };
    // There are several settings of these two kinds, each with a number. Those of servers_from have
    // no number, and are shown together.
    let number = match (word, words.peek()) {
        ("acl", Some(_)) => words.next().map(|text| list_number(entry, text).map(u32::from)),
        ("server", Some(_)) => words.next().map(|text| entry.ordinal(text, SERVER)),
        _ => None,
    };
    Ok(Query::Show(Some(match number.transpose()? {
        Some(number) => format!("{word} {number}"),
        None => word.to_owned(),
    })))
}

pub(crate) fn write(_: &Entry, words: &mut WordIter<'_>) -> Result<Action, CommandError> {
    Ok(match words.next() {
        Some("-") => Action::WriteHere,
        path => Action::Write(path.map(PathBuf::from)),
    })
}

pub(crate) fn form(words: &mut WordIter<'_>) -> Form {
    match words.peek() {
        Some("json") => {
            words.next();
            Form::Json
        }
        Some(_) | None => Form::Plain,
    }
}
