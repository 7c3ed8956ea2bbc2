//! The configuration file: one command per line.
//!
//! Pure: the text comes in, commands go out. What the commands mean, and which file an `include`
//! names, is for the caller.

use crate::command;
use crate::command::{Command, MAX_LINE};

/// A line that says something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// Its number, from 1.
    pub number: u32,
    /// Its command; [`Command::Nothing`] only beside a notice.
    pub command: Command,
    /// What the administrator should hear about it.
    pub notice: Option<&'static str>,
}

/// A line that is no command.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadLine {
    /// Its number, from 1.
    pub number: u32,
    /// What is wrong with it, in one line.
    pub why: String,
}

/// Reads a whole file. Empty lines and comments are left out, switches without an effect too.
///
/// # Errors
/// Every line that is no command; the file is not to be used.
pub fn parse(text: &[u8]) -> Result<Vec<Line>, Vec<BadLine>> {
    let (lines, bad): (Vec<_>, Vec<_>) = lines(text).partition(Result::is_ok);
    if bad.is_empty() {
        Ok(lines.into_iter().flatten().collect())
    } else {
        Err(bad.into_iter().filter_map(Result::err).collect())
    }
}

/// The lines of a file one after the other, as [`parse`] reads them: a file can have millions.
///
/// A byte order mark at the beginning, as some editors write it, says nothing here.
pub fn lines(text: &[u8]) -> impl Iterator<Item = Result<Line, BadLine>> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    (1..).zip(text.split(|byte| *byte == b'\n')).filter_map(|(number, line)| match one(line) {
        Ok((Command::Nothing, None)) => None,
        Ok((command, notice)) => Some(Ok(Line { number, command, notice })),
        Err(why) => Some(Err(BadLine { number, why })),
    })
}

fn one(line: &[u8]) -> Result<(Command, Option<&'static str>), String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > MAX_LINE {
        return Err(command::CommandError::TooLong.to_string());
    }
    // A comment may be in any encoding.
    let line = str::from_utf8(&line[..command::before_comment(line)])
        .map_err(|_| "not valid UTF-8".to_owned())?;
    if is_unset_server(line) {
        return Ok((
            Command::Nothing,
            Some("skipped: a server without an address, as the original writes one"),
        ));
    }
    command::parse_configuration(line).map(|command| (command, None))
}

/// The original writes `address (unknown address family 0` for a number that was never given an
/// address.
fn is_unset_server(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    words.next() == Some("server")
        && words
            .skip_while(|word| *word != "address")
            .nth(1)
            .is_some_and(|value| value.starts_with("(unknown"))
}

#[cfg(test)]
mod tests;
