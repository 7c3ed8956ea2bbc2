//! Execution of commands: one at a time, in the order of arrival, without blocking. A command that
//! takes time is a job. The stage of the job says what it waits for; every turn of the loop
//! advances it.

#![forbid(unsafe_code)]

mod query;
pub(in crate::event_loop) mod queue;
mod stages;
mod write;

use std::os::fd::OwnedFd;
use std::time::Instant;

use pen_config::checks::Admission;
use pen_config::command::{Action, Command, Number, Query, Setting};
use pen_config::ids::ServerId;
use pen_ipc::message::Outcome;
use pen_status::event::EventKind;

use crate::clock;
use crate::event_loop::Supervisor;
use crate::event_loop::commands::queue::{Follow, Job, JobStage, Request};
use crate::event_loop::commands::stages::ReportRequest;
use crate::event_loop::job::{Progress, Requester};
use crate::event_loop::reload::configuration::Configuration;
use crate::event_loop::reload::stages::ReloadStage;
use crate::event_loop::servers::drains::Drain;
use crate::log::recent::Incident;
use crate::processes::old_tables::TableRow;
use crate::processes::ports::control::ControlReply;
use crate::report::ReportSink;

impl Supervisor {
    /// Advances the report by signal and the current job, and begins the next ones.
    pub(in crate::event_loop) fn work(&mut self, now: Instant) {
        self.work_on_report(now);
        self.work_on_commands(now);
        self.queue.leaving.retain(|child| !child.has_ended());
    }

    fn work_on_commands(&mut self, now: Instant) {
        self.queue.more = false;
        for _ in 0..MOST_STEPS {
            let (by, progress) = match self.queue.job.take() {
                Some(job) => (job.by, self.advance(job, now)),
                None => {
                    let answerable =
                        self.control.as_ref().is_some_and(|control| !control.has_pending_reply());
                    let is_upgrading = self.upgrade.is_some();
                    let Some((by, request)) = self.queue.next(answerable, is_upgrading) else {
                        return;
                    };
                    self.queue.serving = by.operator();
                    (by, self.begin(by, request, now))
                }
            };
            match progress {
                Progress::Wait(job) => {
                    self.queue.job = Some(job);
                    return;
                }
                Progress::Done(reply) => self.conclude(by, reply),
                Progress::Detached => {}
            }
        }
        self.queue.more = true;
    }

    /// Advances the report by signal, and begins the next one.
    pub(in crate::event_loop) fn work_on_report(&mut self, now: Instant) {
        loop {
            let progress = match self.queue.report.take() {
                Some(stage) => self.advance_report(stage, now),
                None if std::mem::take(&mut self.queue.report_requested) => {
                    self.gather(ReportRequest::Status(ReportSink::Signal), |_| true, now)
                }
                None => return,
            };
            if let Progress::Wait(stage) = progress {
                self.queue.report = Some(stage);
                return;
            }
        }
    }

    /// Begins a job.
    fn begin(&mut self, by: Requester, request: Request, now: Instant) -> Progress<Job> {
        let mut then = Follow::Nothing;
        let progress = match request {
            Request::Hangup => self.hang_up(now).map(JobStage::Reload),
            Request::RereadTls => self.reread_tls(now).map(JobStage::Reload),
            Request::MoveServers => self.take_answers(now).map(JobStage::Reload),
            Request::Upgrade => self.begin_upgrade(by, now),
            Request::Command(Command::Query(query), _) => {
                self.query(query, now).map(JobStage::Query)
            }
            Request::Command(Command::Setting(setting), file) => {
                then = query_of(&setting).map_or(Follow::Nothing, Follow::Query);
                let configuration = Configuration::of_operator(setting, file);
                self.look_up(configuration, now).map(JobStage::Reload)
            }
            Request::Command(Command::Action(action), file) => {
                if let Action::Drain { server, wait, close } = action {
                    then = Follow::Drain(Drain { server: ServerId(server), wait, close });
                }
                self.act(action, by, file, now)
            }
        };
        progress.map(|stage| Job { by, stage, then })
    }

    fn act(
        &mut self,
        action: Action,
        by: Requester,
        file: Option<OwnedFd>,
        now: Instant,
    ) -> Progress<JobStage> {
        match action {
            Action::Close(number) => self.close(number, by, now).map(JobStage::Reload),
            Action::Drain { server, .. } => self.drain(ServerId(server), now).map(JobStage::Reload),
            Action::Exit if self.state.allow_exit => {
                self.queue.exit(by);
                Progress::Done(ControlReply::none())
            }
            Action::Exit => {
                Progress::Done(ControlReply::refusal("Exit is not enabled; restart with -X flag"))
            }
            Action::Include(path) => self.include(path, now).map(JobStage::Reload),
            Action::Pause => {
                self.set_admission(Admission::Paused, "pause", now).map(JobStage::Reload)
            }
            Action::Resume => {
                self.set_admission(Admission::Open, "resume", now).map(JobStage::Reload)
            }
            Action::Upgrade if self.state.allow_exit => self.begin_upgrade(by, now),
            Action::Upgrade => Progress::Done(ControlReply::refusal(
                "Upgrade is not enabled; restart with -X flag",
            )),
            Action::Write(path) => self.write(path.as_deref(), file, now).map(JobStage::Query),
            Action::WriteHere => self.write_here(now).map(JobStage::Query),
        }
    }

    fn close(&mut self, number: u32, by: Requester, now: Instant) -> Progress<ReloadStage> {
        if number >= self.context.settings.connections_max {
            return Progress::Done(ControlReply::refusal(format!(
                "Connection {number} out of range"
            )));
        }
        let reply = ControlReply::line(format!("Forcibly closing connection {number}"));
        // Taken before the lookup, so that a later connection with this number is not closed.
        let before = clock::precise();
        match self.order_close(number, before) {
            true => {
                let incident = Incident::of(EventKind::Operator).with("connection", number);
                self.tell_operator(&format!("close {number}"), incident, by, now);
                // The settings are sent behind the order: a worker that has applied them has
                // carried out the order.
                self.publish_anew(reply, now)
            }
            false => Progress::Done(ControlReply::refusal(format!(
                "close: connection {number} is not in use"
            ))),
        }
    }

    /// Orders the worker that has a connection to close it. Returns whether there is one.
    fn order_close(&mut self, number: u32, before: u64) -> bool {
        let Some(row) = self.row_of(number) else { return false };
        let own = Some(row.row).filter(|_| row.table.is_none());
        let owner = own.and_then(|row| self.pool.of_row(row));
        match owner.and_then(|owner| self.pool.worker_mut(owner)) {
            Some(worker) => {
                worker.order_close(number, before);
                true
            }
            None => self.old.order_close(row, number, before),
        }
    }

    /// The row of the worker that has a connection.
    fn row_of(&self, number: u32) -> Option<TableRow> {
        let row = self.context.table.connection_owner(number)?;
        let other = self.old_tables.owner(row, number);
        Some(other.unwrap_or(TableRow { table: None, row }))
    }

    /// Continues a job, if what it waits for has happened.
    fn advance(&mut self, job: Job, now: Instant) -> Progress<Job> {
        let Job { by, stage, then } = job;
        let progress = match stage {
            JobStage::Reload(stage) => self.advance_reload(by, stage, now).map(JobStage::Reload),
            JobStage::Query(stage) => self.advance_query(stage, now).map(JobStage::Query),
        };
        match (progress, then) {
            (Progress::Done(ControlReply { outcome: Outcome::Done, .. }), Follow::Query(query)) => {
                let stage = self.query(query, now).map(JobStage::Query);
                stage.map(|stage| Job { by, stage, then: Follow::Nothing })
            }
            (Progress::Done(ControlReply { outcome: Outcome::Done, .. }), Follow::Drain(drain)) => {
                self.await_drained(drain, by, now)
            }
            (progress, then) => progress.map(|stage| Job { by, stage, then }),
        }
    }

    pub(in crate::event_loop) fn conclude(&mut self, by: Requester, reply: ControlReply) {
        match (by, &mut self.control) {
            (Requester::Operator { pid, ticket, .. }, Some(control)) => {
                control.reply(pid, ticket, reply)
            }
            (Requester::Operator { .. }, None) => {}
            // A HUP that came meanwhile is still to be answered.
            (Requester::Hangup, _) if self.queue.hangup => {}
            (Requester::Hangup, _) => self.announce(Instant::now()),
            (Requester::Names, _) => {}
            (Requester::Signal { asker }, _) => self.answer_asker(asker, &reply),
        }
    }
}

/// The query whose answer is the reply to a setting.
fn query_of(setting: &Setting) -> Option<Query> {
    match setting {
        // The original pen replies nothing.
        Setting::Number(Number::PendingMax, _) => None,
        Setting::Number(which, _) => Some(Query::Number(*which)),
        Setting::Listen(_) => Some(Query::Listen),
        Setting::ConnectionLog(target) => target.as_ref().map(|_| Query::ConnectionLog),
        Setting::Log(target) => target.as_ref().map(|_| Query::Log),
        Setting::WebStats(path) => path.as_ref().map(|_| Query::WebStats),
        Setting::Abuse(_)
        | Setting::Acl { .. }
        | Setting::Certificate(_)
        | Setting::Check(_)
        | Setting::ClientCa(_)
        | Setting::ConnectionLogFormat(_)
        | Setting::Emergency(_)
        | Setting::Fastclose(_)
        | Setting::Http(_)
        | Setting::NoAcl(_)
        | Setting::NoServer(_)
        | Setting::NoServersFrom(_)
        | Setting::Maglev(_)
        | Setting::OnDown(_)
        | Setting::PerClientNet(_)
        | Setting::PerClientRate(_)
        | Setting::ProxyIn(_)
        | Setting::ProxyOut(_)
        | Setting::Server { .. }
        | Setting::ServerTlsCa(_)
        | Setting::ServerTlsCert(_)
        | Setting::ServerTlsName(_)
        | Setting::ServersFrom(_)
        | Setting::SocketBuffers(_, _)
        | Setting::Source(_)
        | Setting::SslAlways
        | Setting::SslCiphers(_)
        | Setting::SslNames(_)
        | Setting::SslNoTls12
        | Setting::SslOcsp(_)
        | Setting::SslRenegotiation(_)
        | Setting::SslTls12
        | Setting::Startup(_)
        | Setting::Switch(_, _)
        | Setting::UnlimitedAcl(_) => None,
    }
}

/// Most steps of jobs in one turn of the loop.
const MOST_STEPS: usize = 32;

#[cfg(test)]
mod tests {
    use pen_config::command::Switch;

    use super::*;

    #[test]
    fn settings_are_answered_with_what_was_set() {
        let number = Setting::Number(Number::Timeout, 3);
        assert_eq!(query_of(&number), Some(Query::Number(Number::Timeout)));
        assert_eq!(query_of(&Setting::Switch(Switch::Hash, true)), None);
    }
}
