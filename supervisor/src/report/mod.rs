//! Reports: by signal (USR1), and as replies to commands.
//!
//! A child renders a report. A table of millions of clients, a slow disk under `-w` or a stopped
//! terminal only delays that child. Meanwhile the supervisor replaces workers and handles signals.

#![forbid(unsafe_code)]

mod gather;
mod history;
mod html;
mod json;
mod lists;
mod outcomes;
pub(crate) mod past;
mod rows;
mod snapshot;
pub(crate) mod status;
mod text;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use pen_config::command::Form;
use pen_config::settings::Settings;
use pen_ipc::tls_files::Fact;
use pen_status::Status;
use pen_table::Table;

use crate::files::status_file::{StatusFile, Writer};
use crate::helpers::render::Reporter;
use crate::log::Logger;
use crate::lookups::Lookups;
use crate::processes::spawn::SpawnContext;
pub(crate) use crate::report::gather::{Gathered, Gathering, TooMany};
use crate::report::snapshot::Snapshot;
use crate::verdicts::Checks;

/// The sink of a report about everything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ReportSink {
    /// The file of `-w`, or the log if there is none: for the signal USR1.
    Signal,
    /// The reply to an operator's `status`, in this form. A page goes into the file of `-w` too.
    Operator(Form),
}

/// A report about everything, whose data are gathered.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) sink: ReportSink,
    pub(crate) gathered: &'a Gathered,
    pub(crate) program: Program<'a>,
    pub(crate) context: &'a SpawnContext,
    /// The file of `-w`.
    pub(crate) file: Option<&'a StatusFile>,
    pub(crate) logger: &'a Logger,
}

impl Report<'_> {
    /// Forks a child that writes the report to its sink.
    ///
    /// # Errors
    /// No child can be forked now.
    pub(crate) fn render(&self, now: Instant) -> io::Result<Reporter> {
        let word = match self.sink {
            ReportSink::Signal => "a report cannot be made now",
            ReportSink::Operator(_) => "status",
        };
        // The other descriptors are closed. An inherited listener, above all, would keep the old
        // address in use after a move until the child ends.
        let keep: Vec<_> = self.file.and_then(StatusFile::descriptor).into_iter().collect();
        let user = self.context.jail.identity.uid;
        Reporter::begin(word, user, &keep, now, |reply, context| {
            self.write(reply, context.supervisor.as_raw().unsigned_abs())
        })
    }

    /// Runs in the child. The reply to a signal is a line for the log, or nothing.
    fn write(&self, reply: &mut dyn Write, supervisor: u32) -> io::Result<()> {
        let Report { sink, gathered, program, file, .. } = *self;
        let SpawnContext { settings, table, jail, .. } = self.context;
        let mut logger = self.logger.reopen();
        let writer = match sink {
            ReportSink::Signal => {
                logger.wait_longer();
                Writer::Report(supervisor)
            }
            ReportSink::Operator(_) => Writer::Command(supervisor),
        };
        jail.sandbox.enter_reporter()?;
        let sandbox = jail.sandbox.summary(jail.root.is_some());
        let snapshot = || Snapshot::take(gathered, &program, (settings, table), &sandbox);
        let mut write_page = |file: &StatusFile| {
            let page = file.put(writer, |to| html::render(snapshot(), to));
            if let Err(error) = page {
                logger.warning(&error.to_string());
            }
        };
        match (sink, file) {
            (ReportSink::Signal, Some(file)) => {
                write_page(file);
                Ok(())
            }
            (ReportSink::Signal, None) => {
                text::render(snapshot(), &mut logger);
                match logger.has_lost() {
                    true => writeln!(reply, "{LOST}"),
                    false => Ok(()),
                }
            }
            (ReportSink::Operator(Form::Plain), file) => {
                file.into_iter().for_each(write_page);
                html::render(snapshot(), reply)
            }
            (ReportSink::Operator(Form::Json), _) => json::status(snapshot(), reply),
        }
    }
}

/// The reply to `servers`.
pub(crate) fn servers(
    form: Form,
    settings: &Settings,
    table: &Table,
    checks: &Checks,
    lookups: &Lookups,
    to: &mut dyn Write,
) -> io::Result<()> {
    let rows = rows::servers(settings, table, checks, lookups);
    match form {
        Form::Plain => lists::servers(rows, to),
        Form::Json => json::servers(rows, to),
    }
}

/// The reply to `certificates`.
pub(crate) fn certificates(form: Form, facts: &[Fact], to: &mut dyn Write) -> io::Result<()> {
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    match form {
        Form::Plain => lists::certificates(facts, now, to),
        Form::Json => json::certificates(facts, now, to),
    }
}

/// Information about the program that only the supervisor has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program<'a> {
    /// The time since the start.
    pub(crate) uptime: Duration,
    /// The listen address as it was written.
    pub(crate) listen: &'a str,
    /// The number of workers.
    pub(crate) workers: usize,
    /// The version of the program.
    pub(crate) version: &'static str,
    /// What checks say of servers.
    pub(crate) checks: &'a Checks,
    /// What is known of the names of servers.
    pub(crate) lookups: &'a Lookups,
}

/// The reply to `overview`.
pub(crate) fn overview(status: &Status, to: &mut dyn Write) -> io::Result<()> {
    serde_json::to_writer(&mut *to, status)?;
    to.write_all(b"\n")
}

/// The reply to `recent`.
pub(crate) fn recent(
    seconds: u32,
    form: Form,
    settings: &Settings,
    table: &Table,
    to: &mut dyn Write,
) -> io::Result<()> {
    let rows = rows::clients(settings, table);
    match form {
        Form::Plain => lists::recent(rows, seconds, to),
        Form::Json => json::recent(rows, seconds, to),
    }
}

/// The line for a report that the log has not taken completely.
const LOST: &str = "the end of the report was lost: it has no reader, or too slow a one";
