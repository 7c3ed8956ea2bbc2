//! The start. If a step fails, the drop of each owner undoes the earlier steps.
//!
//! First, everything on the command line is checked; only then anything is bound. Clients are
//! accepted when all workers are ready. Readiness is reported when the pid file is written.

#![forbid(unsafe_code)]

use std::io::{Write, stdout};
use std::os::fd::AsFd;
use std::thread::available_parallelism;

use pen_config::ids::MAX_WORKERS;
use pen_ipc::text::error_text;

use crate::files::running;
use crate::jail::sandbox::Sandbox;
use crate::jail::user::Identity;
use crate::kept;
use crate::launch::background::{StartLink, detach};
use crate::launch::interrupt::Interrupts;
use crate::launch::options::GivenCommands;
use crate::launch::paths::Base;
use crate::limits;
use crate::log::Logger;
use crate::signals::Signals;
use crate::startup::plan::StartPlan;
use crate::startup::prepared::Prepared;
use crate::sys::{self, program};
use crate::systemd::activation::Activation;
use crate::systemd::notify::Notify;
use crate::{Entries, Launch, StartError};

mod clashes;
mod plan;
mod prepared;

pub(crate) use crate::startup::prepared::shape;

/// The input of a start.
pub(crate) struct Order {
    /// The command line.
    pub(crate) launch: Launch,
    /// The words of the command line, the program's name first.
    pub(crate) argv: Vec<Vec<u8>>,
    /// The commands of command line and configuration file.
    pub(crate) words: GivenCommands,
    /// The base directory of its relative paths.
    pub(crate) base: Base,
    /// The user of the jailed processes.
    pub(crate) identity: Identity,
    /// The code of the jailed processes.
    pub(crate) entries: Entries,
    /// Sockets that a service manager passed.
    pub(crate) activation: Activation,
    /// The service manager.
    pub(crate) notify: Notify,
    /// Whether the running program is held, so that it can execute a successor; the reason if not.
    pub(crate) held: Result<(), String>,
}

/// Runs the supervisor in the process that was started.
///
/// # Errors
/// The start failed; nothing is left behind.
pub(crate) fn foreground(order: Order) -> Result<(), StartError> {
    close_inherited(None, &order.activation)?;
    supervise(order, None)
}

/// Runs the supervisor in its own process; returns its exit status. The link reports a failed
/// start.
pub(crate) fn background(order: Order, link: StartLink) -> i32 {
    let result = close_inherited(Some(&link), &order.activation).and_then(|()| detach());
    let failed = match result {
        Ok(()) => supervise(order, Some(link)).err(),
        Err(error) => {
            link.failed(&error);
            Some(error)
        }
    };
    match failed {
        None => 0,
        Some(error) => {
            let mut logger = Logger::background(0);
            error.0.lines().for_each(|line| logger.error(line));
            1
        }
    }
}

/// Checks whether pen would start, as far as possible without opening, binding or changing
/// anything.
///
/// # Errors
/// All errors that were found.
pub(crate) fn check(order: &Order) -> Result<(), StartError> {
    let signals = Signals::take_over().map_err(cannot("cannot take signals"))?;
    let plan = StartPlan::make(order, &Sandbox::none(), &mut Interrupts::new(signals, None))?;
    plan.examine(order)?;
    let mut notices = plan.notices(order, limits::raise_descriptors());
    notices.extend(order.launch.pid_file.as_deref().and_then(running::has_other_options));
    notices.iter().for_each(|notice| eprintln!("pen: {notice}"));
    let text = if order.launch.show { plan.shown(order) } else { "ok\n".to_owned() };
    stdout()
        .write_all(text.as_bytes())
        .map_err(|error| StartError(format!("standard output: {}", error_text(&error))))
}

/// From here on, pen owns every descriptor above standard error.
fn close_inherited(link: Option<&StartLink>, activation: &Activation) -> Result<(), StartError> {
    let keep: Vec<_> = link
        .into_iter()
        .map(|link| link.as_fd())
        .chain(activation.descriptors())
        .chain(program::descriptors())
        .collect();
    sys::close_all_but(&keep).map_err(|error| {
        StartError(format!(
            "cannot close inherited descriptors: {} (pen needs Linux 5.9 or later)",
            error_text(&error)
        ))
    })
}

fn supervise(mut order: Order, link: Option<StartLink>) -> Result<(), StartError> {
    let signals = Signals::take_over()
        .map_err(cannot("cannot take signals"))
        .inspect_err(|error| link.iter().for_each(|link| link.failed(error)))?;
    let mut interrupts = Interrupts::new(signals, link);
    let notify = order.notify.clone();
    let (mut keeper, regained) = kept::begin(&notify, order.activation.take_stored());
    // A start that fails later may fail because of what was kept. It counts like a death, unless
    // somebody ended it.
    let prepared = Prepared::new(order, regained, &mut keeper, &mut interrupts)
        .inspect_err(|_| keeper.give_back());
    match prepared.and_then(|prepared| prepared.start(&mut interrupts)) {
        Ok(running) => {
            running.serve(keeper, interrupts);
            Ok(())
        }
        Err(error) => {
            if interrupts.is_interrupted() {
                keeper.give_back();
            }
            // Everything that was made is undone by now.
            interrupts.link().iter().for_each(|link| link.failed(&error));
            notify.failed(&error.0);
            Err(error)
        }
    }
}

fn refused(error: impl std::fmt::Display) -> StartError {
    StartError(error.to_string())
}

fn cannot(what: &'static str) -> impl Fn(std::io::Error) -> StartError {
    move |error| StartError(format!("{what}: {}", error_text(&error)))
}

/// The number of workers: one per processor that pen may use, unless set otherwise.
fn worker_count(wanted: Option<u32>) -> u8 {
    let processors = || {
        available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(MAX_WORKERS))
    };
    let count = wanted.unwrap_or_else(processors).clamp(1, MAX_WORKERS);
    u8::try_from(count).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_between_one_and_the_most() {
        assert_eq!(worker_count(Some(3)), 3);
        assert_eq!(worker_count(Some(0)), 1);
        assert_eq!(worker_count(Some(1000)), 64);
        assert!((1..=64).contains(&worker_count(None)));
    }
}
