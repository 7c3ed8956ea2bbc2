//! From [`Resolved`] to [`Accepted`]: the TLS files are read and examined. Nobody sees anything of
//! it.

#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use pen_config::command::{Setting, last};
use pen_config::tls::servers::ServerTls;
use pen_ipc::text::error_text;
use pen_ipc::tls_files::Examined;

use crate::event_loop::Supervisor;
use crate::event_loop::job::Progress;
use crate::event_loop::reload::configuration::{Configuration, in_jail};
use crate::event_loop::reload::stages::{
    Accepted, Change, NewTls, OpenPurpose, Opened, Opening, ReloadStage, Resolved, TlsSide,
    Unexamined,
};
use crate::files::memory;
use crate::files::tls_material;
use crate::helpers::examine::Examining;
use crate::helpers::open::{Fetched, OpenRequest};
use crate::processes::spawn::SpawnContext;

impl Supervisor {
    /// Opens the OCSP response, if an operator names one, and continues.
    pub(in crate::event_loop::reload) fn open_ocsp(
        &mut self,
        mut resolved: Resolved,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let Configuration { source, commands } = &mut resolved.configuration;
        let (path, at) = match last(&*commands, Setting::ocsp) {
            None => return self.read_tls(resolved, Change::Keep, now),
            Some((Some(path), sourced))
                if source.is_operator() && !self.is_the_administrators(path) =>
            {
                (path.to_owned(), sourced.at() + "ssl_ocsp_response: ")
            }
            // The administrator's file, not one of the same name in the jail.
            Some(_) => return self.read_tls(resolved, Change::Clear, now),
        };
        match source.take_file() {
            Some(file) => self.hold_ocsp(file, &path, &at, resolved, now),
            None => {
                let request = OpenRequest::Ocsp(in_jail(&path));
                self.fetch(&request, OpenPurpose::Ocsp(path, at, Box::new(resolved)), now)
            }
        }
    }

    /// Whether this path is the OCSP response that the administrator named, not an operator.
    fn is_the_administrators(&self, path: &Path) -> bool {
        self.state.ocsp.is_none() && Some(path) == self.context.settings.tls.ocsp.as_deref()
    }

    /// Copies the OCSP response of an operator, and continues.
    pub(in crate::event_loop::reload) fn hold_ocsp(
        &mut self,
        file: OwnedFd,
        path: &Path,
        at: &str,
        resolved: Resolved,
        now: Instant,
    ) -> Progress<ReloadStage> {
        match tls_material::hold(file) {
            Ok(held) => self.read_tls(resolved, Change::Set(held), now),
            Err(why) => {
                let error = format!("{at}{}: {why}", path.display());
                self.refuse(&resolved.configuration, vec![error])
            }
        }
    }

    /// Has a reader read the TLS files, if they are to be read again, and continues.
    fn read_tls(
        &mut self,
        resolved: Resolved,
        ocsp: Change<OwnedFd>,
        now: Instant,
    ) -> Progress<ReloadStage> {
        if !self.reads_tls(&resolved) {
            return self.read_server_tls(resolved, ocsp, None, now);
        }
        let held = match &ocsp {
            Change::Keep => self.state.ocsp.as_ref(),
            Change::Clear => None,
            Change::Set(ocsp) => Some(ocsp),
        };
        let tls = Box::new(resolved.settings.tls.clone());
        match held.map(OwnedFd::try_clone).transpose() {
            Ok(held) => {
                let purpose = OpenPurpose::Tls(Box::new((resolved, ocsp)), TlsSide::Clients);
                self.fetch(&OpenRequest::Keys(tls, held), purpose, now)
            }
            Err(error) => {
                let error = format!("the files of TLS cannot be read now: {}", error_text(&error));
                self.refuse(&resolved.configuration, vec![error])
            }
        }
    }

    /// Whether to read the TLS files again: when a command or HUP requests it, and when the TLS
    /// settings change.
    fn reads_tls(&self, resolved: &Resolved) -> bool {
        let Resolved { configuration, settings, .. } = resolved;
        let names_files =
            |setting: &Setting| matches!(setting, Setting::SslOcsp(_) | Setting::SslNames(_));
        let is_asked =
            !configuration.source.is_operator() || configuration.settings().any(names_files);
        settings.tls.is_on() && (is_asked || settings.tls != self.context.settings.tls)
    }

    /// Has a reader read the files of TLS towards servers, if they are to be read, and continues.
    fn read_server_tls(
        &mut self,
        resolved: Resolved,
        ocsp: Change<OwnedFd>,
        clients: Option<NewTls>,
        now: Instant,
    ) -> Progress<ReloadStage> {
        if !resolved.settings.has_server_tls() {
            return self.begin_opening(resolved, ocsp, clients, Change::Clear, now);
        }
        if !self.reads_server_tls(&resolved) {
            return self.begin_opening(resolved, ocsp, clients, Change::Keep, now);
        }
        let request = OpenRequest::ServerKeys(Box::new(resolved.settings.server_tls.clone()));
        let side = TlsSide::Servers(clients);
        self.fetch(&request, OpenPurpose::Tls(Box::new((resolved, ocsp)), side), now)
    }

    /// Whether to read the files of TLS towards servers: for the first server that speaks it, for
    /// HUP, and when the settings of the files change. Not each hour, as those towards clients:
    /// other files end the sessions that could be resumed.
    fn reads_server_tls(&self, resolved: &Resolved) -> bool {
        let (running, wanted) = (&self.context.settings.server_tls, &resolved.settings.server_tls);
        let files = |tls: &ServerTls| {
            (tls.verify, tls.ca.clone(), tls.certificate.clone(), tls.key.clone())
        };
        self.context.server_keys.is_none()
            || self.queue.is_hangup()
            || files(running) != files(wanted)
    }

    /// Has an examiner check the TLS files that a reader read.
    pub(in crate::event_loop::reload) fn examine_tls(
        &mut self,
        fetched: Result<Fetched, String>,
        resolved: Resolved,
        ocsp: Change<OwnedFd>,
        side: TlsSide,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let SpawnContext { jail, entries, .. } = &self.context;
        let examiner = match side {
            TlsSide::Clients => entries.examine_tls,
            TlsSide::Servers(_) => entries.examine_server_tls,
        };
        let begun = fetched.and_then(|Fetched { descriptor, notices, .. }| {
            let examining = Examining::begin(&descriptor, examiner, jail, now)?;
            Ok((examining, descriptor, notices))
        });
        match begun {
            Ok((examining, files, notices)) => {
                let unexamined = Box::new(Unexamined { resolved, ocsp, files, notices, side });
                Progress::Wait(ReloadStage::Examining(examining, unexamined))
            }
            Err(why) => self.refuse(&resolved.configuration, vec![why]),
        }
    }

    /// Continues with TLS files that the examiner has checked.
    pub(in crate::event_loop::reload) fn examined(
        &mut self,
        found: Result<Examined, String>,
        unexamined: Unexamined,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let Unexamined { resolved, ocsp, files, notices, side } = unexamined;
        match found {
            Ok(found) => {
                let notices = notices.into_iter().chain(found.notices).collect();
                let tls = NewTls { files, certificates: found.certificates, notices };
                match side {
                    TlsSide::Clients => self.read_server_tls(resolved, ocsp, Some(tls), now),
                    TlsSide::Servers(clients) => {
                        self.begin_opening(resolved, ocsp, clients, Change::Set(tls), now)
                    }
                }
            }
            Err(why) => self.refuse(&resolved.configuration, vec![why]),
        }
    }

    /// Begins to open what an accepted change needs.
    fn begin_opening(
        &mut self,
        resolved: Resolved,
        ocsp: Change<OwnedFd>,
        tls: Option<NewTls>,
        server_tls: Change<NewTls>,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let Resolved { configuration, settings, unopened, notices } = resolved;
        let encoded = match memory::encoded(&settings) {
            Ok(encoded) => encoded,
            Err(error) => {
                let error = format!("the settings cannot be sent: {}", error_text(&error));
                return self.refuse(&configuration, vec![error]);
            }
        };
        let log = Change::clear_if_none(last(&configuration.commands, Setting::log));
        let connection_log =
            Change::clear_if_none(last(&configuration.commands, Setting::connection_log));
        let status_file = Change::clear_if_none(last(&configuration.commands, Setting::web_stats));
        let accepted =
            Accepted { configuration, settings, encoded, ocsp, tls, server_tls, notices };
        let opened = Opened { listener: None, log, connection_log, status_file };
        self.open(Opening { accepted, opened, unopened: unopened.into() }, now)
    }
}
