//! Queries: what each of them replies.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use pen_config::command::{Form, Number, Query, help};
use pen_config::ids::{ClientKey, WorkerId};
use pen_config::print::in_force::InForce;
use pen_config::settings::{Method, Selection};
use pen_ipc::stats::ConnectionInfo;
use pen_ipc::text::error_text;
use pen_status::Status;
use pen_status::metrics::{Exposition, render};

use crate::event_loop::Supervisor;
use crate::event_loop::commands::stages::{Explaining, QueryStage, ReportRequest};
use crate::event_loop::job::{PATIENCE, Progress};
use crate::files::status_file::StatusFile;
use crate::helpers::render::{RenderContext, Reporter};
use crate::jail::Jail;
use crate::jail::display;
use crate::log::recent::{write_json, write_lines};
use crate::processes::ports::control::ControlReply;
use crate::processes::spawn::SpawnContext;
use crate::report;
use crate::report::status::{self, Known};
use crate::report::{Gathered, Gathering, Report, ReportSink};

impl Supervisor {
    /// Begins to answer a query.
    pub(in crate::event_loop::commands) fn query(
        &mut self,
        query: Query,
        now: Instant,
    ) -> Progress<QueryStage> {
        let (state, SpawnContext { settings, table, jail, .. }) = (&self.state, &self.context);
        let reply = match query {
            Query::Certificates(form) => {
                let facts = self.context.certificates().unwrap_or_default();
                return report("certificates", jail, now, |to| {
                    report::certificates(form, &facts, to)
                });
            }
            Query::Connection(number) => return self.connection(number, now),
            Query::ConnectionLog => match &state.connection_log {
                Some(target) => ControlReply::line(target),
                None => ControlReply::none(),
            },
            Query::Control => match &self.control {
                Some(control) => ControlReply::line(&control.port().name),
                None => ControlReply::none(),
            },
            Query::Events(most, form) => {
                let recent = self.logger.recent();
                return report("events", jail, now, |to| {
                    let records = recent.last(most as usize);
                    match form {
                        Form::Plain => write_lines(records, to),
                        Form::Json => write_json(records, to),
                    }
                });
            }
            Query::Explain(ip) => return self.explain(ClientKey::from_ip(ip), now),
            Query::Help(word) => ControlReply::text(help(word.as_deref())),
            Query::Listen => ControlReply::line(&state.local),
            Query::Log => match &state.log {
                Some(target) => ControlReply::line(target),
                None => ControlReply::none(),
            },
            Query::Metrics => {
                return self.form_of_status("metrics", now, |status, to| {
                    to.write_all(render(status, Exposition::Prometheus).as_bytes())
                });
            }
            Query::Mode(Form::Plain) => ControlReply::line(mode(settings.selection)),
            Query::Mode(Form::Json) => ControlReply::line(mode_json(settings.selection)),
            Query::Number(which) => return self.number(which, now),
            Query::Overview => return self.form_of_status("overview", now, report::overview),
            Query::Pid => ControlReply::line(std::process::id()),
            Query::Recent(seconds, form) => {
                return report("recent", jail, now, |to| {
                    report::recent(seconds, form, settings, table, to)
                });
            }
            Query::Sandbox => ControlReply::text(display::table(jail)),
            Query::Servers(form) => {
                return report("servers", jail, now, |to| {
                    let (checks, lookups) = (&self.checking.known, &self.names.known);
                    report::servers(form, settings, table, checks, lookups, to)
                });
            }
            Query::Show(word) => return self.show(word.as_deref(), now),
            // Each worker has descriptor numbers of its own: one number can mean several
            // connections.
            Query::Socket(number) => {
                ControlReply::line(format!("Socket {number} belongs to connection -1"))
            }
            Query::Status(form) => {
                return self.gather(
                    ReportRequest::Status(ReportSink::Operator(form)),
                    |_| true,
                    now,
                );
            }
            Query::Watch(_) => {
                let next = self.logger.recent().next();
                self.control.iter_mut().for_each(|control| control.begin_watch(next));
                ControlReply::line(next)
            }
            Query::WebStats => match &state.status {
                Some(file) => ControlReply::line(file.name().display()),
                None => ControlReply::none(),
            },
        };
        Progress::Done(reply)
    }

    /// Answers with a form of the state of the whole program.
    fn form_of_status(
        &self,
        word: &'static str,
        now: Instant,
        form: impl FnOnce(&Status, &mut dyn Write) -> io::Result<()>,
    ) -> Progress<QueryStage> {
        let SpawnContext { settings, table, jail, .. } = &self.context;
        let listen = self.state.local.to_string();
        let known = self.known(&listen, now);
        report(word, jail, now, |to| form(&status::take(known, settings, table), to))
    }

    /// Everything that only this process knows.
    pub(in crate::event_loop) fn known<'l>(&'l self, listen: &'l str, now: Instant) -> Known<'l> {
        let SpawnContext { table, keys, .. } = &self.context;
        Known {
            program: self.program(listen, now),
            past: &self.past,
            pid: std::process::id(),
            workers: self.pool.statuses(&self.old, table),
            old_workers: self.old.summaries(table, now),
            counters: self.totals(),
            held: self.pool.held().saturating_add(self.old.held()),
            tarpitted: self.pool.tarpitted().saturating_add(self.old.tarpitted()),
            certificates: self.context.certificates().unwrap_or_default(),
            has_tls: keys.is_some(),
            has_server_tls: self.context.server_keys.is_some(),
            events: self.logger.recent(),
        }
    }

    /// Figures of the program that only this process knows.
    pub(in crate::event_loop) fn program<'l>(
        &'l self,
        listen: &'l str,
        now: Instant,
    ) -> report::Program<'l> {
        let uptime = now.saturating_duration_since(self.state.started);
        let (workers, version) = (self.pool.size(), self.build.version);
        let (checks, lookups) = (&self.checking.known, &self.names.known);
        report::Program { uptime, listen, workers, version, checks, lookups }
    }

    fn number(&mut self, which: Number, now: Instant) -> Progress<QueryStage> {
        if which == Number::Idlers {
            return self.gather(ReportRequest::Idlers, |_| true, now);
        }
        Progress::Done(match (which, which.value(&self.context.settings)) {
            // The text is the original's.
            (Number::IdleTimeout, Some(seconds)) => {
                ControlReply::line(format!("Idle timeout: {seconds} seconds"))
            }
            (_, Some(value)) => ControlReply::line(value),
            (_, None) => ControlReply::line(self.pool.ids().count()),
        })
    }

    pub(in crate::event_loop::commands) fn owner(&self, number: u32) -> Option<WorkerId> {
        self.pool.of_row(self.context.table.connection_owner(number)?)
    }

    fn connection(&mut self, number: u32, now: Instant) -> Progress<QueryStage> {
        if number >= self.context.settings.connections_max {
            return Progress::Done(ControlReply::refusal(format!(
                "Connection {number} out of range"
            )));
        }
        match self.owner(number) {
            Some(owner) => {
                self.gather(ReportRequest::Connection(number), |worker| worker == owner, now)
            }
            None => {
                let row = self.row_of(number);
                let old = self.old.workers().find(|old| Some(old.origin.row) == row);
                Progress::Done(match old {
                    // Workers of other releases are not asked for reports.
                    Some(old) => ControlReply::line(format!(
                        "Connection {number} is with an old worker, of pen {}",
                        old.origin.version
                    )),
                    None => connection(number, None),
                })
            }
        }
    }

    fn explain(&mut self, client: ClientKey, now: Instant) -> Progress<QueryStage> {
        let serial = self.queue.next_serial();
        let asked = |worker: &&crate::processes::worker::Worker| {
            worker.peer.is_ready() && worker.ask_explanation(serial, client.bytes())
        };
        match self.pool.workers().find(asked).map(|worker| worker.id) {
            Some(worker) => {
                let explaining =
                    Explaining { worker, serial, deadline: now + PATIENCE, answer: None };
                Progress::Wait(QueryStage::Explaining(explaining))
            }
            None => Progress::Done(ControlReply::refusal("explain: no worker can answer now")),
        }
    }

    pub(in crate::event_loop::commands) fn gather(
        &mut self,
        wanted: ReportRequest,
        of: impl Fn(WorkerId) -> bool,
        now: Instant,
    ) -> Progress<QueryStage> {
        let serial = self.queue.next_serial();
        let (asked, unreachable): (BTreeSet<_>, BTreeSet<_>) = self.ask_reports(serial, of);
        Progress::Wait(QueryStage::Gathering(
            Gathering::new(serial, asked, unreachable, now),
            wanted,
        ))
    }

    /// Replies with the reports of the workers.
    pub(in crate::event_loop::commands) fn gathered(
        &mut self,
        gathered: &Gathered,
        wanted: ReportRequest,
        now: Instant,
    ) -> Progress<QueryStage> {
        match wanted {
            ReportRequest::Connection(number) => {
                let found = gathered.connections.iter().find(|info| info.number == number);
                Progress::Done(connection(number, found))
            }
            ReportRequest::Idlers => {
                let idlers = self.context.settings.idlers;
                let present = gathered.connections.iter().filter(|info| is_idler(info)).count();
                Progress::Done(ControlReply::line(format!("Idlers: {present}/{idlers}")))
            }
            ReportRequest::Status(sink) => {
                let listen = self.state.local.to_string();
                let report = Report {
                    sink,
                    gathered,
                    program: self.program(&listen, now),
                    context: &self.context,
                    file: self.state.status.as_ref(),
                    logger: &self.logger,
                };
                match (report.render(now), sink) {
                    (Ok(reporter), _) => Progress::Wait(QueryStage::Rendering(reporter)),
                    (Err(error), ReportSink::Signal) => {
                        let why = error_text(&error);
                        self.logger.warning(&format!("a report cannot be made now: {why}"));
                        Progress::Done(ControlReply::none())
                    }
                    (Err(error), ReportSink::Operator(_)) => not_now("status", &error),
                }
            }
        }
    }

    /// Shows the settings in force.
    fn show(&self, word: Option<&str>, now: Instant) -> Progress<QueryStage> {
        let (state, SpawnContext { settings, jail, .. }) = (&self.state, &self.context);
        let workers = u32::try_from(self.pool.ids().count()).unwrap_or(u32::MAX);
        let in_force = InForce {
            settings,
            startup: &state.startup,
            listen: &state.local,
            log: state.log.as_ref(),
            connection_log: state.connection_log.as_ref(),
            status_file: state.status.as_ref().map(StatusFile::name),
            workers,
            servers_only: state.servers_only,
        };
        if let Some(number) = word.and_then(|word| word.strip_prefix("server "))
            && number.parse().is_ok_and(|number: u32| number >= settings.table_size())
        {
            let slots = settings.table_size();
            return Progress::Done(ControlReply::refusal(format!(
                "show: there is no server {number}: the table has {slots} (-S)"
            )));
        }
        report("show", jail, now, |to| to.write_all(in_force.text(word).as_bytes()))
    }
}

/// Writes a report in a child that may do nothing else.
fn report(
    word: &'static str,
    jail: &Jail,
    now: Instant,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Progress<QueryStage> {
    task(word, jail, &[], now, |to, _| {
        jail.sandbox.enter_reporter()?;
        write(to)
    })
}

/// Runs `work` in a child.
pub(in crate::event_loop::commands) fn task(
    word: &'static str,
    jail: &Jail,
    keep: &[BorrowedFd<'_>],
    now: Instant,
    work: impl FnOnce(&mut dyn Write, RenderContext<'_>) -> io::Result<()>,
) -> Progress<QueryStage> {
    match Reporter::begin(word, jail.identity.uid, keep, now, work) {
        Ok(reporter) => Progress::Wait(QueryStage::Rendering(reporter)),
        Err(error) => not_now(word, &error),
    }
}

fn not_now(word: &str, error: &io::Error) -> Progress<QueryStage> {
    Progress::Done(ControlReply::refusal(format!("{word}: not now: {}", error_text(error))))
}

/// Information about a connection. Scripts rely on the words and the order of the five lines.
fn connection(number: u32, info: Option<&ConnectionInfo>) -> ControlReply {
    let (state, downfd, upfd) =
        info.map_or((0, -1, -1), |info| (info.state, info.downfd, info.upfd));
    let (client, server) = info.map_or((0, 0), |info| (info.client, info.server));
    let pending = state & CONNECTING;
    ControlReply::text(format!(
        "Connection {number}:\nstate = {state}\ndownfd = {downfd}, upfd = {upfd}\nclient = \
         {client}, server = {server}\npend = {pending}\n"
    ))
}

/// Whether it is an idler: a connection to a server that belongs to no client.
fn is_idler(info: &ConnectionInfo) -> bool {
    info.downfd < 0 && info.client < 0 && info.state & CONNECTED != 0
}

/// The bit of a connection's state for a connect under way.
const CONNECTING: u8 = 1;

/// The bit of a connection's state for a finished connect.
const CONNECTED: u8 = 2;

/// The modes of the original, in its order.
fn original_modes(selection: Selection) -> [(&'static str, bool); 5] {
    let Selection { roundrobin, hash, weight, prio, stubborn, .. } = selection;
    [
        (Method::Hash.name(), hash),
        (Method::RoundRobin.name(), roundrobin),
        ("stubborn", stubborn),
        (Method::Weight.name(), weight),
        (Method::Prio.name(), prio),
    ]
}

/// The modes that the original does not have.
fn later_modes(selection: Selection) -> [(&'static str, bool); 3] {
    let later = [Method::Leastconn, Method::P2c, Method::Maglev];
    later.map(|method| (method.name(), selection.has(method)))
}

/// The modes of the original in its form, and then the others that are on.
fn mode(selection: Selection) -> String {
    let original = original_modes(selection)
        .map(|(name, on)| if on { name.to_owned() } else { format!("no {name}") });
    let later = later_modes(selection).into_iter().filter(|(_, on)| *on);
    let later = later.map(|(name, _)| name.to_owned());
    original.into_iter().chain(later).collect::<Vec<_>>().join(" ")
}

fn mode_json(selection: Selection) -> String {
    let always = [("hash_always", selection.hash_always)];
    let all = original_modes(selection).into_iter().chain(always).chain(later_modes(selection));
    let fields: Vec<String> = all.map(|(name, on)| format!("\"{name}\":{on}")).collect();
    format!("{{{}}}", fields.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::ports::control::ReplyBody;

    #[test]
    fn the_modes_are_one_line() {
        let some = Selection { hash: true, weight: true, ..Selection::default() };
        assert_eq!(
            mode(Selection::default()),
            "no hash no roundrobin no stubborn no weight no prio"
        );
        assert_eq!(mode(some), "hash no roundrobin no stubborn weight no prio");
        let later = Selection { leastconn: true, p2c: true, ..Selection::default() };
        assert!(mode(later).ends_with(" no prio leastconn p2c"));
        let value: serde_json::Value = serde_json::from_str(&mode_json(some)).unwrap();
        assert_eq!((&value["hash"], &value["prio"]), (&true.into(), &false.into()));
    }

    #[test]
    fn a_connection_is_five_lines() {
        let ReplyBody::Text(unused) = connection(7, None).body else { panic!() };
        assert_eq!(
            unused,
            "Connection 7:\nstate = 0\ndownfd = -1, upfd = -1\nclient = 0, server = 0\npend = 0\n"
        );
        let info = ConnectionInfo {
            number: 0,
            state: 1,
            downfd: 6,
            upfd: 7,
            pending_down: 0,
            pending_up: 0,
            client: 2,
            server: -1,
        };
        let ReplyBody::Text(used) = connection(0, Some(&info)).body else { panic!() };
        assert_eq!(
            used,
            "Connection 0:\nstate = 1\ndownfd = 6, upfd = 7\nclient = 2, server = -1\npend = 1\n"
        );
    }
}
