//! Names over time: the names of servers are looked up again and again, off the queue of commands.
//! What a round of lookups finds is put in force by a job of that queue, because a command under
//! way has settings that it computed before.
//!
//! `schedule` says when a round begins, and `round` is one under way. What other addresses mean for
//! servers and for those who use them is in `moves` beside this folder, and what is known of each
//! name in [`crate::lookups`].

#![forbid(unsafe_code)]

mod round;
mod schedule;

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use pen_config::checks::ServersFrom;
use pen_config::followed::answered;
use pen_config::ids::Target;
use pen_config::names::Names;
use pen_config::settings::Settings;
use pen_ipc::text::error_text;
use pen_status::event::EventKind;
use rustix::rand::{GetRandomFlags, getrandom};
use time::OffsetDateTime;

use crate::event_loop::Supervisor;
use crate::event_loop::job::Progress;
use crate::event_loop::names::round::{Answers, Round};
use crate::event_loop::names::schedule::{First, Schedule};
use crate::event_loop::reload::stages::{ReloadStage, Success};
use crate::former_marks::FormerMarks;
use crate::helpers::resolve::{Answered, Question};
use crate::jail::Jail;
use crate::jail::user;
use crate::log::Severity;
use crate::log::recent::Incident;
use crate::lookups::{CarriedLookups, Lookups, News};
use crate::processes::ports::control::ControlReply;

/// The names of servers, and their lookups.
#[derive(Debug, Default)]
pub(crate) struct NamesOverTime {
    pub(crate) known: Lookups,
    schedule: Schedule,
    round: Option<Round>,
    /// The answers of the last round, until the job that puts them in force.
    answers: Option<Answers>,
    /// The marks of servers before they moved.
    pub(in crate::event_loop) former: FormerMarks,
}

impl NamesOverTime {
    /// Goes on with what an earlier program knew.
    pub(crate) fn adopted(
        carried: CarriedLookups,
        former: FormerMarks,
        settings: &Settings,
    ) -> NamesOverTime {
        let known = Lookups::adopted(carried, settings, unix());
        let schedule = Schedule::new(First::Soon);
        NamesOverTime { known, schedule, former, ..NamesOverTime::default() }
    }

    /// The descriptors to poll for reading.
    pub(in crate::event_loop) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.round.iter().flat_map(|round| round.asking.descriptors())
    }

    /// When the loop needs a turn even if nothing happens. `may_begin`: a round may begin now.
    pub(in crate::event_loop) fn deadline(&self, may_begin: bool) -> Option<Instant> {
        match &self.round {
            Some(round) => Some(round.asking.deadline()),
            None => self.due().filter(|_| may_begin),
        }
    }

    /// When the next round begins; none while the answers of the last one wait.
    fn due(&self) -> Option<Instant> {
        self.schedule.due().filter(|_| self.answers.is_none())
    }

    /// Notes that a command or the file has looked up these names.
    pub(in crate::event_loop) fn supersede(&mut self, names: &Names) {
        self.round.iter_mut().for_each(|round| round.supersede(names));
        self.answers.iter_mut().for_each(|answers| answers.supersede(names));
    }
}

impl Supervisor {
    /// Looks up the names of the settings in force from now on.
    pub(in crate::event_loop) fn follow_names(&mut self) {
        let settings = &self.context.settings;
        self.names.known.follow(settings, unix());
        let has_rounds = settings.resolve > 0 && self.names.known.has_names();
        let every = Duration::from_secs(settings.resolve.into());
        let waits = |from: &ServersFrom| !settings.answered.contains_key(&from.name);
        let every = match settings.servers_from.iter().any(waits) {
            true => every.min(WAITING),
            false => every,
        };
        let every = has_rounds.then_some(every);
        self.names.schedule.follow(every, Instant::now(), random());
    }

    /// Continues the round under way, and begins the next one when it is due: not while another
    /// program is rehearsed, which begins with a round of its own.
    pub(in crate::event_loop) fn work_on_names(&mut self, now: Instant) {
        if let Some(round) = &mut self.names.round {
            let (outcomes, began) = (round.read(now), round.began);
            if let Some(outcomes) = outcomes {
                self.names.round = None;
                self.names.schedule.end(began, now, random());
                self.take_outcomes(outcomes);
            }
        }
        // With another time between rounds, the next one can be due before this one is over.
        let may_begin = self.upgrade.is_none() && self.names.round.is_none();
        if may_begin && self.names.due().is_some_and(|due| due <= now) {
            self.begin_round(now);
        }
    }

    fn begin_round(&mut self, now: Instant) {
        let questions = self.names.known.questions();
        if questions.is_empty() {
            return self.names.schedule.begin();
        }
        match Round::begin(questions.clone(), &self.resolver_jail(), now) {
            Ok(round) => {
                self.names.schedule.begin();
                self.names.round = Some(round);
            }
            Err(reason) => {
                self.names.schedule.end(now, now, random());
                let failed = |question| (question, Answered::Failed(reason.clone()));
                self.take_outcomes(questions.into_iter().map(failed).collect());
            }
        }
    }

    /// The jail of resolvers.
    pub(in crate::event_loop) fn resolver_jail(&self) -> Jail {
        let Jail { identity, sandbox, .. } = &self.context.jail;
        Jail { root: None, identity: user::of_resolver(identity), sandbox: sandbox.clone() }
    }

    /// Ends the round under way, if there is one; the next one is due soon.
    pub(in crate::event_loop) fn stop_round(&mut self) {
        // The drop kills its children. They are no business of the queue, which refuses commands
        // while many children of its own do not end.
        if self.names.round.take().is_some() {
            self.names.schedule.soon(Instant::now(), random());
        }
    }

    /// Notes what became of names, tells what is new, and has the answers put in force.
    fn take_outcomes(&mut self, outcomes: Vec<(Question, Answered)>) {
        let (mut answers, unix) = (Answers::default(), unix());
        for (question, answered) in outcomes {
            let outcome = match &answered {
                Answered::Found(_) => Ok(()),
                Answered::Failed(reason) => Err(reason.as_str()),
                // It is first in the next round.
                Answered::NotReached => continue,
            };
            let news = self.names.known.take(&question, outcome, unix);
            if let Some(news) = news {
                self.tell_lookup(&question, news, outcome.err());
            }
            if let Answered::Found(answer) = answered {
                answers.add(question, answer);
            }
        }
        if !answers.is_empty() {
            self.names.answers = Some(answers);
            self.queue.move_servers();
        }
    }

    fn tell_lookup(&mut self, question: &Question, news: News, reason: Option<&str>) {
        let name = question.word();
        let (severity, kind, line) = match news {
            News::Fails => {
                let why = reason.unwrap_or_default();
                let line = format!("cannot resolve {name}: {why}; its servers stay where they are");
                (Severity::Warning, EventKind::LookupFailed, line)
            }
            News::Works => {
                (Severity::Notice, EventKind::LookupWorks, format!("{name} is resolved again"))
            }
        };
        let incident =
            Incident::of(kind).with("name", name).with_if("reason", reason.map(str::to_owned));
        self.logger.event(severity, incident, &line);
    }

    /// Puts the answers of the last round in force.
    pub(in crate::event_loop) fn take_answers(&mut self, now: Instant) -> Progress<ReloadStage> {
        let done = || Progress::Done(ControlReply::none());
        let Some(answers) = self.names.answers.take() else { return done() };
        let Some(settings) = self.settings_after(&answers) else { return done() };
        match self.publish_moved(settings) {
            Ok(moves) => {
                let none = ControlReply::none();
                self.settling(moves, Vec::new(), none, Success::Nothing, now)
            }
            // The next round finds the same.
            Err(error) => {
                let error = error_text(&error);
                self.logger.warning(&format!("names: the settings cannot be sent: {error}"));
                done()
            }
        }
    }

    /// The settings in force with the addresses that were found; none if nothing changes.
    fn settings_after(&self, answers: &Answers) -> Option<Settings> {
        let (settings, table) = (&self.context.settings, &self.context.table);
        let in_use =
            |target: Target| table.server_totals(target.row(settings.table_size())).address;
        let moved: Vec<_> = settings
            .named()
            .filter_map(|(target, server, name)| {
                Some((target, server.moved(answers.host(&name)?, in_use(target))?))
            })
            .collect();
        let mut after = settings.clone();
        for (target, server) in moved {
            if let Some(present) = after.target_mut(target) {
                *present = server;
            }
        }
        // A port without an answer is asked for again with the records.
        let _ = answered(&mut after, answers.names(), |server| self.connections_of(server));
        (after != *settings).then_some(after)
    }
}

/// The longest time between rounds while servers follow a name that had no answer yet.
const WAITING: Duration = Duration::from_secs(5);

/// A random word; 0 if the kernel has none yet.
fn random() -> u64 {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::NONBLOCK) {
        Ok(_) | Err(_) => u64::from_ne_bytes(bytes),
    }
}

fn unix() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
