//! Serving, until a signal or the exit command ends it, and what signals ask for.

#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::time::Instant;

use nix::sys::signal::Signal;
use pen_status::event::EventKind;

use crate::event_loop::job::Requester;
use crate::event_loop::{Phase, Supervisor};
use crate::kept::state::End;
use crate::log::Severity;
use crate::log::recent::Incident;
use crate::signals::{SignalRequest, Signals};

/// The reason why pen stops.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Signal(Signal),
    /// The exit command, with its requester.
    Command(Requester),
}

impl Supervisor {
    /// Serves until a signal or a command ends it. `deferred` are the signals that came earlier.
    pub(crate) fn run(&mut self, signals: &Signals, deferred: Vec<SignalRequest>) {
        self.phase = Phase::Serving;
        self.keep(End::Running);
        self.follow_names();
        self.announce(Instant::now());
        let mut stop = deferred.into_iter().find_map(|request| self.handle_signal(request));
        while stop.is_none() {
            // In this phase a turn cannot fail.
            let _ = self.turn(&[signals.as_fd()], None);
            while let Some(request) = signals.next() {
                stop = stop.or(self.handle_signal(request));
            }
            stop = stop.or(self.queue.ends().map(Stop::Command));
        }
        let why = match stop {
            Some(Stop::Signal(signal)) => format!("stopping on signal {signal}"),
            Some(Stop::Command(by)) => format!("stopping on the exit command, by {by}"),
            None => "stopping".into(),
        };
        let incident = Incident::of(EventKind::Stopping);
        match stop {
            Some(Stop::Command(by)) => self.tell_operator("exit", incident, by, Instant::now()),
            Some(Stop::Signal(signal)) => {
                let incident = incident.with("reason", signal.as_str());
                self.logger.event(Severity::Debug, incident, &why);
            }
            None => self.logger.event(Severity::Debug, incident, &why),
        }
        self.notify.stopping(&why, Instant::now());
        self.stop(signals);
    }

    /// Carries out the request of a signal. Returns the signal if it stops pen.
    fn handle_signal(&mut self, request: SignalRequest) -> Option<Stop> {
        match request {
            SignalRequest::Reopen => {
                self.notify.reloading("reading the configuration again", Instant::now());
                self.reopen_logs();
                self.queue.hang_up();
                self.work(Instant::now());
            }
            SignalRequest::Report => {
                self.queue.request_report();
                self.work(Instant::now());
            }
            SignalRequest::Upgrade { asker } => {
                let by = Requester::Signal { asker };
                // A process that waits sends its signal again and again. The last one may come when
                // the process has its answer.
                let has_answer =
                    asker.is_some() && self.answered.take_if(|last| Some(*last) == asker).is_some();
                let waits = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_by(by));
                if !has_answer && !waits {
                    self.queue.request_upgrade(asker);
                }
                self.work(Instant::now());
            }
            // Every turn of the loop reaps children.
            SignalRequest::Child => {}
            SignalRequest::Stop(signal) => return Some(Stop::Signal(signal)),
        }
        None
    }
}
