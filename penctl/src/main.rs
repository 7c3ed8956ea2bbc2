//! penctl: sends a command to the control port of a running pen and prints the reply.
//!
//! It makes one connection per command. It runs as the user who calls it, and shares only command
//! words and the form of reports with pen. `arguments` reads the command line. `places` are the
//! pens, and `address` the address of one. `talk` sends one command and receives its reply.
//! `overview` is the state that pen reports, `tables` show replies on a terminal, and `text` has
//! figures in words. `lines` reads commands from standard input, with a prompt on a terminal.
//! `drain` tells what an interrupted wait leaves behind, `watch` prints events, and `top` is the live view.

#![forbid(unsafe_code)]

mod address;
mod arguments;
mod drain;
mod lines;
mod overview;
mod places;
mod tables;
mod talk;
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
use places::Place;
use tables::{Paint, Width};
use talk::plain;

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
    let Arguments { form, patience, places, words } = match Request::read(words)? {
        Request::Help => return print(HELP.as_bytes()).map(|()| Outcome::Done),
        Request::Version => {
            let version = concat!("penctl ", env!("CARGO_PKG_VERSION"), "\n");
            return print(version.as_bytes()).map(|()| Outcome::Done);
        }
        Request::CommandHelp(words) => return command_help(words),
        Request::Talk(arguments) => arguments,
    };
    let places = places::find(&places, patience)?;
    match words.first() {
        Some(word) if word == "top" => top::run(&places, form, &words[1..]),
        Some(_) => send(&places, words.join(OsStr::new(" ")).into_vec(), form),
        None => {
            let stdin = io::stdin();
            match stdin.is_terminal() {
                true => lines::prompt(&places, form, stdin.lock()).map(|()| Outcome::Done),
                false => lines::run(&places, form, stdin.lock())?.ok_or_else(|| USAGE.to_owned()),
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

/// Longest reply in bytes that is shown as a table or put into one JSON document: far more than
/// 32767 servers with the longest names need.
const MOST_REPLY: usize = 64 << 20;

/// Sends one command to each pen and prints the replies.
fn send(places: &[Place], command: Vec<u8>, form: OutputForm) -> Result<Outcome, String> {
    let command = match form {
        OutputForm::AsGiven => command,
        OutputForm::Json => in_json(command)?,
    };
    let words: Vec<&[u8]> =
        command.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let wait = Wait::begin(&command);
    match (&words[..], form, places) {
        ([b"watch"], _, _) => watch::run(places, form),
        ([b"watch", b"json"], _, _) => watch::run(places, OutputForm::Json),
        (_, OutputForm::Json, [_, _, ..]) => as_one_document(places, &command),
        (_, OutputForm::Json, _) => places::each(places, |place| place.ask(&command, &mut print)),
        (_, OutputForm::AsGiven, [_, _, ..]) if wait.is_some() => {
            places::all_at_once(places, &command, MOST_REPLY)
        }
        (_, OutputForm::AsGiven, _) => places::each(places, |place| reply(place, &command)),
    }
}

/// Prints a pen's reply, as a table if standard output is a terminal and the reply has one.
fn reply(place: &Place, command: &[u8]) -> Result<Outcome, String> {
    if io::stdout().is_terminal()
        && let Some((asked, render)) = tables::table_for(command)
        && let (Outcome::Done, reply) = place.ask_whole(&asked, MOST_REPLY)?
        && let Some(table) = render(&reply, Paint::wanted(), Width::of_terminal())
    {
        return print(table.as_bytes()).map(|()| Outcome::Done);
    }
    // This pen does not report all values that the table needs, or there is none.
    place.ask(command, &mut print)
}

/// Prints the replies of several pens as one JSON object, with a member for each. A pen that gives
/// no reply is null, and a reply that is no JSON is a text.
fn as_one_document(places: &[Place], command: &[u8]) -> Result<Outcome, String> {
    let mut all = Outcome::Done;
    let mut silent = 0;
    for (index, place) in places.iter().enumerate() {
        let value = match place.ask_whole(command, MOST_REPLY) {
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
                places::complain(place, &error);
                "null".to_owned()
            }
        };
        let begin = if index == 0 { "{" } else { "," };
        let name = serde_json::Value::from(place.name.as_str());
        print(format!("{begin}\n{name}:{value}").as_bytes())?;
    }
    print(b"}\n")?;
    match silent {
        0 => Ok(all),
        _ => Err(format!("{silent} of {} gave no reply", places.len())),
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
