//! penctl: sends a command to the control port of a running pen and prints the reply.
//!
//! It makes one connection per command. It runs as the user who calls it, and shares only command
//! words and the form of reports with pen. `arguments` reads the command line. `pens` are those
//! that a command goes to, and `address` is the address of one. `exchange` sends one command and
//! receives its reply. `overview` is the state that pen reports, `tables` show replies on a
//! terminal, and `text` has figures in words. `lines` reads commands from standard input, with a
//! prompt on a terminal. `drain` tells what an interrupted wait leaves behind, `watch` prints
//! events, and `top` is the live view.

#![forbid(unsafe_code)]

mod address;
mod arguments;
mod drain;
mod exchange;
mod lines;
mod overview;
mod pens;
mod tables;
mod text;
mod top;
mod watch;

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use pen_config::command::{Command, Query, help, parse};
use pen_ipc::message::Outcome;
use serde::de::IgnoredAny;

use arguments::{Arguments, OutputForm, Request, USAGE};
use drain::Wait;
use exchange::plain;
use pens::Pen;
use tables::{Paint, Width};

const HELP: &str = "\
usage: penctl [--json] [--timeout SECONDS] [host:]port|/path ...
              [command [word ...]]
       penctl help [command]

Sends a command to the control port (-C) of a running pen and prints its reply;
penctl help lists the commands. A port alone is one of 127.0.0.1.
Without a command, commands are read from standard input, one a line; on a
terminal, with a prompt, which help, exit and quit understand too.

Several addresses may be given, and patterns of sockets, as '/run/pen/*.ctl'.
Then a line with the address stands before each reply. They are asked one after
the other, but all at once to drain a server.

  top          a live view of one pen in the terminal; ? there lists its keys
  watch        prints what happens, until interrupted
  events [N]   prints the last N events

On a terminal, servers, recent, certificates and overview are tables as wide as
that, in colours unless NO_COLOR is set; elsewhere they have a fixed form, for
scripts.

  --json       servers, status, recent, certificates, mode, events and watch
               reply in JSON, as overview does if this is no terminal
  --timeout SECONDS
               how long to wait without any progress: 30, for upgrade 60, for
              drain 30 more than the command says
  --help       this text
  --version    the version

The status is 0 if the command was carried out, 1 if there was no reply, and 2
if the reply says that it was not carried out. Of several pens, the worst counts.
";

/// Commands that have a JSON form.
const JSON: [&[u8]; 7] =
    [b"servers", b"status", b"recent", b"certificates", b"mode", b"events", b"watch"];

/// The command that replies only in JSON.
const JSON_ALONE: &[u8] = b"overview";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Refused) => ExitCode::from(2),
        Err(error) => {
            // If standard error is closed or full, the error cannot be shown anywhere.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: Vec<OsString>) -> Result<Outcome, String> {
    let Arguments { form, timeout, addresses, words } = match Request::read(words)? {
        Request::Help => return print(HELP.as_bytes()).map(|()| Outcome::Done),
        Request::Version => {
            let version = concat!("penctl ", env!("CARGO_PKG_VERSION"), "\n");
            return print(version.as_bytes()).map(|()| Outcome::Done);
        }
        Request::CommandHelp(words) => return command_help(words),
        Request::Ask(arguments) => arguments,
    };
    let pens = pens::find(&addresses, timeout)?;
    match words.first() {
        Some(word) if word == "top" => top::run(&pens, form, &words[1..]),
        Some(_) => send(&pens, words.join(OsStr::new(" ")).into_vec(), form),
        None => {
            let stdin = io::stdin();
            match stdin.is_terminal() {
                true => lines::prompt(&pens, form, stdin.lock()).map(|()| Outcome::Done),
                false => lines::run(&pens, form, stdin.lock())?.ok_or_else(|| USAGE.to_owned()),
            }
        }
    }
}

/// The help of pen's commands, for which no pen is needed: this program's release has the text.
fn command_help(words: Vec<OsString>) -> Result<Outcome, String> {
    if words == ["top"] {
        return print(top::HELP.as_bytes()).map(|()| Outcome::Done);
    }
    let line = [OsString::from("help")].into_iter().chain(words).collect::<Vec<_>>();
    match parse(&line.join(OsStr::new(" ")).to_string_lossy()) {
        Ok(Some(Command::Query(Query::Help(word)))) => {
            let own = if word.is_none() { top::IN_LIST } else { "" };
            print((help(word.as_deref()) + own).as_bytes()).map(|()| Outcome::Done)
        }
        Ok(_) => Err(USAGE.to_owned()),
        Err(error) => print(format!("{error}\n").as_bytes()).map(|()| Outcome::Refused),
    }
}

/// Sends one command to each pen and prints the replies.
fn send(pens: &[Pen], command: Vec<u8>, form: OutputForm) -> Result<Outcome, String> {
    let command = match form {
        OutputForm::AsGiven => command,
        OutputForm::Json => in_json(command)?,
    };
    let words: Vec<&[u8]> =
        command.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let wait = Wait::begin(&command);
    match (&words[..], form, pens) {
        ([b"watch"], _, _) => watch::run(pens, form),
        ([b"watch", b"json"], _, _) => watch::run(pens, OutputForm::Json),
        (_, OutputForm::Json, [_, _, ..]) => as_one_document(pens, &command),
        (_, OutputForm::Json, _) => pens::each(pens, |pen| pen.ask(&command, &mut print)),
        (_, OutputForm::AsGiven, [_, _, ..]) if wait.is_some() => pens::all_at_once(pens, &command),
        (_, OutputForm::AsGiven, _) => pens::each(pens, |pen| reply(pen, &command)),
    }
}

/// Prints a pen's reply, as a table if standard output is a terminal and the reply has one.
fn reply(pen: &Pen, command: &[u8]) -> Result<Outcome, String> {
    if io::stdout().is_terminal()
        && let Some((asked, render)) = tables::table_for(command)
        && let (Outcome::Done, reply) = pen.ask_whole(&asked)?
        && let Some(table) = render(&reply, Paint::wanted(), Width::of_terminal())
    {
        return print(table.as_bytes()).map(|()| Outcome::Done);
    }
    // This pen does not report all values that the table needs, or there is none.
    pen.ask(command, &mut print)
}

/// Prints the replies of several pens as one JSON object, with a member for each. A pen that gives
/// no reply is null, and a reply that is no JSON is a text.
fn as_one_document(pens: &[Pen], command: &[u8]) -> Result<Outcome, String> {
    let mut all = Outcome::Done;
    let mut silent = 0;
    for (index, pen) in pens.iter().enumerate() {
        let value = match pen.ask_whole(command) {
            Ok((outcome, reply)) => {
                if let Outcome::Refused = outcome {
                    all = Outcome::Refused;
                }
                let reply = String::from_utf8_lossy(reply.trim_ascii()).into_owned();
                match serde_json::from_str::<IgnoredAny>(&reply) {
                    Ok(_) => reply,
                    Err(_) => serde_json::Value::from(reply).to_string(),
                }
            }
            Err(error) => {
                silent += 1;
                pens::complain(pen, &error);
                "null".to_owned()
            }
        };
        let begin = if index == 0 { "{" } else { "," };
        let name = serde_json::Value::from(pen.name.as_str());
        print(format!("{begin}\n{name}:{value}").as_bytes())?;
    }
    print(b"}\n")?;
    match silent {
        0 => Ok(all),
        _ => Err(format!("{silent} of {} gave no reply", pens.len())),
    }
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
            "--json: only servers, status, recent, certificates, mode, events and watch have a \
             JSON form, not '{}'",
            String::from_utf8_lossy(word).escape_debug()
        ));
    }
    Ok([command.trim_ascii_end(), b" json"].concat())
}

fn print(text: &[u8]) -> Result<(), String> {
    let mut out = io::stdout();
    out.write_all(text)
        .and_then(|()| out.flush())
        .map_err(|error| format!("standard output: {}", plain(&error)))
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
