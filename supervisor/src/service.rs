//! The supervisor's event loop: signals, workers' messages, deaths, replacements and reports.
//!
//! One thread, poll(2), nothing that waits for a worker. poll and not epoll, because an epoll set would be shared with every
//! child that is forked.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use pen_contract::ids::WorkerId;

use crate::StartError;
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
use crate::why::why;
use crate::workers::News;

/// The running pen.
#[derive(Debug)]
pub(crate) struct Service {
    inheritance: Inheritance,
    crew: Crew,
    reporter: Reporter,
    say: Say,
    /// The file of `-l`, to be reopened.
    log_path: Option<PathBuf>,
    phase: Phase,
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
        inheritance: Inheritance,
        workers: u8,
        reporter: Reporter,
        log_path: Option<PathBuf>,
        say: Say,
    ) -> Service {
        Service { inheritance, crew: Crew::new(workers), reporter, say, log_path, phase: Phase::Starting }
    }

    /// Forks the workers and waits until all are ready.
    ///
    /// # Errors
    /// A worker cannot be forked, jailed or readied, or the start is interrupted. All workers are gone then.
    pub(crate) fn start(&mut self, interrupts: &mut Interrupts) -> Result<(), StartError> {
        let now = Instant::now();
        for id in self.crew.ids() {
            let cannot = |error| StartError(format!("cannot start worker {id}: {}", why(&error)));
            self.crew.hire(id, &self.inheritance, now).map_err(cannot)?;
        }
        let deadline = now + START_PATIENCE;
        while !self.crew.is_complete() {
            let sources: Vec<BorrowedFd<'_>> = interrupts.descriptors().collect();
            self.turn(&sources, Some(deadline))?;
            interrupts.check()?;
            if Instant::now() >= deadline {
                let late = self.crew.workers().find(|worker| !worker.is_ready());
                let late = late.map_or(String::new(), |worker| format!("worker {} ", worker.id));
                return Err(StartError(format!("{late}was not ready within {} s", START_PATIENCE.as_secs())));
            }
        }
        Ok(())
    }

    /// Serves until a signal ends it; `deferred` came before.
    pub(crate) fn run(&mut self, signals: &Signals, deferred: Vec<Request>) {
        self.phase = Phase::Serving;
        let mut stop = deferred.into_iter().find_map(|request| self.obey(request));
        while stop.is_none() {
            // In this phase a turn cannot fail.
            let _ = self.turn(&[signals.as_fd()], None);
            while let Some(request) = signals.next() {
                stop = stop.or(self.obey(request));
            }
        }
        if let Some(signal) = stop {
            self.say.debug(&format!("stopping on signal {signal}"));
        }
        self.stop(signals);
    }

    /// To the administrator.
    pub(crate) fn say(&mut self) -> &mut Say {
        &mut self.say
    }

    /// Does what a signal asks; returns the signal if it asks to stop.
    fn obey(&mut self, request: Request) -> Option<Signal> {
        match request {
            Request::Reopen => self.reopen_log(),
            Request::Report => {
                self.reporter.request();
                self.report(Instant::now());
            }
            // Every turn looks for the dead.
            Request::Child => {}
            Request::Stop(signal) => return Some(signal),
        }
        None
    }

    /// Waits for something to happen, at most until `latest`, and deals with it.
    ///
    /// # Errors
    /// A worker died during the start.
    fn turn(&mut self, sources: &[BorrowedFd<'_>], latest: Option<Instant>) -> Result<(), StartError> {
        let speakers = self.wait(sources, latest);
        let now = Instant::now();
        for id in speakers {
            let news = self.crew.worker_mut(id).map(|worker| worker.read(MOST_AT_ONCE, now));
            self.hear(id, news.unwrap_or_default(), now);
        }
        self.crew.workers_mut().for_each(|worker| worker.kill_overdue(now));
        self.reap(now)?;
        if self.phase != Phase::Stopping {
            for id in self.crew.due(now) {
                self.fill(id, None, now);
            }
        }
        if self.phase == Phase::Serving {
            self.report(now);
        }
        self.crew.workers_mut().for_each(|worker| worker.send_due(&self.inheritance));
        Ok(())
    }

    /// Returns the workers that have something to say. A death or a signal just ends the waiting.
    fn wait(&self, sources: &[BorrowedFd<'_>], latest: Option<Instant>) -> Vec<WorkerId> {
        let overdue = self.crew.workers().filter_map(|worker| worker.overdue()).min();
        let deadlines = match self.phase {
            Phase::Starting => [latest, overdue, self.crew.next_due(), None],
            Phase::Serving => [latest, overdue, self.crew.next_due(), self.reporter.deadline()],
            Phase::Stopping => [latest, overdue, None, None],
        };
        let mut polled = Vec::new();
        let mut speakers = Vec::new();
        for worker in self.crew.workers() {
            if let Some((channel, due)) = worker.channel() {
                let events = if due { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
                polled.push(PollFd::new(channel, events));
                speakers.push(worker.id);
            }
        }
        let processes = self.crew.workers().map(|worker| worker.process()).chain(self.reporter.process());
        polled.extend(processes.chain(sources.iter().copied()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let timeout = deadlines.into_iter().flatten().min().map_or(PollTimeout::NONE, until);
        match poll(&mut polled, timeout) {
            Ok(_) => {
                let readable =
                    |polled: &PollFd<'_>| polled.revents().is_some_and(|events| events.intersects(!PollFlags::POLLOUT));
                speakers.into_iter().zip(&polled).filter(|(_, polled)| readable(polled)).map(|(id, _)| id).collect()
            }
            Err(Errno::EINTR) => Vec::new(),
            // For want of memory poll(2) fails at once; asking everybody in turn is no worse.
            Err(_) => speakers,
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
                    let worker = self.crew.worker_mut(id);
                    if self.reporter.page(id, page, most).is_err()
                        && let Some(worker) = worker
                    {
                        worker.expel("it reports more connections than there can be");
                    }
                }
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
        if self.reporter.reaped(pid, status, &mut self.say) {
            return Ok(());
        }
        // Others' orphans come to a supervisor that is process 1 of a container.
        let Some(mut death) = self.crew.discharge(pid, status, now) else { return Ok(()) };
        let last_words = std::mem::take(&mut death.news);
        self.hear(death.id, last_words, now);
        self.reporter.forget(death.id);
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
            if let Err(error) = self.reporter.render(gathered, settings, table, &mut self.say, now) {
                self.say.warning(&format!("a report cannot be made now: {}", why(&error)));
            }
        }
        let Some(serial) = self.reporter.due() else { return };
        let serving = self.crew.workers().filter(|worker| worker.is_ready());
        let (asked, unreachable): (Vec<_>, Vec<_>) = serving.partition(|worker| worker.ask_report(serial));
        let ids = |workers: Vec<&crate::workers::Worker>| -> BTreeSet<WorkerId> {
            workers.into_iter().map(|worker| worker.id).collect()
        };
        let (asked, unreachable) = (ids(asked), ids(unreachable));
        self.reporter.begin(asked, unreachable, now);
    }

    /// Opens the request log again and hands it to every worker, replacements included.
    fn reopen_log(&mut self) {
        let Some(path) = &self.log_path else { return };
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
        self.crew.workers_mut().for_each(|worker| worker.send_due(&self.inheritance));
        let mut insisted = false;
        while !self.crew.is_empty() && !insisted && Instant::now() < deadline {
            let _ = self.turn(&[signals.as_fd()], Some(deadline));
            while let Some(request) = signals.next() {
                insisted |= matches!(request, Request::Stop(_));
            }
        }
        for worker in self.crew.workers() {
            self.say.warning(&format!("worker {} (pid {}) did not stop in time; killed", worker.id, worker.pid));
        }
        self.end();
        let totals = self.crew.totals();
        self.say.debug(&format!("stopped; {} clients accepted, {} unserved", totals.accepted, totals.unserved));
    }

    /// Kills and reaps whatever child is left.
    fn end(&mut self) {
        self.phase = Phase::Stopping;
        self.reporter.stop();
        self.crew.workers_mut().for_each(|worker| worker.kill());
        // SIGKILL needs no help; only a process in the midst of a device's work takes its time, and is left to it.
        let deadline = Instant::now() + KILL_PATIENCE;
        while !(self.crew.is_empty() && self.reporter.process().is_none()) && Instant::now() < deadline {
            let _ = self.turn(&[], Some(deadline));
        }
    }
}

/// A start that fails leaves no worker.
impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

/// How long all workers may take to become ready.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long workers may take to stop; with [`KILL_PATIENCE`] it is within the three seconds that the manual promises.
const STOP_PATIENCE: Duration = Duration::from_millis(2500);

/// How long killed workers may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_millis(300);

/// Most messages of one worker in one turn.
const MOST_AT_ONCE: usize = 64;
