//! The supervisor's part of the code of a process with a slot of its own: from the fork to the call
//! of its entry.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::unistd::Pid;
use pen_ipc::channel::Channel;
use pen_ipc::message::FromStartingWorker;
use pen_ipc::start::Begins;
use pen_ipc::text::error_text;

use crate::jail::Jail;
use crate::processes::ports::kind::{PortKind, PortStart, ProcessPort};
use crate::processes::spawn::SpawnContext;
use crate::signals;
use crate::sys;

/// Runs the process in the forked child; returns its exit status.
///
/// The process inherits the mapping of the shared table like every child, but has no handle to it.
/// All descriptors but its two are closed.
pub(in crate::processes::ports) fn run<K: PortKind>(
    port: &K::Port,
    begins: Begins,
    context: &SpawnContext,
    channel: Channel<FromStartingWorker, K::To>,
    supervisor: Pid,
) -> i32 {
    sys::title::set(K::TITLE);
    let outside = K::before_jail(port.name());
    match prepare::<K>(port, &context.jail, channel.as_fd(), supervisor) {
        Ok(listener) => K::live(PortStart { channel, listener, begins }, outside, context),
        Err(reason) => {
            let place = context.jail.location();
            let reason = format!("cannot jail {}{place}: {reason}", K::NAME);
            let _ = channel.send(&FromStartingWorker::Failed { reason }, None);
            1
        }
    }
}

/// Reduces the rights and descriptors of the process to its own. Returns what it gets of its port.
fn prepare<K: PortKind>(
    port: &K::Port,
    jail: &Jail,
    channel: BorrowedFd<'_>,
    supervisor: Pid,
) -> Result<<K::Port as ProcessPort>::Given, String> {
    let at = |step: &'static str| move |error: io::Error| format!("{step}: {}", error_text(&error));
    signals::reset_for_child().map_err(at("signals"))?;
    let listener = port.give().map_err(at(K::PORT))?;
    let keep: Vec<_> = [channel].into_iter().chain(K::Port::descriptor(&listener)).collect();
    jail.enter(K::PROCESS, supervisor, &keep).map_err(|error| error.to_string())?;
    Ok(listener)
}
