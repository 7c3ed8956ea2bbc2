//! Parses a line into a [`Command`]. The files beside this one read the arguments by subject.

use std::ops::RangeInclusive;

use crate::command::help::suggestion;
use crate::command::table::{Entry, Offered, Reader, is_offered, setting_words, unbuilt};
use crate::command::{Command, CommandError, MAX_LINE, Number, Query, Setting};
use crate::grammar;
use crate::grammar::{COUNT, quoted};

pub(super) mod checks;
pub(super) mod limits;
pub(super) mod queries;
pub(super) mod servers;
pub(super) mod tls;
pub(super) mod values;

/// Error text: the range of server numbers.
const SERVER: &str = "a server, which begin at 0 and end below -S";

/// Parses one line, without its line end. `None`: there is nothing to do, because the line is
/// empty, a comment, or a command of the original that has no effect here.
///
/// # Errors
/// The line is not a command. The caller does nothing except reply with the text of the error.
pub fn parse(line: &str) -> Result<Option<Command>, CommandError> {
    read_short(line, Offered::Built)
}

/// As [`parse`], with the commands that are not offered yet.
pub(crate) fn parse_any(line: &str) -> Result<Option<Command>, CommandError> {
    read_short(line, Offered::All)
}

fn read_short(line: &str, offered: Offered) -> Result<Option<Command>, CommandError> {
    if line.len() > MAX_LINE { Err(CommandError::TooLong) } else { read(line, offered) }
}

/// Parses one line of a file, or the text of `-O`. Nobody reads a reply there.
///
/// # Errors
/// The line is not a command, or the command only shows something (a setting without its value).
pub fn parse_configuration(line: &str) -> Result<Option<Command>, String> {
    let command = parse(line).map_err(|why| why.of_configuration())?;
    let Some(Command::Query(_)) = command else { return Ok(command) };
    let mut words = WordIter(&line[..before_comment(line.as_bytes())]);
    let word = words.next().unwrap_or_default();
    Err(match setting_words().any(|setting| setting == word) {
        true => format!("{word}: its value is missing"),
        false => format!(
            "{word}: only the control port takes this command: nobody reads here what it shows"
        ),
    })
}

/// Whether [`parse`] can return this command, with every value in its range. A command from another
/// process may be malformed.
pub fn is_well_formed(command: &Command) -> bool {
    is_readable(command, Offered::Built)
}

pub(crate) fn is_readable(command: &Command, offered: Offered) -> bool {
    // The displayed line can be longer than the original (`1::2:3:4:5:6:7` is `1:0:2:3:4:5:6:7`).
    read(&command.to_string(), offered) == Ok(Some(command.clone()))
}

/// The length of a line without its comment. A word that begins with `#` begins the comment, at any
/// position.
pub fn before_comment(line: &[u8]) -> usize {
    let begins = |place: usize| {
        line[place] == b'#' && (place == 0 || matches!(line[place - 1], b' ' | b'\t'))
    };
    (0..line.len()).find(|place| begins(*place)).unwrap_or(line.len())
}

fn read(line: &str, offered: Offered) -> Result<Option<Command>, CommandError> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let mut words = WordIter(&line[..before_comment(line.as_bytes())]);
    let Some(first) = words.next() else { return Ok(None) };
    let (word, negated) = match first {
        "no" => {
            (words.next().ok_or(CommandError::Usage { word: "no", arguments: "COMMAND" })?, true)
        }
        word => (word, false),
    };
    let of = |offered: Offered| {
        let is_meant = |entry: &&Entry| entry.word == word && (entry.negatable || !negated);
        offered.entries().iter().find(is_meant)
    };
    let Some(entry) = of(offered) else {
        if let Some(entry) = of(Offered::All) {
            return unbuilt(entry);
        }
        return Err(match negated {
            true => not_negatable(word, offered),
            false => CommandError::Unknown(word.chars().take(100).collect()),
        });
    };
    // No name or path contains a control character, and some of them would split one line into two.
    if let Some(control) = words.0.chars().find(|found| found.is_control() && *found != '\t') {
        return Err(entry.wrong(format!(
            "control character {} in its arguments",
            quoted(control.encode_utf8(&mut [0; 4]))
        )));
    }
    let command = entry.read(&mut words, negated)?;
    // The check for surplus words is here, so that no reader can forget it. A surplus word is an
    // error, because the operator meant something by it.
    if let Some(word) = words.next() {
        return Err(entry.surplus(word, negated));
    }
    if let Some(Command::Setting(setting)) = &command
        && !is_offered(setting, offered)
    {
        return unbuilt(entry);
    }
    Ok(command)
}

/// `no` and a word that has no such form. For a setting with a value, what it can be says more than
/// a similar word.
fn not_negatable(word: &str, offered: Offered) -> CommandError {
    let sets = |entry: &&Entry| match entry.reader {
        Reader::Switch(_) | Reader::Number(_) | Reader::Setting(_) | Reader::NotShown(_) => {
            entry.word == word
        }
        Reader::Query(_) | Reader::Action(_) | Reader::NoEffect(_) => false,
    };
    let why = match offered.entries().iter().find(sets) {
        Some(Entry { word, arguments, .. }) => {
            format!("there is no 'no {word}'; usage: {word} {arguments}")
        }
        None => {
            let meant = suggestion(word, |entry| entry.negatable);
            format!("nothing to switch off is called {}{meant}", quoted(word))
        }
    };
    CommandError::Argument { word: "no", why }
}

/// The words of a line before its comment.
pub(super) struct WordIter<'l>(&'l str);

impl<'l> Iterator for WordIter<'l> {
    type Item = &'l str;

    fn next(&mut self) -> Option<&'l str> {
        let text = self.0.trim_start_matches([' ', '\t']);
        let end = text.find([' ', '\t']).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

impl<'l> WordIter<'l> {
    /// The next word; it is not consumed.
    fn peek(&self) -> Option<&'l str> {
        WordIter(self.0).next()
    }
}

impl Entry {
    /// Reads the words after the command's word. `None`: the command has no effect here.
    fn read(
        &self,
        words: &mut WordIter<'_>,
        negated: bool,
    ) -> Result<Option<Command>, CommandError> {
        Ok(Some(match self.reader {
            Reader::Switch(switch) => {
                Command::Setting(Setting::Switch(switch, on(self, words, negated)?))
            }
            Reader::Number(number) => value(number, self, words)?,
            Reader::Setting(read) => read(self, words, negated)?,
            Reader::NotShown(read) => Command::Setting(read(self, words)?),
            Reader::Query(read) => Command::Query(read(self, words)?),
            Reader::Action(read) => Command::Action(read(self, words)?),
            Reader::NoEffect(check) => {
                check(self, words, negated)?;
                return Ok(None);
            }
        }))
    }

    fn surplus(&self, word: &str, negated: bool) -> CommandError {
        let (no, arguments) = match negated {
            true => ("no ", self.negated_arguments()),
            false => ("", self.arguments),
        };
        let form = format!("{no}{} {arguments}", self.word);
        self.wrong(format!("one word too many: {}; usage: {}", quoted(word), form.trim_end()))
    }

    pub(super) fn required<'l>(&self, words: &mut WordIter<'l>) -> Result<&'l str, CommandError> {
        words.next().ok_or(CommandError::Usage { word: self.word, arguments: self.arguments })
    }

    fn wrong(&self, why: impl ToString) -> CommandError {
        CommandError::Argument { word: self.word, why: why.to_string() }
    }

    /// A number of an object. Only the running program knows how many objects there are, so the
    /// error does not give the limit.
    pub(super) fn ordinal(&self, text: &str, of: &str) -> Result<u32, CommandError> {
        grammar::number(text, COUNT)
            .map_err(|_| self.wrong(format!("{} is not the number of {of}", quoted(text))))
    }

    fn number(&self, text: &str, range: RangeInclusive<u32>) -> Result<u32, CommandError> {
        grammar::number(text, range).map_err(|why| self.wrong(why))
    }
}

/// The value of a switch: nothing, `on` or `off`. After `no` and the word, no value is allowed.
fn on(entry: &Entry, words: &mut WordIter<'_>, no: bool) -> Result<bool, CommandError> {
    if no {
        return Ok(false);
    }
    match words.next() {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(entry.wrong(format!("{} is neither on nor off", quoted(other)))),
    }
}

fn value(number: Number, entry: &Entry, words: &mut WordIter<'_>) -> Result<Command, CommandError> {
    Ok(match words.next() {
        None => Command::Query(Query::Number(number)),
        Some(text) => {
            Command::Setting(Setting::Number(number, entry.number(text, number.range())?))
        }
    })
}

/// The command for a setting without an argument, where the original has no reply of its own.
fn shown(entry: &Entry) -> Command {
    Command::Query(Query::Show(Some(entry.word.to_owned())))
}

pub(super) fn refused<T>(entry: &Entry, why: &'static str) -> Result<T, CommandError> {
    Err(CommandError::Refused { word: entry.word, why })
}

/// A feature that pen does not have: only `off` is accepted.
pub(super) fn off_only(
    entry: &Entry,
    why: &'static str,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<(), CommandError> {
    match on(entry, words, no)? {
        false => Ok(()),
        true => refused(entry, why),
    }
}

/// A switch of the original that has no effect here.
pub(super) fn switch_without_effect(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<(), CommandError> {
    on(entry, words, no).map(drop)
}
