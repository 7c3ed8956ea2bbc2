//! pen: connects the command line, the supervisor and the worker.

#![forbid(unsafe_code)]

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use cli::Request;
use pen_ipc::text::error_text;
use pen_supervisor::{Build, Entries, Succession};

fn main() -> ExitCode {
    run(Entries {
        relay: pen_worker::entry,
        control: pen_worker::control_entry,
        page: pen_worker::page_entry,
        checker: pen_worker::checker_entry,
        examine_tls: pen_worker::examine_tls,
        examine_server_tls: pen_worker::examine_server_tls,
        build: Build::OWN,
    })
}

/// Runs the command line. The tests pass entries of their own (tests/it/supervisor/fake_workers).
pub fn run(entries: Entries) -> ExitCode {
    match start(entries) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            why.lines().for_each(|line| say(line, true));
            ExitCode::FAILURE
        }
    }
}

fn start(entries: Entries) -> Result<(), String> {
    // Before anything else: another pen may have executed this one to take over.
    if let Some(succession) = Succession::find() {
        return succession.run(entries).map_err(|why| why.to_string());
    }
    match cli::parse(std::env::args_os().skip(1)).map_err(|why| why.to_string())? {
        Request::Show(text) => print(&text),
        Request::Upgrade(pid_file) => {
            let answer = pen_supervisor::upgrade(&pid_file).map_err(|why| why.to_string())?;
            // The status must not say that the old program goes on (pen(8), EXIT STATUS).
            print(&format!("{answer}\n"))
                .unwrap_or_else(|why| say(&format!("{why}; {answer}"), true));
            Ok(())
        }
        Request::Run(launch, notices) => {
            notices.iter().for_each(|notice| say(notice, false));
            pen_supervisor::run(*launch, entries).map_err(|why| why.to_string())
        }
    }
}

fn print(text: &str) -> Result<(), String> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| format!("standard output: {}", error_text(&error)))
}

/// Prints a line for the administrator. If standard error is closed or full, the line is lost.
fn say(line: &str, is_error: bool) {
    let _ = writeln!(io::stderr(), "{}", pen_supervisor::line_for_stderr(line, is_error));
}
