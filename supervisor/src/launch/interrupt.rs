//! Interruption of a start: by TERM or INT, or by the end of the command that waits for it.
//!
//! Other signals wait until the service is ready.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};

use crate::StartError;
use crate::launch::background::StartLink;
use crate::signals::{SignalRequest, Signals};

/// The sources of interruption, and requests of other signals that can wait.
#[derive(Debug)]
pub(crate) struct Interrupts {
    signals: Signals,
    link: Option<StartLink>,
    deferred: Vec<SignalRequest>,
    is_interrupted: bool,
}

impl Interrupts {
    pub(crate) fn new(signals: Signals, link: Option<StartLink>) -> Interrupts {
        Interrupts { signals, link, deferred: Vec::new(), is_interrupted: false }
    }

    /// The descriptors to poll for reading before [`Interrupts::check`].
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.signals.as_fd()), self.link.as_ref().map(|link| link.as_fd())]
            .into_iter()
            .flatten()
    }

    /// Reads pending signals.
    ///
    /// # Errors
    /// The start is interrupted.
    pub(crate) fn check(&mut self) -> Result<(), StartError> {
        while let Some(request) = self.signals.next() {
            match request {
                SignalRequest::Stop(signal) => {
                    self.is_interrupted = true;
                    return Err(StartError(format!("the start was ended by signal {signal}")));
                }
                SignalRequest::Child => {}
                SignalRequest::Reopen | SignalRequest::Report | SignalRequest::Upgrade { .. }
                    if self.deferred.contains(&request) || self.deferred.len() >= MOST_DEFERRED => {
                }
                SignalRequest::Reopen | SignalRequest::Report | SignalRequest::Upgrade { .. } => {
                    self.deferred.push(request)
                }
            }
        }
        match &self.link {
            Some(link) if !link.is_watched() => {
                self.is_interrupted = true;
                Err(StartError("the start was given up by whoever ran it".into()))
            }
            _ => Ok(()),
        }
    }

    /// Whether the start was interrupted.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }

    /// The link to the command that waits, if there is one.
    pub(crate) fn link(&self) -> Option<&StartLink> {
        self.link.as_ref()
    }

    /// Ends the start: reports readiness, and returns the signals and the requests that came
    /// meanwhile.
    pub(crate) fn ready(self) -> (Signals, Vec<SignalRequest>) {
        if let Some(link) = self.link {
            link.ready();
        }
        (self.signals, self.deferred)
    }
}

/// Most requests that wait: one of each kind, and some upgrades by different processes.
const MOST_DEFERRED: usize = 16;
