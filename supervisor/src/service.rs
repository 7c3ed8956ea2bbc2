//! The supervisor's event loop: signals, messages, deaths, replacements, reports and commands.
//!
//! `desk` carries out commands one at a time, `change` is what they change. One thread, poll(2), nothing that waits for a worker. poll and not epoll, because an epoll set would be shared with every
//! child that is forked.

#![forbid(unsafe_code)]

mod change;
mod desk;
mod query;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pen_contract::command::LogTarget;
use pen_contract::ids::WorkerId;

use self::desk::Desk;
use crate::StartError;
use crate::control::{Control, ControlNews};
use crate::crew::{Crew, Death};
use crate::events;
use crate::flood::Admission;
use crate::inheritance::Inheritance;
use crate::interrupt::Interrupts;
use crate::log_file;
use crate::patience::until;
use crate::report::Reporter;
use crate::say::Say;
use crate::signals::{Request, Signals};
use crate::standing::Standing;
use crate::why::why;
use crate::workers::News;

/// The running pen.
#[derive(Debug)]
pub(crate) struct Service {
    standing: Standing,
    inheritance: Inheritance,
    crew: Crew,
    /// With `-C`.
    control: Option<Control>,
    reporter: Reporter,
    desk: Desk,
    say: Say,
    phase: Phase,
}

/// Why serving ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stop {
    Signal(Signal),
    Command,
}

/// What the death of a worker means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// The start has failed, unless the worker had been ready.
    Starting,
    /// The worker is to be replaced.
    Serving,
    /// It is one less to wait for.
    Stopping,
}

impl Service {
    pub(crate) fn new(
        standing: Standing,
        inheritance: Inheritance,
        workers: u8,
        control: Option<Control>,
        say: Say,
    ) -> Service {
        let (crew, reporter, desk) = (Crew::new(workers), Reporter::new(), Desk::default());
        Service { standing, inheritance, crew, control, reporter, desk, say, phase: Phase::Starting }
    }

    /// Forks the workers and waits until all are ready, and then the control process.
    ///
    /// # Errors
    /// A process cannot be forked, jailed or readied, or the start is interrupted. All are gone then.
    pub(crate) fn start(&mut self, interrupts: &mut Interrupts) -> Result<(), StartError> {
        let now = Instant::now();
        for id in self.crew.ids() {
            let cannot = |error| StartError(format!("cannot start worker {id}: {}", why(&error)));
            self.crew.hire(id, &self.inheritance, now).map_err(cannot)?;
        }
        let deadline = now + START_PATIENCE;
        while !self.crew.is_complete() {
            self.start_turn(interrupts, deadline)?;
        }
        if let Some(control) = &mut self.control {
            let cannot = |error| StartError(format!("cannot start the control process: {}", why(&error)));
            control.hire(&self.inheritance, Instant::now()).map_err(cannot)?;
        }
        while self.control.as_ref().is_some_and(|control| !control.is_ready()) || !self.crew.is_complete() {
            self.start_turn(interrupts, deadline)?;
        }
        Ok(())
    }

    fn start_turn(&mut self, interrupts: &mut Interrupts, deadline: Instant) -> Result<(), StartError> {
        let sources: Vec<BorrowedFd<'_>> = interrupts.descriptors().collect();
        self.turn(&sources, Some(deadline))?;
        drop(sources);
        interrupts.check()?;
        if Instant::now() >= deadline {
            let late = self.crew.workers().find(|worker| !worker.peer.is_ready());
            let late = late.map_or("the control process".into(), |worker| format!("worker {}", worker.id));
            return Err(StartError(format!("{late} was not ready within {} s", START_PATIENCE.as_secs())));
        }
        Ok(())
    }

    /// Serves until a signal or a command ends it; `deferred` came before.
    pub(crate) fn run(&mut self, signals: &Signals, deferred: Vec<Request>) {
        self.phase = Phase::Serving;
        let mut stop = deferred.into_iter().find_map(|request| self.obey(request));
        while stop.is_none() {
            // In this phase a turn cannot fail.
            let _ = self.turn(&[signals.as_fd()], None);
            while let Some(request) = signals.next() {
                stop = stop.or(self.obey(request));
            }
            stop = stop.or(self.desk.ends().then_some(Stop::Command));
        }
        match stop {
            Some(Stop::Signal(signal)) => self.say.debug(&format!("stopping on signal {signal}")),
            Some(Stop::Command) | None => self.say.debug("stopping on the exit command"),
        }
        self.stop(signals);
    }

    /// To the administrator.
    pub(crate) fn say(&mut self) -> &mut Say {
        &mut self.say
    }

    /// Says where pen listens.
    pub(crate) fn say_where(&mut self) {
        self.say.debug(&format!("listening on {}", self.standing.listen));
        if let Some(control) = &self.control {
            self.say.debug(&format!("control port {}", control.name()));
        }
    }

    /// Does what a signal asks; returns the signal if it asks to stop.
    fn obey(&mut self, request: Request) -> Option<Stop> {
        match request {
            Request::Reopen => {
                self.reopen_log();
                self.desk.hang_up();
                self.work(Instant::now());
            }
            Request::Report => {
                self.reporter.request();
                self.report(Instant::now());
            }
            // Every turn looks for the dead.
            Request::Child => {}
            Request::Stop(signal) => return Some(Stop::Signal(signal)),
        }
        None
    }

    /// Waits for something to happen, at most until `latest`, and deals with it.
    ///
    /// # Errors
    /// A worker died during the start.
    fn turn(&mut self, sources: &[BorrowedFd<'_>], latest: Option<Instant>) -> Result<(), StartError> {
        let (speakers, control) = self.wait(sources, latest);
        let now = Instant::now();
        for id in speakers {
            let news = self.crew.worker_mut(id).map(|worker| worker.read(MOST_AT_ONCE, now));
            self.hear(id, news.unwrap_or_default(), now);
        }
        if control {
            self.hear_control(now);
        }
        self.crew.workers_mut().for_each(|worker| worker.peer.kill_overdue(now));
        self.control.iter_mut().for_each(|control| control.kill_overdue(now));
        self.reap(now)?;
        if self.phase != Phase::Stopping {
            for id in self.crew.due(now) {
                self.fill(id, None, now);
            }
        }
        if self.phase == Phase::Serving {
            self.fill_control(now);
            self.report(now);
            self.work(now);
        }
        self.send_due();
        Ok(())
    }

    /// Sends all processes what waits to be sent to them, and lets go of listeners that nobody uses any more.
    fn send_due(&mut self) {
        self.crew.workers_mut().for_each(|worker| worker.send_due(&self.inheritance));
        self.control.iter_mut().for_each(|control| control.send_due(&self.inheritance));
        if !self.standing.retired.is_empty() && self.crew.workers().all(|worker| worker.has_moved()) {
            self.standing.retired.clear();
        }
    }

    /// Returns the workers that have something to say, and whether the control process has. A death or a signal just ends the waiting.
    fn wait(&self, sources: &[BorrowedFd<'_>], latest: Option<Instant>) -> (Vec<WorkerId>, bool) {
        let mut polled = Vec::new();
        let mut speakers = Vec::new();
        for worker in self.crew.workers() {
            if let Some((channel, due)) = worker.channel() {
                polled.push(PollFd::new(channel, events(true, due)));
                speakers.push(worker.id);
            }
        }
        // A control process that asks for more than can be done is left to wait.
        let control = self.control.as_ref().and_then(|control| control.channel());
        let listening = control.is_some() && !self.desk.is_full();
        polled.extend(control.map(|(channel, due)| PollFd::new(channel, events(listening, due))));
        let channels = polled.len();
        let processes = self.crew.workers().map(|worker| worker.peer.process()).chain(self.reporter.process());
        let processes = processes.chain(self.control.as_ref().and_then(|control| control.descriptor()));
        let others = processes.chain(self.desk.descriptor()).chain(sources.iter().copied());
        polled.extend(others.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = self.deadline(latest).map_or(PollTimeout::NONE, until);
        match poll(&mut polled, timeout) {
            Ok(_) => {
                let readable =
                    |polled: &PollFd<'_>| polled.revents().is_some_and(|events| events.intersects(!PollFlags::POLLOUT));
                let heard = control.is_some() && polled.get(channels - 1).is_some_and(readable);
                let speaking = speakers.into_iter().zip(&polled).filter(|(_, polled)| readable(polled));
                (speaking.map(|(id, _)| id).collect(), heard)
            }
            Err(Errno::EINTR) => (Vec::new(), false),
            // For want of memory poll(2) fails at once; asking everybody in turn is no worse.
            Err(_) => (speakers, listening),
        }
    }

    /// When something is to be done even if nothing happens.
    fn deadline(&self, latest: Option<Instant>) -> Option<Instant> {
        let overdue = self.crew.workers().filter_map(|worker| worker.peer.overdue()).min();
        let control = self.control.as_ref();
        let always = [latest, overdue, control.and_then(Control::overdue)];
        let due = match self.phase {
            Phase::Starting => [self.crew.next_due(), None, None, None],
            Phase::Serving => {
                [self.crew.next_due(), self.reporter.deadline(), self.desk.deadline(), control.and_then(Control::due)]
            }
            Phase::Stopping => [None; 4],
        };
        always.into_iter().chain(due).flatten().min()
    }

    /// Deals with what the control process said.
    fn hear_control(&mut self, now: Instant) {
        let Some(control) = &mut self.control else { return };
        let Some(pid) = control.pid() else { return };
        for news in control.read(self.desk.room(), now) {
            match news {
                ControlNews::Ready => self.say.debug("the control process is ready"),
                ControlNews::Command { ticket, command, file } => self.desk.enter(pid, ticket, command, file),
                ControlNews::Line(line) => self.say.warning(&line),
            }
        }
    }

    /// Replaces a dead control process when it is time.
    fn fill_control(&mut self, now: Instant) {
        let Some(control) = &mut self.control else { return };
        if control.due().is_none_or(|due| due > now) {
            return;
        }
        match control.hire(&self.inheritance, now) {
            Ok(pid) => self.say.debug(&format!("the control process is replaced by pid {pid}")),
            Err(error) => {
                let delay = control.postpone(now).as_millis();
                self.say.warning(&format!(
                    "the control process cannot be replaced: {}; tried again in {delay} ms",
                    why(&error)
                ));
            }
        }
    }

    /// Deals with what a worker said.
    fn hear(&mut self, id: WorkerId, news: Vec<News>, now: Instant) {
        for news in news {
            match news {
                News::Ready => self.say.debug(&format!("worker {id} is ready")),
                News::Event(event) => self.tell(id, &event, now),
                News::Page(page) => {
                    let most = self.inheritance.settings.connections_max as usize;
                    let taken = self.reporter.page(id, &page, most).and(self.desk.page(id, &page, most));
                    if taken.is_err()
                        && let Some(worker) = self.crew.worker_mut(id)
                    {
                        worker.peer.expel("it reports more connections than there can be");
                    }
                }
                News::Explained { serial, text } => self.desk.explained(id, serial, text),
            }
        }
    }

    /// Passes an event on to the administrator, within bounds.
    fn tell(&mut self, id: WorkerId, event: &pen_contract::message::Event, now: Instant) {
        let Some(line) = events::line(event, &self.inheritance.settings) else { return };
        match self.crew.worker_mut(id).map(|worker| worker.events.admit(now)) {
            Some(Admission::Admitted { withheld_before }) => {
                if withheld_before > 0 {
                    self.say.warning(&format!("{withheld_before} more messages of worker {id} were withheld"));
                }
                self.say.warning(&line);
            }
            Some(Admission::Withheld) => {}
            // Its last words; there are not many.
            None => self.say.warning(&line),
        }
    }

    /// Takes the dead away.
    fn reap(&mut self, now: Instant) -> Result<(), StartError> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _))) => {
                    self.dead(pid, status, now)?;
                }
                Err(Errno::EINTR) => {}
                // Nobody is dead, or nobody is left.
                _ => return Ok(()),
            }
        }
    }

    fn dead(&mut self, pid: Pid, status: WaitStatus, now: Instant) -> Result<(), StartError> {
        if self.reporter.reaped(pid, status, self.standing.status.as_ref(), &mut self.say)
            || self.desk.reaped(pid, status)
        {
            return Ok(());
        }
        if let Some((line, reason)) = self.control.as_mut().and_then(|control| control.discharge(pid, status, now)) {
            self.desk.forget_operators();
            return match self.phase {
                Phase::Starting => Err(StartError(reason.unwrap_or(format!("{line} before it was ready")))),
                Phase::Serving => {
                    self.say.warning(&format!("{line}; it is replaced, clients are served all the time"));
                    Ok(())
                }
                Phase::Stopping => Ok(()),
            };
        }
        // Others' orphans come to a supervisor that is process 1 of a container.
        let Some(mut death) = self.crew.discharge(pid, status, now) else { return Ok(()) };
        let last_words = std::mem::take(&mut death.news);
        self.hear(death.id, last_words, now);
        self.reporter.forget(death.id);
        self.desk.forget(death.id);
        // Before a replacement writes to the same rows.
        if self.inheritance.table.bury(u32::from(death.id.0)) {
            // The counter of an eventfd that nobody reads is full at 2^64; it wakes all the same.
            let _ = rustix::io::write(&self.inheritance.freed, &1_u64.to_ne_bytes());
        }
        match self.phase {
            Phase::Starting if !death.was_ready => return Err(StartError(death.start_failure())),
            Phase::Starting | Phase::Serving => self.replace(&death, now),
            Phase::Stopping => {}
        }
        Ok(())
    }

    /// Replaces a dead worker, now or later, and says so in one line.
    fn replace(&mut self, death: &Death, now: Instant) {
        let delay = self.crew.refill(death.id, death.lived, now);
        match delay.is_zero() {
            true => self.fill(death.id, Some(death), now),
            false => self.say.warning(&format!("{}; to be replaced in {} ms", death.line(), delay.as_millis())),
        }
    }

    /// Fills a post; if that is impossible now, tries again later.
    fn fill(&mut self, id: WorkerId, predecessor: Option<&Death>, now: Instant) {
        let line = predecessor.map_or(format!("worker {id}"), Death::line);
        match self.crew.hire(id, &self.inheritance, now) {
            Ok(_) if predecessor.is_some() => self.say.warning(&format!("{line}; replaced")),
            Ok(pid) => self.say.debug(&format!("worker {id} is replaced by pid {pid}")),
            Err(error) => {
                let delay = self.crew.refill(id, Duration::ZERO, now).as_millis();
                let reason = why(&error);
                self.say.warning(&format!("{line}; cannot be replaced: {reason}; tried again in {delay} ms"));
            }
        }
    }

    /// Takes a report a step further.
    fn report(&mut self, now: Instant) {
        self.reporter.expire(now, &mut self.say);
        if let Some(gathered) = self.reporter.gathered(now) {
            let Inheritance { settings, table, .. } = &self.inheritance;
            let file = self.standing.status.as_ref();
            if let Err(error) = self.reporter.render(&gathered, settings, table, file, &mut self.say, now) {
                self.say.warning(&format!("a report cannot be made now: {}", why(&error)));
            }
        }
        let Some(serial) = self.reporter.due() else { return };
        let (asked, unreachable) = self.ask_reports(serial, |_| true);
        self.reporter.begin(asked, unreachable, now);
    }

    /// Asks workers for reports; returns those that were asked and those whose channel is full.
    fn ask_reports(&self, serial: u32, of: impl Fn(WorkerId) -> bool) -> (BTreeSet<WorkerId>, BTreeSet<WorkerId>) {
        let serving = self.crew.workers().filter(|worker| worker.peer.is_ready() && of(worker.id));
        let (asked, unreachable): (Vec<_>, Vec<_>) = serving.partition(|worker| worker.ask_report(serial));
        let ids = |workers: Vec<&crate::workers::Worker>| workers.into_iter().map(|worker| worker.id).collect();
        (ids(asked), ids(unreachable))
    }

    /// Opens the request log again and hands it to every worker, replacements included.
    fn reopen_log(&mut self) {
        // One that an operator named is known by its descriptor alone.
        let Some(LogTarget::File(path)) = self.standing.log.as_ref().filter(|_| !self.standing.log_is_held) else {
            return;
        };
        match log_file::open(path) {
            Ok(log) => {
                self.inheritance.log = Some(log);
                self.crew.workers_mut().for_each(|worker| worker.renew_log());
                self.say.debug(&format!("request log {} is reopened", path.display()));
            }
            Err(error) => self.say.warning(&format!("{error}; lines still go to the file that was opened before")),
        }
    }

    /// Ends all workers: by order, and after a time, or a second signal, by force.
    fn stop(&mut self, signals: &Signals) {
        self.phase = Phase::Stopping;
        let deadline = Instant::now() + STOP_PATIENCE;
        self.crew.workers_mut().for_each(|worker| worker.order_stop());
        self.control.iter_mut().for_each(|control| control.order_stop());
        self.send_due();
        let mut insisted = false;
        while !self.is_alone() && !insisted && Instant::now() < deadline {
            let _ = self.turn(&[signals.as_fd()], Some(deadline));
            while let Some(request) = signals.next() {
                insisted |= matches!(request, Request::Stop(_));
            }
        }
        for worker in self.crew.workers() {
            self.say.warning(&format!("worker {} (pid {}) did not stop in time; killed", worker.id, worker.peer.pid));
        }
        self.end();
        let totals = self.crew.totals();
        self.say.debug(&format!("stopped; {} clients accepted, {} unserved", totals.accepted, totals.unserved));
    }

    /// Kills and reaps whatever child is left.
    fn end(&mut self) {
        self.phase = Phase::Stopping;
        self.reporter.stop();
        self.desk.stop();
        self.crew.workers_mut().for_each(|worker| worker.peer.kill());
        self.control.iter_mut().for_each(|control| control.kill());
        // SIGKILL needs no help; only a process in the midst of a device's work takes its time, and is left to it.
        let deadline = Instant::now() + KILL_PATIENCE;
        while !(self.is_alone() && self.reporter.process().is_none()) && Instant::now() < deadline {
            let _ = self.turn(&[], Some(deadline));
        }
    }

    /// Whether no jailed process is left.
    fn is_alone(&self) -> bool {
        self.crew.is_empty() && self.control.as_ref().is_none_or(Control::is_empty)
    }
}

/// A start that fails leaves no worker.
impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

/// What to wait for at a channel.
fn events(listening: bool, due: bool) -> PollFlags {
    let read = if listening { PollFlags::POLLIN } else { PollFlags::empty() };
    if due { read | PollFlags::POLLOUT } else { read }
}

/// How long all processes may take to become ready.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long workers may take to stop; with [`KILL_PATIENCE`] it is within the three seconds that the manual promises.
const STOP_PATIENCE: Duration = Duration::from_millis(2500);

/// How long killed workers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_millis(300);

/// Most messages of one worker in one turn.
const MOST_AT_ONCE: usize = 64;
