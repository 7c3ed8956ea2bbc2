//! pen: connects the command line, the supervisor and the worker.

#![forbid(unsafe_code)]

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;

use cli::Request;
use pen_supervisor::Entries;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            why.lines().for_each(|line| say(line, true));
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    match cli::parse(std::env::args_os().skip(1)).map_err(|why| why.to_string())? {
        Request::Show(text) => {
            let mut out = io::stdout();
            out.write_all(text.as_bytes())
                .and_then(|()| out.flush())
                .map_err(|why| format!("standard output: {why}"))
        }
        Request::Run(launch, notices) => {
            notices.iter().for_each(|notice| say(notice, false));
            let entries = Entries {
                relay: pen_worker::entry,
                control: pen_worker::control_entry,
                examine_tls: pen_worker::examine_tls,
            };
            pen_supervisor::run(*launch, entries).map_err(|why| why.to_string())
        }
    }
}

/// Prints a line for the administrator. If standard error is closed or full, the line is lost.
fn say(line: &str, is_error: bool) {
    let _ = writeln!(io::stderr(), "{}", pen_supervisor::line_for_stderr(line, is_error));
}
