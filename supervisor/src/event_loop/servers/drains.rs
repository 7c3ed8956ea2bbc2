//! Operators who wait until a server has no connection left: `drain N [wait SECONDS] [close]`.
//!
//! The command puts the server in its state like any change of settings. Then it is no job of the
//! queue any more, so that other commands, reloads and upgrades go on while it waits.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use pen_config::checks::ServerMode;
use pen_config::command::{AfterDrain, ServerChange, Setting};
use pen_config::ids::{ServerId, Target};
use pen_config::settings::Server;
use pen_ipc::message::{ClosedServer, WITH_SERVER_ORDERS};
use pen_status::event::EventKind;

use crate::event_loop::Supervisor;
use crate::event_loop::job::{Progress, Requester};
use crate::event_loop::reload::configuration::Configuration;
use crate::event_loop::reload::stages::ReloadStage;
use crate::log::Severity;
use crate::log::recent::Incident;
use crate::processes::ports::control::{Control, ControlReply};

/// What an operator waits for.
#[derive(Clone, Copy, Debug)]
pub(in crate::event_loop) struct Drain {
    pub(in crate::event_loop) server: ServerId,
    /// The seconds to wait.
    pub(in crate::event_loop) wait: u32,
    /// What happens to the connections that are left then.
    pub(in crate::event_loop) close: AfterDrain,
}

/// The operators who wait, in the order of their commands: at most [`MOST`].
#[derive(Debug, Default)]
pub(in crate::event_loop) struct Drains {
    waiting: Vec<WaitingDrain>,
    /// When the servers are looked at again.
    next: Option<Instant>,
}

#[derive(Debug)]
struct WaitingDrain {
    by: Requester,
    drain: Drain,
    /// The epoch of the server at that number.
    epoch: u32,
    deadline: Instant,
    /// Why there is nothing to wait for any more.
    ended: Option<String>,
}

/// How a wait ends.
#[derive(Debug, Eq, PartialEq)]
enum Outcome {
    /// No connection is left.
    Drained,
    /// The time is over, and so many connections are left.
    Late(u64),
    /// There is nothing to wait for any more.
    Ended(String),
}

impl Drains {
    /// When the servers are looked at again, if anybody waits.
    pub(in crate::event_loop) fn due(&self) -> Option<Instant> {
        self.next
    }

    /// Whether somebody waits.
    pub(in crate::event_loop) fn has_some(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Ends all waits that the test meets, for a reason.
    fn end(&mut self, why: &str, of: impl Fn(&Drain) -> bool, now: Instant) {
        for waiting in self.waiting.iter_mut().filter(|waiting| of(&waiting.drain)) {
            waiting.ended.get_or_insert_with(|| why.to_owned());
            self.next = Some(now);
        }
    }

    /// Whether one more may wait, who ends the waits for the same server.
    fn has_room(&self, server: ServerId) -> bool {
        self.waiting.iter().filter(|waiting| waiting.drain.server != server).count() < MOST
    }

    fn add(&mut self, waiting: WaitingDrain, now: Instant) {
        self.waiting.push(waiting);
        self.next = Some(now);
    }

    /// Takes the first wait that is over.
    fn take_over(
        &mut self,
        outcome: impl Fn(&WaitingDrain) -> Option<Outcome>,
    ) -> Option<(WaitingDrain, Outcome)> {
        let mut each = self.waiting.iter().enumerate();
        let (index, outcome) =
            each.find_map(|(index, waiting)| Some((index, outcome(waiting)?)))?;
        Some((self.waiting.remove(index), outcome))
    }
}

impl Supervisor {
    /// Begins `drain`: the server gets no new clients. One in maintenance stays there, because it
    /// would get its old clients again.
    pub(in crate::event_loop) fn drain(
        &mut self,
        server: ServerId,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let Some(present) = self.context.settings.target(Target::Server(server)) else {
            let why = format!("drain: there is no server {server}");
            return Progress::Done(ControlReply::refusal(why));
        };
        if !self.drains.has_room(server) {
            let why = format!(
                "drain: not now: {MOST} operators wait for drains already; server {server} state \
                 drain does not wait"
            );
            return Progress::Done(ControlReply::refusal(why));
        }
        let mode = match present.mode {
            ServerMode::Ready | ServerMode::Drain => ServerMode::Drain,
            ServerMode::Maint => ServerMode::Maint,
        };
        let changes = vec![ServerChange::State(mode)];
        let setting = Setting::Server { number: server.0.into(), changes };
        self.look_up(Configuration::of_operator(setting, None), now)
    }

    /// Lets an operator wait until a server that gets no new clients has no connection left.
    pub(in crate::event_loop) fn await_drained<S>(
        &mut self,
        drain: Drain,
        by: Requester,
        now: Instant,
    ) -> Progress<S> {
        let Drain { server, wait, .. } = drain;
        let Some(at) = self.context.settings.target(Target::Server(server)) else {
            return Progress::Done(ControlReply::refusal(gone(server)));
        };
        let epoch = at.epoch;
        let again = format!("drain: another drain of server {server} has begun");
        self.drains.end(&again, |other| other.server == server, now);
        let deadline = now + Duration::from_secs(wait.into());
        self.drains.add(WaitingDrain { by, drain, epoch, deadline, ended: None }, now);
        Progress::Detached
    }

    /// Before an upgrade: the next program does not know who waits. The servers stay as they are.
    pub(in crate::event_loop) fn end_drains(&mut self, now: Instant) {
        let why = "drain: pen is being upgraded; the server gets no new clients all the same. Give \
                   the command again";
        self.drains.end(why, |_| true, now);
        self.work_on_drains(now);
    }

    /// Answers the operators whose wait is over.
    pub(in crate::event_loop) fn work_on_drains(&mut self, now: Instant) {
        if self.drains.next.is_none_or(|next| next > now) {
            return;
        }
        // The channel holds one reply at a time.
        while !self.control.as_ref().is_some_and(Control::has_pending_reply) {
            let Supervisor { drains, context, .. } = &mut *self;
            let (settings, table) = (&context.settings, &context.table);
            let over = drains.take_over(|waiting| {
                let target = Target::Server(waiting.drain.server);
                let row = target.row(settings.table_size());
                let connections = || table.server_totals(row).connections.into();
                waiting.outcome(settings.target(target), connections, now)
            });
            match over {
                Some((waiting, outcome)) => self.drain_ends(&waiting, outcome, now),
                None => break,
            }
        }
        self.drains.next = self.drains.has_some().then(|| now + EVERY);
    }

    fn drain_ends(&mut self, waiting: &WaitingDrain, outcome: Outcome, now: Instant) {
        let WaitingDrain { by, drain: Drain { server, close, .. }, .. } = *waiting;
        let target = Target::Server(server);
        let reply = match outcome {
            Outcome::Drained => {
                let place = self.context.settings.target(target).map(|server| server.place_at(0));
                let line = format!("server {server} has drained: it has no connection left");
                let incident = Incident::of(EventKind::ServerDrained)
                    .with("server", i64::from(server.0))
                    .with_if("address", place.map(|place| place.to_string()))
                    .with("by", by.to_string());
                self.logger.event(Severity::Notice, incident, &line);
                ControlReply::line("drained")
            }
            Outcome::Late(left) => {
                let plural = if left == 1 { "" } else { "s" };
                let mut line = format!("drain: {left} connection{plural} left");
                match close {
                    AfterDrain::Keep => {}
                    AfterDrain::Close => {
                        let incident = Incident::of(EventKind::Operator)
                            .with("server", i64::from(server.0))
                            .with("connections", i64::try_from(left).unwrap_or(i64::MAX));
                        let what = format!("drain {server}: {left} connection{plural} closed");
                        self.tell_operator(&what, incident, by, now);
                        self.close_server(target, ClosedServer::Drained);
                        line += ", closed now";
                        let mut old = self.old.workers();
                        if old.any(|worker| worker.origin.lasting < WITH_SERVER_ORDERS) {
                            line += "; workers of an earlier release keep theirs";
                        }
                    }
                }
                ControlReply::refusal(line)
            }
            Outcome::Ended(why) => ControlReply::refusal(why),
        };
        self.conclude(by, reply);
    }
}

impl WaitingDrain {
    /// How this wait ends, if it does: `server` is the one that has the number now.
    fn outcome(
        &self,
        server: Option<&Server>,
        connections: impl Fn() -> u64,
        now: Instant,
    ) -> Option<Outcome> {
        let number = self.drain.server;
        let ended = match (&self.ended, server) {
            (Some(why), _) => Some(why.clone()),
            (None, Some(server)) if server.epoch == self.epoch => match server.mode_in_effect() {
                ServerMode::Drain | ServerMode::Maint => None,
                ServerMode::Ready => {
                    Some(format!("drain: server {number} gets new clients again (state ready)"))
                }
            },
            (None, Some(_) | None) => Some(gone(number)),
        };
        match (ended, connections()) {
            (Some(why), _) => Some(Outcome::Ended(why)),
            (None, 0) => Some(Outcome::Drained),
            (None, left) => (now >= self.deadline).then_some(Outcome::Late(left)),
        }
    }
}

fn gone(server: ServerId) -> String {
    format!("drain: server {server} is gone, or another one has its number")
}

/// Most operators who wait. The control process has 64 operators at once, and others must not be
/// turned away by those who wait for hours.
const MOST: usize = 48;

/// How often the connections are counted while an operator waits.
const EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use pen_config::address::Address;

    use super::*;

    fn waiting(wait: u32, server: u16, epoch: u32) -> WaitingDrain {
        let drain = Drain { server: ServerId(server), wait, close: AfterDrain::Keep };
        let deadline = Instant::now() + Duration::from_secs(wait.into());
        WaitingDrain { by: Requester::Hangup, drain, epoch, deadline, ended: None }
    }

    fn server(port: u16, mode: ServerMode) -> Server {
        Server { mode, ..Server::at(Address::Inet(([10, 0, 0, 1], port).into())) }
    }

    #[test]
    fn a_wait_ends_with_the_last_connection_the_time_or_the_state() {
        let drains = server(1, ServerMode::Drain);
        let other = Server { epoch: 1, ..server(1, ServerMode::Drain) };
        let (maint, ready) = (server(1, ServerMode::Maint), server(1, ServerMode::Ready));
        let elsewhere = server(2, ServerMode::Drain);
        let waits = waiting(60, 0, 0);
        let at = |server: Option<&Server>, connections: u64, later| {
            waits.outcome(server, || connections, Instant::now() + Duration::from_secs(later))
        };
        assert_eq!(at(Some(&drains), 3, 0), None);
        assert_eq!(at(Some(&elsewhere), 3, 0), None);
        assert_eq!(at(Some(&drains), 0, 0), Some(Outcome::Drained));
        assert_eq!(at(Some(&drains), 3, 61), Some(Outcome::Late(3)));
        assert_eq!(at(Some(&maint), 3, 0), None);
        let ends = |server: Option<&Server>| match at(server, 3, 0) {
            Some(Outcome::Ended(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(ends(Some(&ready)).ends_with("again (state ready)"));
        assert!(ends(Some(&other)).contains("server 0 is gone"));
        assert!(ends(None).contains("server 0 is gone"));
    }

    #[test]
    fn so_many_wait_and_no_more() {
        let now = Instant::now();
        let mut drains = Drains::default();
        for server in 0..48 {
            assert!(drains.has_room(ServerId(48)), "{server}");
            drains.add(waiting(60, server, 1), now);
        }
        assert!(!drains.has_room(ServerId(48)));
        assert!(drains.has_room(ServerId(7)), "it ends the wait for the same server");
    }

    #[test]
    fn another_drain_of_the_server_ends_the_first_wait_and_no_other() {
        let now = Instant::now();
        let mut drains = Drains::default();
        assert_eq!((drains.due(), drains.has_some()), (None, false));
        drains.add(waiting(60, 0, 1), now);
        drains.add(waiting(60, 1, 1), now);
        drains.end("again", |drain| drain.server == ServerId(0), now);
        let (over, _) =
            drains.take_over(|waiting| waiting.ended.clone().map(Outcome::Ended)).unwrap();
        assert_eq!(over.drain.server, ServerId(0));
        assert!(drains.take_over(|waiting| waiting.ended.clone().map(Outcome::Ended)).is_none());
        assert!(drains.has_some() && drains.due() == Some(now));
    }
}
