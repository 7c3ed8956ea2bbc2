//! penctl: sends a command to the control port of a running pen and prints the reply.
//!
//! It makes one connection per command. It runs as the user who calls it, and shares only command
//! words with pen. `place` is the address of the port, `talk` sends one command and receives its
//! reply. `table` prints the reply to `servers` as a table, and `columns` fits it to the terminal.
//! `lines` reads commands from standard input, with a prompt on a terminal.

#![forbid(unsafe_code)]

mod columns;
mod lines;
mod place;
mod table;
mod talk;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use pen_ipc::message::Outcome;
use socket2::SockAddr;

use columns::Width;
use place::Place;
use table::Paint;
use talk::plain;

const USAGE: &str = "usage: penctl [--json] [host:]port|/path [command [word ...]]";

const HELP: &str = "\
usage: penctl [--json] [host:]port|/path [command [word ...]]

Sends a command to the control port (-C) of a running pen and prints its reply;
the command help lists the commands. A port alone is one of 127.0.0.1.
Without a command, commands are read from standard input, one a line; on a
terminal, with a prompt, which help, exit and quit understand too.

On a terminal, servers is a table as wide as that, in colours unless NO_COLOR is
set; elsewhere it has one line of words for each server, for scripts.

  --json       servers, status, recent, certificates and mode reply in JSON,
               as overview always does
  --help       this text
  --version    the version

The status is 0 if the command was carried out, 1 if there was no reply, and 2
if the reply says that it was not carried out.
";

/// Commands that have a JSON form.
const JSON: [&[u8]; 5] = [b"servers", b"status", b"recent", b"certificates", b"mode"];

/// The command that replies only in JSON.
const JSON_ALONE: &[u8] = b"overview";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(2),
        Err(why) => {
            // If standard error is closed or full, the error cannot be shown anywhere.
            let _ = writeln!(io::stderr(), "{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut words: Vec<OsString>) -> Result<Outcome, String> {
    let json = words.first().is_some_and(|word| word == "--json");
    if json {
        words.remove(0);
    }
    let form = if json { OutputForm::Json } else { OutputForm::AsSaid };
    let Some(first) = words.first() else { return Err(USAGE.to_owned()) };
    if first == "--help" || first == "--version" {
        let text = if first == "--help" {
            HELP
        } else {
            concat!("penctl ", env!("CARGO_PKG_VERSION"), "\n")
        };
        return print(text.as_bytes()).map(|()| Outcome::Done);
    }
    if first.as_bytes().starts_with(b"-") && !first.as_bytes().contains(&b'/') {
        return Err(format!(
            "unknown option '{}'; {USAGE}",
            first.to_string_lossy().escape_debug()
        ));
    }
    let place = Place::read(first)?;
    if let Some(word) = words[1..]
        .iter()
        .find(|word| word.as_bytes().iter().any(|byte| matches!(byte, b'\n' | b'\r')))
    {
        let word = word.to_string_lossy();
        return Err(format!(
            "'{}': a line's end in an argument; several commands go to standard input",
            word.escape_debug()
        ));
    }
    if words.len() > 1 {
        let command = words[1..].join(OsStr::new(" ")).into_vec();
        return say(&place.sockets()?, command, form);
    }
    let stdin = io::stdin();
    match stdin.is_terminal() {
        true => lines::converse(&place, form, stdin.lock()).map(|()| Outcome::Done),
        false => lines::obey(&place, form, stdin.lock())?.ok_or_else(|| USAGE.to_owned()),
    }
}

/// The format of replies.
#[derive(Clone, Copy, Debug)]
enum OutputForm {
    /// The format that the command asks for.
    AsSaid,
    /// JSON.
    Json,
}

/// The servers as a table. `None`: this pen does not report all values that the table needs.
fn servers(sockets: &[SockAddr]) -> Result<Option<String>, String> {
    let mut overview = Vec::new();
    let mut take = |piece: &[u8]| {
        overview.extend_from_slice(piece);
        match overview.len() {
            0..=MOST_OVERVIEW => Ok(()),
            _ => Err("the reply is longer than any list of servers".to_owned()),
        }
    };
    Ok(match talk::ask(sockets, table::OVERVIEW, &mut take)? {
        Outcome::Done => table::render(&overview, Paint::wanted(), Width::of_terminal()),
        Outcome::Refused => None,
    })
}

/// Longest overview in bytes: far more than 32767 servers with the longest names need.
const MOST_OVERVIEW: usize = 64 << 20;

/// Sends one command and prints the reply.
fn say(sockets: &[SockAddr], command: Vec<u8>, form: OutputForm) -> Result<Outcome, String> {
    if matches!(form, OutputForm::AsSaid)
        && command.trim_ascii() == b"servers"
        && io::stdout().is_terminal()
        && let Some(table) = servers(sockets)?
    {
        return print(table.as_bytes()).map(|()| Outcome::Done);
    }
    let command = match form {
        OutputForm::AsSaid => command,
        OutputForm::Json => in_json(command)?,
    };
    talk::ask(sockets, &command, &mut print)
}

/// The command that asks for the same report in JSON.
fn in_json(command: Vec<u8>) -> Result<Vec<u8>, String> {
    let word =
        command.trim_ascii().split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
    if word == JSON_ALONE {
        return Ok(command);
    }
    if !JSON.contains(&word) {
        return Err(format!(
            "--json: only servers, status, recent, certificates and mode have a JSON form, not \
             '{}'",
            String::from_utf8_lossy(word).escape_debug()
        ));
    }
    Ok([command.trim_ascii_end(), b" json"].concat())
}

fn print(text: &[u8]) -> Result<(), String> {
    let mut out = io::stdout();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(|why| format!("standard output: {}", plain(&why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_reports_have_a_json_form() {
        assert_eq!(in_json(b"servers".to_vec()).unwrap(), b"servers json");
        assert_eq!(in_json(b" recent 60 ".to_vec()).unwrap(), b" recent 60 json");
        assert_eq!(in_json(b"overview".to_vec()).unwrap(), b"overview", "it has no other form");
        assert!(in_json(b"roundrobin".to_vec()).is_err() && in_json(b"".to_vec()).is_err());
    }
}
