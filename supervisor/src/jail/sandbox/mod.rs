//! What a process gives up beside user, root directory and capabilities, whether or not it runs
//! code that a stranger chose: system calls, names of files, ports, and every other process.
//!
//! `supervisor` restricts the supervisor itself, once, at its start; all that descend from it
//! inherit that. The rest runs in a child, after the jail, as its last step before the first byte
//! of a stranger. Every step that the kernel offers is verified and fatal; one that it does
//! not offer is told once, at the start, and is fatal with `--require-sandbox`.
//!
//! `calls` says which system calls each kind of process may make, and `filter` has the kernel
//! enforce it; `landlock` is about names, ports and signals; `empty_root` is a root directory
//! without `-j`; `verifier` is how it is verified; `words` how it is told.

#![forbid(unsafe_code)]

pub(crate) mod calls;
pub(crate) mod display;
pub(crate) mod empty_root;
pub(crate) mod filter;
pub(crate) mod landlock;
pub(crate) mod supervisor;
#[cfg(test)]
mod tests;
pub(crate) mod verify;

use std::fmt::Display;
use std::io::{self, Write, stderr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use caps::CapSet;
use pen_config::address::Address;
use pen_config::settings::Settings;

pub(crate) use crate::jail::sandbox::display::{Summary, table};
pub(crate) use crate::jail::sandbox::supervisor::confine;
pub(crate) use crate::jail::sandbox::verify::Verifier;
use crate::log::errno::why;

/// A kind of process, by what it needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A worker: sockets, and no file.
    Relay,
    /// A child that finds out whether files of TLS are good: with the workers' code, and no socket
    /// of its own.
    Examiner,
    /// The control process: the operators' sockets, and the files that they name.
    Control,
    /// The resolver: getaddrinfo(3) and its files.
    Resolver,
    /// A child that opens, makes or removes one file for an operator.
    Opener,
    /// A child that writes the settings into the file of `-F` for an operator.
    Writer,
    /// A child that reads the configuration file or the files of TLS as the supervisor's user.
    Reader,
    /// A child that renders a report: it runs as the supervisor, and reads a table that a stranger
    /// may have written.
    Reporter,
}

/// What is in force in the children that are forked from now on.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// Filters of system calls, if the kernel has them: how many of them children inherit, if that
    /// is known.
    filters: Option<Option<u32>>,
    /// The kernel's version of Landlock; 0 = it has none.
    landlock: i32,
    /// A root directory for workers without `-j`.
    empty_root: Option<Rc<OwnedFd>>,
}

impl Sandbox {
    /// Nothing at all, for a question that is asked without changing anything (`--check`).
    pub(crate) fn none() -> Sandbox {
        Sandbox { filters: None, landlock: 0, empty_root: None }
    }

    /// Leaves workers the whole root directory if they have to find a server there. Later settings
    /// cannot change it: a process does not get out of its root again. Returns what the
    /// administrator should know.
    pub(crate) fn suit(&mut self, settings: &Settings) -> Option<String> {
        let server = unix_server(settings)?;
        self.empty_root.take()?;
        Some(format!(
            "the server {server} is a Unix socket, so that the workers keep the root directory \
             instead of an empty one (-j DIR \
             gives them a directory with this socket and nothing else)"
        ))
    }

    /// What the administrator should know if the workers cannot reach a server that these settings
    /// newly have.
    pub(crate) fn unreachable(&self, before: &Settings, after: &Settings) -> Option<String> {
        self.empty_root.as_ref()?;
        let server = unix_server(after).filter(|_| unix_server(before).is_none())?;
        Some(format!(
            "the server {server} cannot be reached: the workers began without a Unix socket among \
             the servers and have an empty \
             root directory; restart pen, with the server on its command line or in the file of -F"
        ))
    }

    /// The root directory of a kind of process that has none by `-j`; none = the supervisor's.
    pub(crate) fn root(&self, kind: Kind) -> Option<BorrowedFd<'_>> {
        match kind {
            Kind::Relay | Kind::Examiner => self.empty_root.as_ref().map(|root| root.as_fd()),
            // They look for files: of operators, of the resolver, and of whoever started pen.
            Kind::Control
            | Kind::Resolver
            | Kind::Opener
            | Kind::Writer
            | Kind::Reader
            | Kind::Reporter => None,
        }
    }

    /// Enters it, for ever.
    ///
    /// # Errors
    /// A step failed that the kernel offers; the process must end.
    pub(crate) fn enter(&self, kind: Kind, verifier: &Verifier) -> io::Result<()> {
        // The usual one opens files for a backtrace, which would end the process before it has said
        // why.
        std::panic::set_hook(Box::new(|panic| {
            let _ = writeln!(stderr(), "pen: {panic}");
        }));
        if self.landlock > 0 {
            landlock::restrict(kind, self.landlock).map_err(at("landlock"))?;
            if !landlock::lists_directories(kind) && std::fs::read_dir("/").is_ok() {
                return Err(at("verify landlock")("a directory can still be read"));
            }
        }
        let Some(inherited) = self.filters else { return Ok(()) };
        let added = filter::allow(kind.calls(std::process::id()))
            .map_err(|error| at("seccomp")(why(&error)))?;
        let testimony =
            verifier.read_status().map_err(|error| at("verify seccomp")(why(&error)))?;
        match (testimony, inherited) {
            (Some(found), _) if !found.no_new_privileges => {
                Err(at("verify seccomp")("no_new_privs is not set"))
            }
            (Some(found), Some(inherited)) if found.filters != inherited + added => {
                let (expected, found) = (inherited + added, found.filters);
                Err(at("verify seccomp")(format!(
                    "there should be {expected} filters, and there are {found}"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Reduces a child that goes on as the supervisor's user to reading files.
    ///
    /// # Errors
    /// As [`Sandbox::enter`].
    pub(crate) fn enter_reader(&self) -> io::Result<()> {
        let verifier = Verifier::call();
        supervisor::keep_capabilities(
            &supervisor::OF_READER,
            &[CapSet::Effective, CapSet::Permitted],
        )
        .map_err(at("capabilities"))?;
        self.enter(Kind::Reader, &verifier)
    }

    /// Reduces a child that goes on as the supervisor's user to what a report needs.
    ///
    /// # Errors
    /// As [`Sandbox::enter`].
    pub(crate) fn enter_reporter(&self) -> io::Result<()> {
        let verifier = Verifier::call();
        supervisor::keep_capabilities(
            &supervisor::OF_REPORTER,
            &[CapSet::Effective, CapSet::Permitted],
        )
        .map_err(at("capabilities"))?;
        self.enter(Kind::Reporter, &verifier)
    }
}

fn unix_server(settings: &Settings) -> Option<String> {
    let servers =
        settings.servers.iter().flatten().chain(&settings.emergency).chain(&settings.abuse);
    servers.into_iter().find_map(|server| match &server.address {
        Address::Unix(path) => Some(path.display().to_string()),
        Address::Inet(_) => None,
    })
}

fn at<Reason: Display>(step: &'static str) -> impl Fn(Reason) -> io::Error {
    move |reason| io::Error::other(format!("{step}: {reason}"))
}
