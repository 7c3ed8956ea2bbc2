//! The sandbox: restrictions beside user, root directory and capabilities. They limit a process
//! even if an attacker runs code in it: system calls, file names, ports, and access to other
//! processes.
//!
//! `supervisor` restricts the supervisor itself, once, at its start; all its descendants inherit
//! that. The rest runs in a child, after the jail, as the last step before the first byte from the
//! network. Every step that the kernel offers is verified and fatal. A step that it does not offer
//! is logged once, at the start; with `--require-sandbox` it is fatal.
//!
//! `calls` lists the system calls of each kind of process, with `conditions` on their arguments.
//! `options` is what they may do to a socket for good. `filter` makes the kernel enforce the lists.
//! `landlock` restricts names, ports and signals. `empty_root` is a root directory without `-j`.
//! `execution` limits what an upgrade can execute, and `adopted` is how the next program finds all
//! that. `verify` verifies the result.

#![forbid(unsafe_code)]

pub(crate) mod adopted;
pub(crate) mod calls;
mod conditions;
pub(crate) mod empty_root;
pub(crate) mod execution;
pub(crate) mod filter;
pub(crate) mod landlock;
mod options;
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
use pen_ipc::text::error_text;
use serde::{Deserialize, Serialize};

pub(crate) use crate::jail::sandbox::adopted::{CarriedSandbox, adopted};
pub(crate) use crate::jail::sandbox::execution::Execution;
pub(crate) use crate::jail::sandbox::supervisor::confine;
pub(crate) use crate::jail::sandbox::verify::KernelStatus;

/// A kind of process with its own set of rights.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ProcessKind {
    /// A worker: sockets, and no file.
    Relay,
    /// The examiner, a child that checks TLS files with the workers' code: no sockets of its own.
    Examiner,
    /// The control process: the operators' sockets, and the files that they name.
    Control,
    /// The page process: the readers' sockets, and nothing else.
    Page,
    /// The checker: sockets to servers, and no file.
    Checker,
    /// The resolver: getaddrinfo(3) and its files.
    Resolver,
    /// An opener: a child that opens, makes or removes one file for an operator.
    Opener,
    /// A writer: a child that writes the settings into the file of `-F` for an operator.
    Writer,
    /// A reader: a child that reads the configuration file or the TLS files as the supervisor's
    /// user.
    Reader,
    /// A reporter: a child that renders a report. It runs as the supervisor's user, and reads a
    /// table that an attacker may have written.
    Reporter,
}

/// The kernel's filters for system calls.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Filters {
    /// It has none.
    Missing,
    /// Children inherit this number of them. `None`: the number is not known.
    Inherited(Option<u32>),
}

/// The restrictions of children that are forked from now on.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    pub(crate) filters: Filters,
    /// The kernel's version of Landlock; 0 = it has none.
    pub(crate) landlock: i32,
    /// A root directory for workers without `-j`.
    pub(crate) empty_root: Option<Rc<OwnedFd>>,
    /// What the supervisor may execute. If it is nothing, there can be no upgrade.
    pub(crate) execution: Execution,
    /// The number of the list of denied calls in force ([`calls::LIST`]).
    list: u32,
}

impl Sandbox {
    /// No restrictions, for a question that changes nothing (`--check`).
    pub(crate) fn none() -> Sandbox {
        Sandbox {
            filters: Filters::Missing,
            landlock: 0,
            empty_root: None,
            execution: Execution::Anything,
            list: 0,
        }
    }

    /// Leaves the whole root directory to the workers if they need it to reach a server. Later
    /// settings cannot change that, because a process cannot leave its root directory. Returns a
    /// notice for the log.
    pub(crate) fn suit(&mut self, settings: &Settings) -> Option<String> {
        let server = unix_server(settings)?;
        self.empty_root.take()?;
        Some(format!(
            "the server {server} is a Unix socket, so that the workers keep the root directory \
             instead of an empty one (-j DIR \
             gives them a directory with this socket and nothing else)"
        ))
    }

    /// A notice for the log if the workers cannot reach a server that is new in these settings.
    pub(crate) fn unreachable(&self, before: &Settings, after: &Settings) -> Option<String> {
        self.empty_root.as_ref()?;
        let server = unix_server(after).filter(|_| unix_server(before).is_none())?;
        Some(format!(
            "the server {server} cannot be reached: the workers began without a Unix socket among \
             the servers and have an empty \
             root directory; restart pen, with the server on its command line or in the file of -F"
        ))
    }

    /// The root directory of a kind of process without `-j`; none = that of the supervisor.
    pub(crate) fn root(&self, kind: ProcessKind) -> Option<BorrowedFd<'_>> {
        match kind {
            // The checker reaches the servers that the workers reach, and no others.
            ProcessKind::Relay
            | ProcessKind::Examiner
            | ProcessKind::Page
            | ProcessKind::Checker => self.empty_root.as_ref().map(|root| root.as_fd()),
            // They need files: those of operators, of the resolver, and of the user who started
            // pen.
            ProcessKind::Control
            | ProcessKind::Resolver
            | ProcessKind::Opener
            | ProcessKind::Writer
            | ProcessKind::Reader
            | ProcessKind::Reporter => None,
        }
    }

    /// Enters the sandbox, for ever.
    ///
    /// # Errors
    /// A step failed that the kernel offers; the process must end.
    pub(crate) fn enter(&self, kind: ProcessKind, verifier: &KernelStatus) -> io::Result<()> {
        // The default hook opens files for a backtrace, which would kill the process before it
        // prints the reason.
        std::panic::set_hook(Box::new(|panic| {
            let _ = writeln!(stderr(), "pen: {panic}");
        }));
        if self.landlock > 0 {
            landlock::restrict(kind, self.landlock).map_err(at("landlock"))?;
            if !landlock::lists_directories(kind) && std::fs::read_dir("/").is_ok() {
                return Err(at("verify landlock")("a directory can still be read"));
            }
        }
        let Filters::Inherited(inherited) = self.filters else { return Ok(()) };
        let added = filter::allow(kind.calls(std::process::id()))
            .map_err(|error| at("seccomp")(error_text(&error)))?;
        let found = verifier.read().map_err(|error| at("verify seccomp")(error_text(&error)))?;
        match (found, inherited) {
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

    /// Reduces a child that keeps the supervisor's user to reading files.
    ///
    /// # Errors
    /// As [`Sandbox::enter`].
    pub(crate) fn enter_reader(&self) -> io::Result<()> {
        let verifier = KernelStatus::open();
        supervisor::keep_capabilities(
            &supervisor::OF_READER,
            &[CapSet::Effective, CapSet::Permitted],
        )
        .map_err(at("capabilities"))?;
        self.enter(ProcessKind::Reader, &verifier)
    }

    /// Reduces a child that keeps the supervisor's user to the rights that a report needs.
    ///
    /// # Errors
    /// As [`Sandbox::enter`].
    pub(crate) fn enter_reporter(&self) -> io::Result<()> {
        let verifier = KernelStatus::open();
        supervisor::keep_capabilities(
            &supervisor::OF_REPORTER,
            &[CapSet::Effective, CapSet::Permitted],
        )
        .map_err(at("capabilities"))?;
        self.enter(ProcessKind::Reporter, &verifier)
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
