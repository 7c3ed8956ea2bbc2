//! From [`Plan`] to [`Applied`]: the change is put in force, and all processes are waited for.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use pen_config::apply;
use pen_config::checks::Admission;
use pen_config::ids::{ServerId, Target};
use pen_config::names::places::settle_epochs;
use pen_config::settings::Settings;
use pen_ipc::message::ClientLimits;
use pen_ipc::text::error_text;
use pen_status::event::EventKind;

use crate::event_loop::Supervisor;
use crate::event_loop::job::{PATIENCE, Progress, Requester};
use crate::event_loop::moves::Moves;
use crate::event_loop::reload::open::about_listen;
use crate::event_loop::reload::stages::{
    Accepted, Applied, Change, NewConnectionLog, NewListener, NewLog, NewSocket, NewStatusFile,
    NewTls, Opened, Plan, ReloadStage, Success,
};
use crate::event_loop::state::{FileGuard, ListenerGuard, leave_out};
use crate::files::memory;
use crate::files::tls_material::READING;
use crate::files::tls_material::servers::ServerKeys;
use crate::kept::Origin;
use crate::kept::regained::Port;
use crate::kept::state::End;
use crate::log::recent::Incident;
use crate::processes::ports::control::ControlReply;
use crate::processes::worker::Worker;

impl Supervisor {
    /// Listens at the new address, which can fail, and puts the rest in force, which cannot.
    pub(in crate::event_loop::reload) fn apply(
        &mut self,
        plan: Plan,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let settings = plan.accepted.configuration.settings();
        let blacklist: Vec<_> = settings.filter_map(apply::blacklisting).collect();
        let success = self.success(&plan, &blacklist);
        let Plan { accepted, opened } = plan;
        let Accepted { configuration, settings, encoded, ocsp, tls, server_tls, notices } =
            accepted;
        let Opened { listener, log, connection_log, status_file } = opened;
        if let Err(why) = self.replace_listener(listener, settings.backlog) {
            return self.refuse(&configuration, vec![why]);
        }
        let of_tls = tls.as_ref().map_or(&[][..], |tls| &tls.notices);
        let of_servers = match &server_tls {
            Change::Set(tls) => &tls.notices[..],
            Change::Keep | Change::Clear => &[],
        };
        notices
            .iter()
            .chain(of_tls)
            .chain(of_servers)
            .for_each(|notice| self.logger.warning(notice));
        let moves = self.begin_moves(&settings);
        self.replace_log(log);
        self.replace_connection_log(connection_log);
        if settings.connection_log_format != self.context.settings.connection_log_format {
            self.renew_connection_log();
        }
        match ocsp {
            Change::Keep => {}
            Change::Clear => self.state.ocsp = None,
            Change::Set(ocsp) => self.state.ocsp = Some(ocsp),
        }
        if let Some(tls) = tls {
            self.replace_tls(tls, configuration.source.is_operator(), now);
        }
        self.replace_server_tls(server_tls, configuration.source.is_operator(), now);
        match status_file {
            Change::Keep => {}
            Change::Clear => self.state.status = None,
            Change::Set(NewStatusFile { file, made }) => {
                made.into_iter().for_each(FileGuard::keep);
                self.state.status = Some(file);
            }
        }
        if !configuration.source.is_operator() {
            let names_all = apply::names_all(&configuration.commands);
            self.state.servers_only = names_all.unwrap_or(self.state.servers_only);
        }
        self.keeper.blacklisted(&blacklist, configuration.source.is_operator());
        self.publish(settings, encoded);
        self.tell_positions(&moves);
        self.settling(moves, blacklist, ControlReply::none(), success, now)
    }

    /// Moves to a new listener.
    fn replace_listener(
        &mut self,
        listener: Option<NewListener>,
        backlog: u32,
    ) -> Result<(), String> {
        let Some(NewListener { local, address, socket }) = listener else { return Ok(()) };
        let new = match socket {
            NewSocket::Present => None,
            NewSocket::Reserved(reserved, at) => {
                let listening = reserved.listen_beside(backlog, self.state.guard.as_fd());
                let listening = listening.map_err(|error| at + &about_listen(error))?;
                let (socket, path) = listening.into_parts();
                Some((socket, path.map(FileGuard::Own)))
            }
            NewSocket::Jailed(path, socket) => Some((socket, Some(FileGuard::Jailed(path)))),
        };
        if let Some((socket, path)) = new {
            self.context.listener = Rc::new(socket);
            self.pool.workers_mut().for_each(|worker| worker.renew_listener());
            let guard = ListenerGuard::new(self.context.listener.clone(), path);
            self.state.retired.push(std::mem::replace(&mut self.state.guard, guard));
            self.keeper.note(Port::Listener, Origin::Own);
        }
        (self.state.local, self.state.listen) = (local, address);
        Ok(())
    }

    /// Moves to a new request log.
    fn replace_log(&mut self, log: Change<NewLog>) {
        (self.state.log, self.state.log_is_held, self.context.log) = match log {
            Change::Keep => return,
            Change::Clear => (None, false, None),
            Change::Set(NewLog { target, log, is_held, made }) => {
                made.into_iter().for_each(FileGuard::keep);
                (Some(target), is_held, Some(log))
            }
        };
        self.pool.workers_mut().for_each(|worker| worker.renew_log());
        self.old.renew_log();
    }

    /// Moves to a new connection log.
    fn replace_connection_log(&mut self, log: Change<NewConnectionLog>) {
        let state = &mut self.state;
        (state.connection_log, state.connection_log_is_held, self.context.connection_log) =
            match log {
                Change::Keep => return,
                Change::Clear => (None, false, None),
                Change::Set(NewConnectionLog { target, log, is_held, made }) => {
                    made.into_iter().for_each(FileGuard::keep);
                    (Some(target), is_held, Some(log))
                }
            };
        self.renew_connection_log();
    }

    /// Moves to new files of TLS towards servers. If no server speaks TLS any more, workers and the
    /// checker forget them, with the key.
    fn replace_server_tls(&mut self, change: Change<NewTls>, by_operator: bool, now: Instant) {
        match change {
            Change::Keep => return,
            // Most changes of settings: there are no files, and were none.
            Change::Clear if self.context.server_keys.is_none() => return,
            Change::Clear => self.context.server_keys = None,
            Change::Set(NewTls { files, certificates, notices: _ }) => {
                let files = Rc::new(files);
                match &mut self.context.server_keys {
                    Some(keys) => {
                        keys.files = files;
                        keys.certificates.replace(certificates, by_operator, now);
                    }
                    None => {
                        self.context.server_keys = Some(ServerKeys::new(files, certificates, now));
                    }
                }
            }
        }
        let files = self.context.server_keys.as_ref().map(|keys| keys.files.clone());
        self.pool.workers_mut().for_each(|worker| worker.renew_server_tls());
        if let Some(checker) = self.checking.process_mut() {
            checker.renew_server_tls(files);
        }
    }

    /// Moves to new TLS files.
    fn replace_tls(&mut self, tls: NewTls, by_operator: bool, now: Instant) {
        let NewTls { files, certificates, notices: _ } = tls;
        let Some(keys) = &mut self.context.keys else { return };
        (keys.files, keys.reading) = (files, now + READING);
        keys.certificates.replace(certificates, by_operator, now);
        self.pool.workers_mut().for_each(|worker| worker.renew_tls());
    }

    /// Sends the settings in force again. Their acknowledgement proves that all earlier messages
    /// have arrived.
    pub(in crate::event_loop) fn publish_anew(
        &mut self,
        reply: ControlReply,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let settings = self.context.settings.clone();
        match self.publish_next(settings, Success::Nothing) {
            Ok(success) => self.settling(Moves::default(), Vec::new(), reply, success, now),
            // The time of arrival is unknown then, but the messages will arrive.
            Err(_) => Progress::Done(reply),
        }
    }

    /// Begins or ends a pause, by this command.
    pub(in crate::event_loop) fn set_admission(
        &mut self,
        admission: Admission,
        command: &str,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let running = &self.context.settings;
        let success = match running.admission == admission {
            true => Success::Nothing,
            false => {
                let incident = Incident::of(EventKind::Operator).with("command", command);
                Success::Operator(command.to_owned(), incident)
            }
        };
        match self.publish_next(Settings { admission, ..running.clone() }, success) {
            Ok(success) => {
                self.old.order_admit(admission);
                let none = ControlReply::none();
                self.settling(Moves::default(), Vec::new(), none, success, now)
            }
            Err(error) => Progress::Done(ControlReply::refusal(format!(
                "{command}: the settings cannot be sent: {}",
                error_text(&error)
            ))),
        }
    }

    /// Puts settings in force as the next generation.
    pub(in crate::event_loop) fn publish_next(
        &mut self,
        settings: Settings,
        success: Success,
    ) -> io::Result<Success> {
        let settings = Settings { generation: settings.generation + 1, ..settings };
        let encoded = memory::encoded(&settings)?;
        self.publish(settings, encoded);
        Ok(success)
    }

    /// Puts settings in force in which names have other addresses.
    pub(in crate::event_loop) fn publish_moved(&mut self, settings: Settings) -> io::Result<Moves> {
        let mut settings = Settings { generation: settings.generation + 1, ..settings };
        settle_epochs(&self.context.settings, &mut settings);
        let encoded = memory::encoded(&settings)?;
        let moves = self.begin_moves(&settings);
        self.publish(settings, encoded);
        self.tell_positions(&moves);
        Ok(moves)
    }

    /// Puts settings in force, and sends them to all processes.
    fn publish(&mut self, settings: Settings, encoded: OwnedFd) {
        self.logger.set_verbosity(settings.debug);
        self.context.table.grow_clients(settings.clients_max);
        if settings.backlog != self.context.settings.backlog {
            // On a socket that listens already, listen(2) only sets the length of the queue.
            let backlog = i32::try_from(settings.backlog).unwrap_or(i32::MAX);
            let _ = rustix::net::listen(&self.context.listener, backlog);
        }
        let before = std::mem::replace(&mut self.context.settings, settings);
        self.context.encoded = encoded;
        self.renew_checks();
        self.follow_names();
        // Before the workers know of a new server: nobody may go there who should not.
        self.restate_new(&before);
        self.pool.workers_mut().for_each(|worker| worker.renew_settings());
        // Old workers get no settings, but their connections count for these limits.
        let limits = [&before, &self.context.settings].map(|of| ClientLimits::from(of.per_client));
        if limits[0] != limits[1] {
            self.old.order_limits(limits[1]);
        }
        self.control.iter_mut().for_each(|control| control.renew_settings());
        self.page.iter_mut().for_each(|page| page.renew_settings());
        self.send_due();
        self.keep(End::Running);
    }

    pub(in crate::event_loop) fn settling(
        &self,
        moves: Moves,
        blacklist: Vec<(ServerId, u32)>,
        reply: ControlReply,
        success: Success,
        now: Instant,
    ) -> Progress<ReloadStage> {
        Progress::Wait(ReloadStage::Applied(Applied {
            generation: self.context.settings.generation,
            deadline: now + PATIENCE,
            moves,
            blacklist,
            reply,
            success,
        }))
    }

    /// Waits until all processes work by the new settings, or until the deadline.
    pub(in crate::event_loop::reload) fn settle(
        &mut self,
        by: Requester,
        applied: Applied,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let generation = applied.generation;
        let control = self.control.as_ref().is_none_or(|control| control.has_applied(generation));
        let late = |worker: &&Worker| !worker.has_applied(generation) || !worker.has_moved();
        let page = self.page.as_ref().is_none_or(|page| page.has_applied(generation));
        let checker = self.checking.process();
        let checker = checker.is_none_or(|checker| checker.has_applied(generation));
        let is_late =
            !control || !page || !checker || self.pool.workers().any(|worker| late(&worker));
        if now < applied.deadline && is_late {
            return Progress::Wait(ReloadStage::Applied(applied));
        }
        let silent: Vec<String> = self
            .pool
            .workers()
            .filter(|worker| worker.peer.is_ready())
            .filter(late)
            .map(|worker| format!("worker {} (pid {})", worker.id, worker.peer.pid()))
            .chain((!control).then(|| "the control process".into()))
            .chain((!page).then(|| "the page process".into()))
            .chain((!checker).then(|| "the checker".into()))
            .collect();
        for name in silent {
            self.logger.warning(&format!(
                "{name} has not taken the new settings within {} s",
                PATIENCE.as_secs()
            ));
        }
        self.settled(by, applied, now)
    }

    /// Finishes a change that all processes have applied.
    fn settled(&mut self, by: Requester, applied: Applied, now: Instant) -> Progress<ReloadStage> {
        let Applied { moves, blacklist, reply, success, .. } = applied;
        self.finish_moves(moves);
        let (table, servers) = (&self.context.table, self.context.settings.table_size());
        for (server, seconds) in blacklist {
            leave_out(table, Target::Server(server).row(servers), seconds);
        }
        self.restate_left();
        self.tell_success(success, by, now);
        Progress::Done(reply)
    }
}
