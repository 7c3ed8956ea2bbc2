//! The files and sockets of a change are opened, last of all that can fail. If one cannot be
//! opened, the files that were made for the others are removed again, and no client has seen the
//! new listener.

#![forbid(unsafe_code)]

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use pen_config::address::{Address, Local};
use pen_config::command::LogTarget;
use pen_ipc::start::RequestLog;
use pen_ipc::text::error_text;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use crate::event_loop::Supervisor;
use crate::event_loop::job::Progress;
use crate::event_loop::reload::configuration::in_jail;
use crate::event_loop::reload::stages::{
    Accepted, Change, JailedTarget, NewConnectionLog, NewListener, NewLog, NewSocket,
    NewStatusFile, OpenPurpose, OpenTarget, Opened, Opening, Plan, ReloadStage, Unopened,
};
use crate::event_loop::state::FileGuard;
use crate::files::line_log;
use crate::files::line_log::{LineLog, OpenLog};
use crate::files::listener;
use crate::files::listener::{Bound, ListenError, Reserved, bind_first};
use crate::files::status_file;
use crate::files::status_file::StatusFile;
use crate::helpers::open::{Fetched, JailedFile, OpenRequest};

impl Supervisor {
    /// Opens what is still to be opened, and puts the change in force. Paths that an operator named
    /// are opened in the jail, one after the other.
    pub(in crate::event_loop::reload) fn open(
        &mut self,
        mut opening: Opening,
        now: Instant,
    ) -> Progress<ReloadStage> {
        while let Some(Unopened { target, at }) = opening.unopened.pop_front() {
            let Opening { accepted, opened, .. } = &mut opening;
            let done = match target {
                OpenTarget::Listener(local, addresses) => {
                    self.reserve(local, &addresses, &at, &mut opening)
                }
                OpenTarget::Log(which, target, address) => open_log(which, target, address, opened),
                OpenTarget::Syslog => {
                    opened.connection_log = Change::Set(NewConnectionLog::syslog());
                    Ok(())
                }
                OpenTarget::StatusFile(path) => {
                    let file = StatusFile::Path(path);
                    opened.status_file = Change::Set(NewStatusFile { file, made: None });
                    Ok(())
                }
                OpenTarget::Jailed(target) => match target.held(accepted) {
                    Some(file) => self.take(target, Fetched::descriptor(file), opened),
                    None => {
                        let request = target.request(self.context.settings.backlog);
                        let purpose = OpenPurpose::Plan(target, at, Box::new(opening));
                        return self.fetch(&request, purpose, now);
                    }
                },
            };
            if let Err(why) = done {
                return self.refuse(&opening.accepted.configuration, vec![at + &why]);
            }
        }
        let Opening { accepted, opened, unopened: _ } = opening;
        self.apply(Plan { accepted, opened }, now)
    }

    /// Continues with a file or socket that an opener opened.
    pub(in crate::event_loop::reload) fn opened_in_jail(
        &mut self,
        fetched: Result<Fetched, String>,
        target: JailedTarget,
        at: String,
        mut opening: Opening,
        now: Instant,
    ) -> Progress<ReloadStage> {
        let taken = match fetched {
            Ok(fetched) => self.take(target, fetched, &mut opening.opened),
            Err(why) => Err(target.word() + &why + &self.in_the_jail()),
        };
        match taken {
            Ok(()) => self.open(opening, now),
            Err(why) => self.refuse(&opening.accepted.configuration, vec![at + &why]),
        }
    }

    /// Takes a file or socket that was opened with an operator's rights.
    fn take(
        &self,
        target: JailedTarget,
        fetched: Fetched,
        opened: &mut Opened,
    ) -> Result<(), String> {
        let Fetched { descriptor, made, .. } = fetched;
        let file = |path: &Path, id| JailedFile::new(&in_jail(path), id, &self.context.jail);
        match target {
            JailedTarget::Log(which, path) => {
                let made = made.map(|id| FileGuard::Jailed(file(&path, id)));
                let log = RequestLog::File(appendable(which, &path, descriptor)?);
                let target = LogTarget::File(path);
                opened.set_log(which, NewLog { target, log, is_held: true, made });
            }
            JailedTarget::StatusFile(path) => {
                let made = made.map(|id| FileGuard::Jailed(file(&path, id)));
                let file = StatusFile::held(&path, File::from(descriptor)).map_err(|error| {
                    format!("status file {}: {}", path.display(), error_text(&error))
                })?;
                opened.status_file = Change::Set(NewStatusFile { file, made });
            }
            JailedTarget::Listener(path) => {
                let socket = NewSocket::Jailed(file(&path, made.unwrap_or_default()), descriptor);
                let (local, address) = (Local::Unix(path.clone()), Address::Unix(path));
                opened.listener = Some(NewListener { local, address, socket });
            }
        }
        Ok(())
    }

    /// Reserves the new listen address.
    fn reserve(
        &self,
        local: Local,
        addresses: &[Address],
        at: &str,
        Opening { accepted, opened, .. }: &mut Opening,
    ) -> Result<(), String> {
        if addresses.contains(&self.state.listen) {
            let address = self.state.listen.clone();
            opened.listener = Some(NewListener { local, address, socket: NewSocket::Present });
            return Ok(());
        }
        let bind = |address: &Address| Reserved::bind_beside(address, self.state.guard.as_fd());
        let Bound { what, address, notice } = bind_first(addresses, bind).map_err(about_listen)?;
        accepted.notices.extend(notice.map(|notice| format!("listen: {notice}")));
        let socket = NewSocket::Reserved(what, at.to_owned());
        opened.listener = Some(NewListener { local, address, socket });
        Ok(())
    }
}

impl OpenTarget {
    /// Checks whether it could be opened, as far as possible without opening or making anything.
    pub(in crate::event_loop::reload) fn examine(&self) -> Result<(), String> {
        match self {
            OpenTarget::Listener(_, addresses) => {
                addresses.iter().try_for_each(listener::examine).map_err(about_listen)
            }
            OpenTarget::Log(which, LogTarget::File(path), _) => {
                line_log::examine(*which, path).map_err(|error| error.to_string())
            }
            OpenTarget::StatusFile(path) => {
                status_file::check(path).map_err(|error| error.to_string())
            }
            OpenTarget::Log(_, LogTarget::Network(_, _), _)
            | OpenTarget::Syslog
            | OpenTarget::Jailed(_) => Ok(()),
        }
    }
}

impl JailedTarget {
    /// The file that came with the command. A listener never does.
    fn held(&self, accepted: &mut Accepted) -> Option<OwnedFd> {
        match self {
            JailedTarget::Log(_, _) | JailedTarget::StatusFile(_) => {
                accepted.configuration.source.take_file()
            }
            JailedTarget::Listener(_) => None,
        }
    }

    fn request(&self, backlog: u32) -> OpenRequest {
        match self {
            JailedTarget::Log(which, path) => OpenRequest::Log(*which, in_jail(path)),
            JailedTarget::StatusFile(path) => OpenRequest::Status(in_jail(path)),
            JailedTarget::Listener(path) => OpenRequest::Listener(in_jail(path), backlog),
        }
    }

    /// What an error of an opener lacks.
    fn word(&self) -> String {
        match self {
            JailedTarget::Log(which, _) => format!("{}: ", which.word()),
            JailedTarget::StatusFile(_) => String::new(),
            JailedTarget::Listener(_) => "listen: ".to_owned(),
        }
    }
}

fn open_log(
    which: LineLog,
    target: LogTarget,
    address: Option<SocketAddr>,
    opened: &mut Opened,
) -> Result<(), String> {
    let OpenLog { log, made } =
        line_log::open(which, &target, address).map_err(|error| error.to_string())?;
    let made = made.map(FileGuard::Own);
    opened.set_log(which, NewLog { target, log, is_held: false, made });
    Ok(())
}

/// An error of a listener with the word of its command.
pub(in crate::event_loop::reload) fn about_listen(error: ListenError) -> String {
    format!("listen: {error}")
}

/// Prepares a file that came from an operator as a log: several workers append lines to it,
/// and no write may block.
fn appendable(which: LineLog, path: &Path, file: OwnedFd) -> Result<OwnedFd, String> {
    let failed = |why: String| format!("{}: {}: {why}", which.word(), path.display());
    let file = File::from(file);
    let there = file.metadata().map_err(|error| failed(error_text(&error)))?;
    let kind = there.file_type();
    if !(kind.is_file() && there.nlink() <= 1 || kind.is_fifo() || kind.is_char_device()) {
        return Err(failed(
            "neither a file with a single name, a fifo nor a character device".into(),
        ));
    }
    let flags = fcntl_getfl(&file).map_err(|errno| failed(error_text(&errno.into())))?;
    let wanted = flags | OFlags::APPEND | OFlags::NONBLOCK;
    fcntl_setfl(&file, wanted).map_err(|errno| failed(error_text(&errno.into())))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_from_an_operator_appends_and_never_blocks() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let plain = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let mut log = File::from(appendable(LineLog::Requests, &path, plain.into()).unwrap());
        std::io::Write::write_all(&mut log, b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\nnew\n");
        assert!(
            appendable(
                LineLog::Requests,
                directory.path(),
                File::open(directory.path()).unwrap().into()
            )
            .is_err()
        );
    }
}
