//! What a query waits for: an explanation, the reports of workers, or a reporter.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::unistd::Pid;
use pen_config::ids::WorkerId;
use pen_ipc::message::ReportPage;

use crate::event_loop::Supervisor;
use crate::event_loop::job::Progress;
use crate::helpers::render;
use crate::helpers::render::{Rendered, Reporter};
use crate::log::printable::printable;
use crate::processes::ending::Ending;
use crate::processes::ports::control::ControlReply;
use crate::report::{Gathering, ReportSink, TooMany};

/// What a query waits for.
#[derive(Debug)]
pub(in crate::event_loop::commands) enum QueryStage {
    /// An explanation from a worker.
    Explaining(Explaining),
    /// The reports of workers.
    Gathering(Gathering, ReportRequest),
    /// A reporter.
    Rendering(Reporter),
}

/// A question to a worker: which server would a client get?
#[derive(Debug)]
pub(in crate::event_loop::commands) struct Explaining {
    pub(in crate::event_loop::commands) worker: WorkerId,
    pub(in crate::event_loop::commands) serial: u32,
    pub(in crate::event_loop::commands) deadline: Instant,
    pub(in crate::event_loop::commands) answer: Option<ControlReply>,
}

/// The purpose of reports that workers are asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::event_loop::commands) enum ReportRequest {
    /// A report about everything.
    Status(ReportSink),
    /// One connection.
    Connection(u32),
    /// The number of idlers.
    Idlers,
}

impl QueryStage {
    /// A worker died.
    pub(in crate::event_loop::commands) fn forget(&mut self, worker: WorkerId) {
        match self {
            QueryStage::Gathering(gathering, _) => gathering.forget(worker),
            QueryStage::Explaining(explaining) if explaining.worker == worker => {
                let ended = "explain: the worker that was asked has ended; ask again";
                explaining.answer.get_or_insert_with(|| ControlReply::refusal(ended));
            }
            QueryStage::Explaining(_) | QueryStage::Rendering(_) => {}
        }
    }

    /// Takes a page of a report.
    ///
    /// # Errors
    /// The worker reports more connections than `most`.
    pub(in crate::event_loop::commands) fn page(
        &mut self,
        worker: WorkerId,
        page: &ReportPage,
        most: usize,
    ) -> Result<(), TooMany> {
        match self {
            QueryStage::Gathering(gathering, _) => gathering.page(worker, page, most),
            QueryStage::Explaining(_) | QueryStage::Rendering(_) => Ok(()),
        }
    }

    /// Takes an explanation from a worker.
    pub(in crate::event_loop::commands) fn explained(
        &mut self,
        worker: WorkerId,
        serial: u32,
        text: &str,
    ) {
        if let QueryStage::Explaining(explaining) = self
            && (explaining.worker, explaining.serial) == (worker, serial)
        {
            explaining.answer = Some(ControlReply::text(text.into()));
        }
    }

    /// Whether this reaped child was the reporter; notes its end.
    pub(in crate::event_loop::commands) fn reaped(&mut self, child: Pid, ending: Ending) -> bool {
        match self {
            QueryStage::Rendering(reporter) => reporter.reaped(child, ending),
            QueryStage::Explaining(_) | QueryStage::Gathering(_, _) => false,
        }
    }

    /// Kills the reporter, if there is one.
    pub(in crate::event_loop::commands) fn kill(&mut self) {
        match self {
            QueryStage::Rendering(reporter) => reporter.kill(),
            QueryStage::Explaining(_) | QueryStage::Gathering(_, _) => {}
        }
    }

    /// Whether there is a reporter that is still to be reaped.
    pub(in crate::event_loop::commands) fn is_rendering(&self) -> bool {
        match self {
            QueryStage::Rendering(reporter) => !reporter.is_over(),
            QueryStage::Explaining(_) | QueryStage::Gathering(_, _) => false,
        }
    }

    /// The descriptor to poll for reading. A reaped reporter has none: its pidfd stays readable.
    pub(in crate::event_loop::commands) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            QueryStage::Rendering(reporter) => (!reporter.is_over()).then(|| reporter.pidfd()),
            QueryStage::Explaining(_) | QueryStage::Gathering(_, _) => None,
        }
    }

    /// When to continue even if nothing happens.
    pub(in crate::event_loop::commands) fn deadline(&self) -> Option<Instant> {
        match self {
            QueryStage::Rendering(reporter) => reporter.deadline(),
            QueryStage::Explaining(explaining) => Some(explaining.deadline),
            QueryStage::Gathering(gathering, _) => Some(gathering.deadline()),
        }
    }
}

impl Supervisor {
    /// Continues a query, if what it waits for has happened.
    pub(in crate::event_loop::commands) fn advance_query(
        &mut self,
        stage: QueryStage,
        now: Instant,
    ) -> Progress<QueryStage> {
        match stage {
            QueryStage::Explaining(explaining) => match explaining.answer {
                Some(reply) => Progress::Done(reply),
                None if now >= explaining.deadline => Progress::Done(ControlReply::refusal(
                    format!("explain: worker {} does not answer", explaining.worker),
                )),
                None => Progress::Wait(QueryStage::Explaining(explaining)),
            },
            QueryStage::Gathering(gathering, wanted) => match gathering.is_over(now) {
                true => {
                    let old_workers = self.old.summaries(&self.context.table, now);
                    let gathered = gathering.finish(&self.totals(), old_workers);
                    self.gathered(&gathered, wanted, now)
                }
                false => Progress::Wait(QueryStage::Gathering(gathering, wanted)),
            },
            QueryStage::Rendering(mut reporter) => {
                reporter.expire(now);
                match reporter.finish() {
                    Ok((word, rendered)) => Progress::Done(rendered.into_reply(word)),
                    Err(reporter) => Progress::Wait(QueryStage::Rendering(reporter)),
                }
            }
        }
    }

    /// Continues the report by signal. Nobody waits for it, so failures are logged.
    pub(in crate::event_loop::commands) fn advance_report(
        &mut self,
        stage: QueryStage,
        now: Instant,
    ) -> Progress<QueryStage> {
        let mut reporter = match stage {
            QueryStage::Rendering(reporter) => reporter,
            QueryStage::Explaining(_) | QueryStage::Gathering(_, _) => {
                return self.advance_query(stage, now);
            }
        };
        let expired = reporter.expire(now);
        match reporter.finish() {
            Ok((_, rendered)) => {
                line_for_log(rendered).iter().for_each(|line| self.logger.warning(line));
                Progress::Done(ControlReply::none())
            }
            Err(reporter) => {
                if expired {
                    let seconds = render::PATIENCE.as_secs();
                    let line = format!("the report was not finished within {seconds} s");
                    self.logger.warning(&line);
                }
                Progress::Wait(QueryStage::Rendering(reporter))
            }
        }
    }
}

/// The line for the log after a report by signal: what the child wrote beside the report, or why
/// there is none. Lateness was logged when the deadline passed.
fn line_for_log(rendered: Rendered) -> Option<String> {
    match rendered {
        Rendered::Done(memory) | Rendered::Refused(memory) => {
            let text = pen_ipc::memory::read(&memory, LONGEST_LINE).ok()?;
            let line = String::from_utf8_lossy(&text).trim_end().to_owned();
            (!line.is_empty()).then(|| printable(&line))
        }
        Rendered::Killed(signal) => {
            Some(format!("the report was not finished: killed by signal {signal}"))
        }
        Rendered::Failed => Some("the report was not finished".to_owned()),
        Rendered::Late => None,
    }
}

/// The most bytes of a line for the log.
const LONGEST_LINE: usize = 4096;
