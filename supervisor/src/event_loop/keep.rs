//! What the service manager is to keep for the next start: told after each change of it, and at the
//! end.

#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;

use pen_config::address::Address;

use crate::event_loop::Supervisor;
use crate::event_loop::state::FileGuard;
use crate::files::made::MadeFile;
use crate::kept::state::{End, KeptFile};
use crate::kept::{Keeper, Present};
use crate::processes::ports::port::Port;

/// Files of sockets that an earlier pen made, and that this one has now.
#[derive(Debug)]
pub(crate) struct KeptFiles {
    pub(crate) listener: Option<MadeFile>,
    pub(crate) control: Option<MadeFile>,
    pub(crate) page: Option<MadeFile>,
}

impl Supervisor {
    /// Tells the manager what to keep, if it keeps anything.
    pub(in crate::event_loop) fn keep(&mut self, end: End) {
        if !self.keeper.is_on() {
            return;
        }
        let listener_file = match (&self.state.listen, self.state.guard.file()) {
            (Address::Unix(path), Some(FileGuard::Own(file))) => Some(kept(path.clone(), file)),
            // A file in the jail is another one at the next start.
            (Address::Unix(_) | Address::Inet(_), _) => None,
        };
        let present = Present {
            version: self.build.version,
            listener: (self.state.guard.as_fd(), listener_file),
            control: self.control.as_ref().map(|control| kept_port(control.port())),
            page: self.page.as_ref().map(|page| kept_port(page.port())),
            table: &self.context.table,
            settings: &self.context.settings,
            keys: self.context.keys.as_ref(),
        };
        self.keeper.keep(&present, end);
    }

    /// From now on the manager keeps the parts of this pen. Some have files that an earlier one
    /// made.
    pub(crate) fn go_on_keeping(&mut self, keeper: Keeper, files: KeptFiles) {
        let KeptFiles { listener, control, page } = files;
        self.keeper = keeper;
        listener.into_iter().for_each(|file| self.state.guard.own(file));
        if let (Some(slot), Some(file)) = (&mut self.control, control) {
            slot.port_mut().own(file);
        }
        if let (Some(slot), Some(file)) = (&mut self.page, page) {
            slot.port_mut().own(file);
        }
    }

    /// Tells the manager that pen ends in order, and leaves the files of the sockets that it keeps.
    pub(in crate::event_loop) fn leave_kept(&mut self) {
        self.keep(End::Orderly);
        if self.keeper.keeps_listener() {
            self.state.guard.keep_file();
        }
        if self.keeper.keeps_control() {
            self.control.iter_mut().for_each(|control| control.port_mut().keep_file());
        }
        if self.keeper.keeps_page() {
            self.page.iter_mut().for_each(|page| page.port_mut().keep_file());
        }
    }
}

fn kept_port(port: &Port) -> (BorrowedFd<'_>, Option<KeptFile>) {
    (port.socket(), port.file().map(|file| kept(PathBuf::from(&port.name), file)))
}

fn kept(path: PathBuf, file: &MadeFile) -> KeptFile {
    KeptFile { path, id: file.id() }
}
