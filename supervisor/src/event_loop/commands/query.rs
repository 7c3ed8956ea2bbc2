//! Queries and actions, which are carried out at once. Commands that change settings only begin
//! here (`change`).

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use pen_config::address::Local;
use pen_config::command::{Command, Form, LogTarget, Number, help};
use pen_config::ids::{ClientKey, WorkerId};
use pen_config::print::in_force::InForce;
use pen_config::print::{Written, text};
use pen_config::settings::Selection;
use pen_ipc::stats::ConnectionInfo;

use crate::clock;
use crate::event_loop::Supervisor;
use crate::event_loop::job::{AfterApply, Explaining, JobStage, PATIENCE, Progress, Requester};
use crate::event_loop::reload::{Batch, in_jail};
use crate::files::status_file;
use crate::files::status_file::{StatusFile, Writer};
use crate::helpers::task::{HelperTask, TaskContext};
use crate::jail::Jail;
use crate::jail::sandbox;
use crate::jail::sandbox::ProcessKind;
use crate::launch::options;
use crate::log::errno::why;
use crate::processes::control::ControlReply;
use crate::processes::spawn::SpawnContext;
use crate::report;
use crate::report::{Gathered, Gathering};

/// The purpose of reports that workers are asked for.
#[derive(Clone, Copy, Debug)]
pub(in crate::event_loop) enum ReportRequest {
    /// The status page.
    Status(Form),
    /// One connection.
    Connection(u32),
    /// The number of idlers.
    Idlers,
}

impl Supervisor {
    /// Begins to execute a command.
    pub(in crate::event_loop) fn begin(
        &mut self,
        by: Requester,
        command: Command,
        file: Option<OwnedFd>,
        now: Instant,
    ) -> Progress {
        if let Some(reply) = self.known(&command) {
            return Progress::Done(reply);
        }
        match command {
            Command::Close(number) => self.close(number, by, now),
            Command::Connection(number) => self.connection(number, now),
            Command::Exit if self.state.allow_exit => {
                self.queue.exit(by);
                Progress::Done(ControlReply::none())
            }
            Command::Explain(ip) => self.explain(ClientKey::from_ip(ip), now),
            Command::Number(Number::Idlers, None) => {
                self.gather(ReportRequest::Idlers, |_| true, now)
            }
            Command::Status(form) => self.gather(ReportRequest::Status(form), |_| true, now),
            Command::Servers(form) => {
                let SpawnContext { settings, table, jail, .. } = &self.context;
                task("servers", jail, &[], now, |to, _| {
                    jail.sandbox.enter_reporter()?;
                    report::servers(form, settings, table, to)
                })
            }
            Command::Certificates(form) => {
                let SpawnContext { keys, jail, .. } = &self.context;
                let facts = keys.as_ref().map_or(&[][..], |keys| &keys.certificates.facts);
                task("certificates", jail, &[], now, |to, _| {
                    jail.sandbox.enter_reporter()?;
                    report::certificates(form, facts, to)
                })
            }
            Command::Overview => {
                let SpawnContext { settings, table, jail, .. } = &self.context;
                let listen = self.state.local.to_string();
                let program = self.program(&listen, now);
                task("overview", jail, &[], now, |to, _| {
                    jail.sandbox.enter_reporter()?;
                    report::overview(&program, settings, table, to)
                })
            }
            Command::Recent(seconds, form) => {
                let SpawnContext { settings, table, jail, .. } = &self.context;
                task("recent", jail, &[], now, |to, _| {
                    jail.sandbox.enter_reporter()?;
                    report::recent(seconds, form, settings, table, to)
                })
            }
            Command::Write(path) => self.write(path.as_deref(), file, now),
            Command::WriteHere => self.write_to(&QueryTarget::Reply, now),
            Command::Show(word) => self.show(word.as_deref(), now),
            Command::Include(path) => self.include(path, now),
            command => {
                let batch = Batch::single(command, file);
                self.look_up(batch, now)
            }
        }
    }

    /// The reply to a query that needs no other process.
    fn known(&self, command: &Command) -> Option<ControlReply> {
        let (state, settings) = (&self.state, &self.context.settings);
        Some(match command {
            Command::Nothing => ControlReply::none(),
            Command::Number(which, None) => return self.number(*which),
            Command::Control => match &self.control {
                Some(control) => ControlReply::line(control.name()),
                None => ControlReply::none(),
            },
            Command::Exit if !state.allow_exit => {
                ControlReply::refusal("Exit is not enabled; restart with -X flag")
            }
            Command::Help(word) => ControlReply::text(help(word.as_deref())),
            Command::Listen(None) => ControlReply::line(&state.local),
            Command::Log(None) => match &state.log {
                Some(target) => ControlReply::line(log_name(target)),
                None => ControlReply::none(),
            },
            Command::Mode(Form::Plain) => ControlReply::line(mode(settings.selection)),
            Command::Mode(Form::Json) => ControlReply::line(mode_json(settings.selection)),
            Command::Pid => ControlReply::line(std::process::id()),
            Command::Sandbox => ControlReply::text(sandbox::table(&self.context.jail)),
            // Each worker has descriptor numbers of its own: one number can mean several
            // connections.
            Command::Socket(number) => {
                ControlReply::line(format!("Socket {number} belongs to connection -1"))
            }
            Command::WebStats(None) => match &state.status {
                Some(file) => ControlReply::line(file.name().display()),
                None => ControlReply::none(),
            },
            _ => return None,
        })
    }

    /// Figures of the program that only this process knows.
    pub(in crate::event_loop) fn program<'l>(
        &self,
        listen: &'l str,
        now: Instant,
    ) -> report::Program<'l> {
        let uptime = now.saturating_duration_since(self.state.started);
        report::Program { uptime, listen, workers: self.pool.ids().count() }
    }

    fn number(&self, which: Number) -> Option<ControlReply> {
        let settings = &self.context.settings;
        Some(match which {
            Number::AcceptBatch => ControlReply::line(settings.accept_batch),
            Number::Backlog => ControlReply::line(settings.backlog),
            Number::Blacklist => ControlReply::line(settings.blacklist),
            Number::ClientAcl => ControlReply::line(settings.client_acl),
            Number::ClientsMax => ControlReply::line(settings.clients_max),
            Number::ConnMax => ControlReply::line(settings.connections_max),
            Number::ControlAcl => ControlReply::line(settings.control_acl),
            Number::Debug => ControlReply::line(settings.debug),
            Number::IdleTimeout => {
                ControlReply::line(format!("Idle timeout: {} seconds", settings.idle_timeout))
            }
            Number::Idlers => return None,
            Number::MaxServers => ControlReply::line(settings.table_size()),
            Number::PendingMax => ControlReply::line(settings.pending_max),
            Number::Timeout => ControlReply::line(settings.connect_timeout),
            Number::Tracking => ControlReply::line(settings.tracking),
            Number::Workers => ControlReply::line(self.pool.ids().count()),
        })
    }

    fn close(&mut self, number: u32, by: Requester, now: Instant) -> Progress {
        if number >= self.context.settings.connections_max {
            return Progress::Done(ControlReply::refusal(format!(
                "Connection {number} out of range"
            )));
        }
        let reply = ControlReply::line(format!("Forcibly closing connection {number}"));
        // Taken before the lookup, so that a later connection with this number is not closed.
        let before = clock::precise();
        let owner = self.owner(number).and_then(|owner| self.pool.worker_mut(owner));
        match owner {
            Some(worker) => {
                worker.order_close(number, before);
                self.tell_operator(&format!("close {number}, by {by}"), now);
                // The settings are sent behind the order: a worker that has applied them has
                // carried out the order.
                self.publish_anew(AfterApply::Reply(reply), now)
            }
            None => Progress::Done(ControlReply::refusal(format!(
                "close: connection {number} is not in use"
            ))),
        }
    }

    fn owner(&self, number: u32) -> Option<WorkerId> {
        let worker = self.context.table.connection_owner(number)?;
        u8::try_from(worker).ok().map(WorkerId)
    }

    fn connection(&mut self, number: u32, now: Instant) -> Progress {
        if number >= self.context.settings.connections_max {
            return Progress::Done(ControlReply::refusal(format!(
                "Connection {number} out of range"
            )));
        }
        match self.owner(number) {
            Some(owner) => {
                self.gather(ReportRequest::Connection(number), |worker| worker == owner, now)
            }
            None => Progress::Done(connection(number, None)),
        }
    }

    fn explain(&mut self, client: ClientKey, now: Instant) -> Progress {
        let serial = self.queue.next_serial();
        let asked = |worker: &&crate::processes::worker::Worker| {
            worker.peer.is_ready() && worker.ask_explanation(serial, client.bytes())
        };
        match self.pool.workers().find(asked).map(|worker| worker.id) {
            Some(worker) => {
                let explaining =
                    Explaining { worker, serial, deadline: now + PATIENCE, answer: None };
                Progress::Wait(JobStage::Explaining(explaining))
            }
            None => Progress::Done(ControlReply::refusal("explain: no worker can answer now")),
        }
    }

    fn gather(
        &mut self,
        wanted: ReportRequest,
        of: impl Fn(WorkerId) -> bool,
        now: Instant,
    ) -> Progress {
        let serial = self.queue.next_serial();
        let (asked, unreachable): (BTreeSet<_>, BTreeSet<_>) = self.ask_reports(serial, of);
        Progress::Wait(JobStage::Gathering(Gathering::new(serial, asked, unreachable, now), wanted))
    }

    /// Replies with the reports of the workers.
    pub(in crate::event_loop) fn gathered(
        &mut self,
        gathered: &Gathered,
        wanted: ReportRequest,
        now: Instant,
    ) -> Progress {
        let SpawnContext { settings, table, jail, .. } = &self.context;
        match wanted {
            ReportRequest::Connection(number) => {
                let found = gathered.connections.iter().find(|info| info.number == number);
                Progress::Done(connection(number, found))
            }
            ReportRequest::Idlers => {
                let present = gathered.connections.iter().filter(|info| is_idler(info)).count();
                Progress::Done(ControlReply::line(format!("Idlers: {present}/{}", settings.idlers)))
            }
            ReportRequest::Status(form) => {
                let (file, logger) = (self.state.status.as_ref(), &self.logger);
                let keep: Vec<_> = file.and_then(StatusFile::descriptor).into_iter().collect();
                let listen = self.state.local.to_string();
                let (program, state) = (self.program(&listen, now), (settings, table));
                task("status", jail, &keep, now, |to, context| {
                    jail.sandbox.enter_reporter()?;
                    let sandbox = jail.sandbox.summary(jail.root.is_some());
                    if let (Form::Plain, Some(file)) = (form, file) {
                        let render = |to: &mut dyn Write| {
                            report::status(form, gathered, &program, state, &sandbox, to)
                        };
                        if let Err(error) = file.put(
                            Writer::Command(context.supervisor.as_raw().unsigned_abs()),
                            render,
                        ) {
                            logger.anew().warning(&error.to_string());
                        }
                    }
                    report::status(form, gathered, &program, state, &sandbox, to)
                })
            }
        }
    }

    /// Writes the settings to a file. With `write FILE` it is a file that the control process
    /// opened. Without a name it is the file of `-F`, written with the rights of the control
    /// process. These are less than the supervisor's: root reads the file at the next start, so
    /// nobody else may write it.
    fn write(&self, path: Option<&Path>, file: Option<OwnedFd>, now: Instant) -> Progress {
        let state = &self.state;
        let target = match (path, file, &state.config) {
            (Some(path), Some(file), _) => QueryTarget::Held(path, File::from(file)),
            (Some(path), None, _) => {
                return Progress::Done(ControlReply::refusal(format!(
                    "write: {}: it was not opened",
                    path.display()
                )));
            }
            (None, _, Some(path)) => QueryTarget::Config(path),
            (None, _, None) => {
                return Progress::Done(ControlReply::refusal(
                    "write: which file? There is no -F; say write FILE",
                ));
            }
        };
        self.write_to(&target, now)
    }

    /// Shows the settings in force.
    fn show(&self, word: Option<&str>, now: Instant) -> Progress {
        let (state, SpawnContext { settings, jail, .. }) = (&self.state, &self.context);
        let workers = u32::try_from(self.pool.ids().count()).unwrap_or(u32::MAX);
        let in_force = InForce {
            settings,
            startup: &state.startup,
            listen: &state.local,
            log: state.log.as_ref(),
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
        task("show", jail, &[], now, |to, _| {
            jail.sandbox.enter_reporter()?;
            to.write_all(in_force.text(word).as_bytes())
        })
    }

    fn write_to(&self, target: &QueryTarget<'_>, now: Instant) -> Progress {
        let state = &self.state;
        let header =
            [format!("Generated by pen {}", clock::full(clock::now())), state.command_line.clone()];
        let log = state.log.as_ref().map(|target| match target {
            LogTarget::File(path) if state.log_is_held => {
                LogTarget::File(self.seen_from_outside(path))
            }
            other => other.clone(),
        });
        let status_file = state.status.as_ref().map(|file| match file {
            StatusFile::Held { name, .. } => self.seen_from_outside(name),
            StatusFile::Path(path) => path.clone(),
        });
        let listen = match &state.local {
            Local::Unix(path) if state.guard.is_jailed() => {
                Local::Unix(self.seen_from_outside(path))
            }
            other => other.clone(),
        };
        let mut settings = Cow::Borrowed(&self.context.settings);
        if let (Some(path), Some(_)) = (&self.context.settings.tls.ocsp, &state.ocsp) {
            settings.to_mut().tls.ocsp = Some(self.seen_from_outside(path));
        }
        let startup = options::written(&state.startup, &state.commanded);
        let written = Written {
            header: &header,
            settings: &settings,
            given: &state.given,
            log: log.as_ref(),
            status_file: status_file.as_deref(),
            listen: Some(&listen),
            workers: state.workers,
            startup: &startup,
            servers_only: state.servers_only,
        };
        let jail = Jail { root: None, ..self.context.jail.clone() };
        let keep: Vec<_> = target.descriptor().into_iter().collect();
        task("write", &jail, &keep, now, |to, TaskContext { supervisor, reply }| {
            let text = text(&written);
            let put = |to: &mut dyn Write| to.write_all(text.as_bytes());
            let named = |path: &Path, error| {
                io::Error::other(format!("{}: {}", path.display(), why(&error)))
            };
            match target {
                QueryTarget::Reply => {
                    jail.sandbox.enter_reporter()?;
                    to.write_all(text.as_bytes())
                }
                QueryTarget::Held(path, file) => status_file::fill(file, put)
                    .and_then(|()| file.sync_all())
                    .map_err(|error| named(path, error)),
                QueryTarget::Config(path) => {
                    // The target of a link is written. The rights of the operators decide whether
                    // that is allowed.
                    let path = &std::fs::canonicalize(path).unwrap_or(path.to_path_buf());
                    // The reply is written to memory through this descriptor, so it has to stay
                    // open.
                    jail.enter(ProcessKind::Writer, supervisor, &[reply])
                        .map_err(io::Error::other)?;
                    status_file::rewrite(
                        path,
                        Writer::Command(supervisor.as_raw().unsigned_abs()),
                        put,
                    )
                    .map_err(|error| not_written(path, error))
                }
            }
        })
    }

    /// The path that an operator named, as a configuration file outside the jail has to name it.
    fn seen_from_outside(&self, path: &Path) -> PathBuf {
        let inside = in_jail(path);
        match &self.context.jail.root {
            Some(root) => root.join(inside.strip_prefix("/").unwrap_or(&inside)),
            None => inside,
        }
    }
}

enum QueryTarget<'a> {
    Held(&'a Path, File),
    Config(&'a Path),
    Reply,
}

/// The reason why the file of `-F` was not written: as packaged, operators may not write it.
fn not_written(path: &Path, error: io::Error) -> io::Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; write - replies with what would be written"
        }
        _ => "",
    };
    io::Error::other(format!("{}: {}{hint}", path.display(), why(&error)))
}

impl QueryTarget<'_> {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            QueryTarget::Held(_, file) => Some(file.as_fd()),
            QueryTarget::Config(_) | QueryTarget::Reply => None,
        }
    }
}

/// Runs `work` in a child.
fn task(
    word: &'static str,
    jail: &Jail,
    keep: &[BorrowedFd<'_>],
    now: Instant,
    work: impl FnOnce(&mut dyn Write, TaskContext<'_>) -> io::Result<()>,
) -> Progress {
    match HelperTask::begin(word, jail.identity.uid, keep, now, work) {
        Ok(task) => Progress::Wait(JobStage::HelperTask(task, word, None)),
        Err(error) => {
            Progress::Done(ControlReply::refusal(format!("{word}: not now: {}", why(&error))))
        }
    }
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

fn log_name(target: &LogTarget) -> String {
    match target {
        LogTarget::File(path) => path.display().to_string(),
        LogTarget::Network(host, port) => format!("{host}:{port}"),
    }
}

/// The modes in the order of the original pen.
fn modes(selection: Selection) -> [(&'static str, bool); 5] {
    let Selection { roundrobin, hash, weight, prio, stubborn, .. } = selection;
    [
        ("hash", hash),
        ("roundrobin", roundrobin),
        ("stubborn", stubborn),
        ("weight", weight),
        ("prio", prio),
    ]
}

fn mode(selection: Selection) -> String {
    modes(selection)
        .map(|(name, on)| if on { name.to_owned() } else { format!("no {name}") })
        .join(" ")
}

fn mode_json(selection: Selection) -> String {
    let fields = modes(selection).map(|(name, on)| format!("\"{name}\":{on}"));
    format!("{{{},\"hash_always\":{}}}", fields.join(","), selection.hash_always)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processes::control::ReplyBody;

    #[test]
    fn the_modes_are_one_line() {
        let some = Selection { hash: true, weight: true, ..Selection::default() };
        assert_eq!(
            mode(Selection::default()),
            "no hash no roundrobin no stubborn no weight no prio"
        );
        assert_eq!(mode(some), "hash no roundrobin no stubborn weight no prio");
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
