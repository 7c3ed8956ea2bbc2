//! The configuration file: one command per line.
//!
//! This module is pure: it turns text into commands. The caller applies the commands and opens the
//! files of `include`.

use crate::command;
use crate::command::{Command, MAX_LINE};

/// A line that is not empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileLine {
    /// Its number, from 1.
    pub number: u32,
    /// Its command; `None` only beside a notice.
    pub command: Option<Command>,
    /// A notice for the administrator about the line.
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

/// Parses a whole file. The result contains no empty lines, comments or switches without an effect.
///
/// # Errors
/// Every line that is not a command; the caller must not use the file.
pub fn parse(text: &[u8]) -> Result<Vec<FileLine>, Vec<BadLine>> {
    let (lines, bad): (Vec<_>, Vec<_>) = lines(text).partition(Result::is_ok);
    if bad.is_empty() {
        Ok(lines.into_iter().flatten().collect())
    } else {
        Err(bad.into_iter().filter_map(Result::err).collect())
    }
}

/// Parses the lines of a file one by one, as [`parse`] does, because a file can have millions of
/// lines.
///
/// Some editors write a byte order mark at the beginning; it is ignored.
pub fn lines(text: &[u8]) -> impl Iterator<Item = Result<FileLine, BadLine>> {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    (1..).zip(text.split(|byte| *byte == b'\n')).filter_map(|(number, line)| match one(line) {
        Ok((None, None)) => None,
        Ok((command, notice)) => Some(Ok(FileLine { number, command, notice })),
        Err(why) => Some(Err(BadLine { number, why })),
    })
}

fn one(line: &[u8]) -> Result<(Option<Command>, Option<&'static str>), String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > MAX_LINE {
        return Err(command::CommandError::TooLong.to_string());
    }
    // A comment may have any encoding.
    let line = str::from_utf8(&line[..command::before_comment(line)])
        .map_err(|_| "not valid UTF-8".to_owned())?;
    if is_unset_server(line) {
        return Ok((
            None,
            Some("skipped: a server without an address, as the original writes one"),
        ));
    }
    command::parse_configuration(line).map(|command| (command, None))
}

/// Whether the line is what the original writes for a server number without an address: `address
/// (unknown address family 0`.
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
