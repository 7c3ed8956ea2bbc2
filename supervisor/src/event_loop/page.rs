//! The answers to the page process's question what pen is doing. A reporter makes each of them, as
//! it reads the table. There is one at a time, and hardly more than one a second, whatever the page
//! process asks for.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use pen_ipc::text::error_text;

use crate::event_loop::Supervisor;
use crate::event_loop::messages::refused;
use crate::files::memory;
use crate::helpers::render::{Rendered, Reporter};
use crate::log::Severity;
use crate::processes::ending::Ending;
use crate::processes::ports::kind::{PortKind, PortReport};
use crate::processes::ports::page::{Answer, PageKind, Question};
use crate::processes::spawn::SpawnContext;
use crate::report::status;

/// The question of the page process that is to be answered.
#[derive(Debug, Default)]
pub(in crate::event_loop) struct PageQuestion {
    /// The last one that no reporter answers yet, and who asks.
    asked: Option<(Pid, Question)>,
    /// The reporter at work, and for whom it works.
    reporter: Option<(Pid, Question, Reporter)>,
    /// When the next reporter may begin.
    next: Option<Instant>,
}

impl PageQuestion {
    /// The descriptor to poll for reading.
    pub(in crate::event_loop) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let (_, _, reporter) = self.reporter.as_ref()?;
        (!reporter.is_over()).then(|| reporter.pidfd())
    }

    /// When to go on even if nothing happens.
    pub(in crate::event_loop) fn deadline(&self) -> Option<Instant> {
        match &self.reporter {
            Some((_, _, reporter)) => reporter.deadline(),
            None => self.next.filter(|_| self.asked.is_some()),
        }
    }

    /// Whether a reporter is at work or begins in this turn.
    pub(in crate::event_loop) fn has_work(&self) -> bool {
        self.reporter.is_some() || self.asked.is_some() && self.next.is_none()
    }

    /// Has the question that was asked last answered now. A later one waits as usual.
    pub(in crate::event_loop) fn hurry(&mut self) {
        self.next = None;
    }

    /// If this reaped child was the reporter, notes its end.
    pub(in crate::event_loop) fn reaped(&mut self, child: Pid, ending: Ending) -> bool {
        self.reporter.as_mut().is_some_and(|(_, _, reporter)| reporter.reaped(child, ending))
    }

    /// Kills the reporter, which is still to be reaped.
    pub(in crate::event_loop) fn kill(&mut self) {
        self.asked = None;
        self.reporter.iter_mut().for_each(|(_, _, reporter)| reporter.kill());
    }

    /// Whether no reporter is to be reaped.
    pub(in crate::event_loop) fn is_reaped(&self) -> bool {
        self.reporter.as_ref().is_none_or(|(_, _, reporter)| reporter.is_over())
    }
}

impl Supervisor {
    /// Handles messages from the page process.
    pub(in crate::event_loop) fn handle_page_messages(&mut self, most: usize, now: Instant) {
        let Some(page) = &mut self.page else { return };
        let Some(pid) = page.pid() else { return };
        for report in page.read(most, now) {
            match report {
                PortReport::Ready => self.logger.debug("the page process is ready"),
                PortReport::Request(question) => self.page_question.asked = Some((pid, question)),
                PortReport::Refused { client, line } => {
                    self.logger.event(Severity::Warning, refused(client, PageKind::ACL), &line);
                }
            }
        }
    }

    /// Begins to answer a question, and sends the answer that is made.
    pub(in crate::event_loop) fn work_on_page(&mut self, now: Instant) {
        if let Some((pid, question, mut reporter)) = self.page_question.reporter.take() {
            reporter.expire(now);
            match reporter.finish() {
                Ok((_, rendered)) => self.answer_page(pid, question, answer(rendered)),
                Err(reporter) => {
                    self.page_question.reporter = Some((pid, question, reporter));
                    return;
                }
            }
        }
        if self.page_question.next.is_some_and(|next| next > now) {
            return;
        }
        let Some((pid, question)) = self.page_question.asked.take() else { return };
        self.page_question.next = Some(now + INTERVAL);
        match self.report_status(now) {
            Ok(reporter) => self.page_question.reporter = Some((pid, question, reporter)),
            Err(error) => {
                let why = format!("no report can be made now: {}", error_text(&error));
                self.answer_page(pid, question, Answer::None(why));
            }
        }
    }

    /// Forks a reporter that encodes the present status.
    fn report_status(&self, now: Instant) -> std::io::Result<Reporter> {
        let listen = self.state.local.to_string();
        let known = self.known(&listen, now);
        let SpawnContext { settings, table, jail, .. } = &self.context;
        let user = jail.identity.uid;
        let mut reporter = Reporter::begin("status", user, &[], now, |to, _| {
            jail.sandbox.enter_reporter()?;
            let status = status::take(known, settings, table);
            to.write_all(&pen_ipc::codec::encode_large(&status).map_err(std::io::Error::other)?)
        })?;
        reporter.limit(now + PATIENCE);
        Ok(reporter)
    }

    fn answer_page(&mut self, pid: Pid, question: Question, answer: Answer) {
        if let Some(page) = &mut self.page {
            page.answer(pid, question, answer);
        }
    }
}

/// The answer that a reporter made.
fn answer(rendered: Rendered) -> Answer {
    match rendered {
        Rendered::Done(status) => match memory::seal(status) {
            Ok(status) => Answer::Status(status),
            Err(error) => Answer::None(error_text(&error)),
        },
        Rendered::Refused(_) | Rendered::Failed => Answer::None("no report was made".into()),
        Rendered::Killed(signal) => {
            Answer::None(format!("the report was killed by signal {signal}"))
        }
        Rendered::Late => {
            Answer::None(format!("no report was made within {} s", PATIENCE.as_secs()))
        }
    }
}

/// Least time between the beginnings of two reporters. The page process asks at most once a second.
const INTERVAL: Duration = Duration::from_millis(900);

/// How long a reporter may take. The page process waits no longer.
const PATIENCE: Duration = Duration::from_secs(2);
