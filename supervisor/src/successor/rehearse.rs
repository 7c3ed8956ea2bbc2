//! The rehearsal in the new program: everything that could fail is tried, and nothing is changed.

#![forbid(unsafe_code)]

use std::fs::File;
use std::hint;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::getpid;
use pen_ipc::channel::{Channel, ChannelError};
use pen_ipc::text::error_text;

use crate::event_loop::upgrade::rehearsal::RehearsalAnswer;
use crate::files::{configuration, tls_material};
use crate::handover::TableTransfer;
use crate::handover::marker::Role;
use crate::handover::memory;
use crate::handover::state::State;
use crate::helpers::helper::NoQuestion;
use crate::jail::Jail;
use crate::jail::sandbox::ProcessKind;
use crate::log::printable::printable;
use crate::successor::SHOWN;
use crate::successor::restore::Checked;
use crate::sys::inherited::{self, duplicate};
use crate::sys::program;
use crate::{Entries, StartError, signals, sys};

/// Answers over the channel whether this program could take over with this state. Then it waits
/// until the supervisor has executed the program or has given up. While this process lives, nobody
/// can write to the file of the program (ETXTBSY, execve(2)).
///
/// # Errors
/// The descriptors are none that a pen passed.
pub(in crate::successor) fn run(
    state: RawFd,
    channel: RawFd,
    entries: &Entries,
) -> Result<(), StartError> {
    let foreign = |why| StartError(format!("--rehearse is for pen itself: {why}"));
    let own = |number| duplicate(number).map_err(|error| foreign(error_text(&error)));
    let (state, channel) = (File::from(own(state)?), (own(channel)?, channel));
    let (socket, original) = channel;
    // With a second descriptor open, the end of the supervisor's wait could not be noticed.
    inherited::close(&[original]);
    let channel = Channel::<RehearsalAnswer, NoQuestion>::from_descriptor(socket);
    let answer =
        match memory::read(&state, &entries.build).and_then(|state| rehearse(state, entries)) {
            Ok(TableTransfer::Adopted) => {
                RehearsalAnswer::Able { version: entries.build.version.into() }
            }
            Ok(TableTransfer::Copied) => {
                RehearsalAnswer::AbleWithOwnTable { version: entries.build.version.into() }
            }
            Err(reason) => {
                // A message has a longest length.
                RehearsalAnswer::Unable { reason: reason.chars().take(SHOWN).collect() }
            }
        };
    // Without a supervisor at the other end, nobody would ever end the wait.
    channel.send(&answer, None).map_err(|error| match error {
        ChannelError::Io(error) => foreign(error_text(&error)),
        error @ (ChannelError::Codec(_) | ChannelError::Oversized) => foreign(error.to_string()),
    })?;
    let _ = poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
    Ok(())
}

/// Tries what a takeover does, as far as it changes nothing.
fn rehearse(state: State, entries: &Entries) -> Result<TableTransfer, String> {
    // A takeover, its workers and the program that gets the process back may need a little more
    // memory than this. At a limit (ulimit -v), a takeover and the return from it would both fail.
    let mut reserve: Vec<u8> = Vec::new();
    reserve
        .try_reserve_exact(RESERVE)
        .map_err(|_| format!("fewer than {} MiB of memory are left (ulimit -v)", RESERVE >> 20))?;
    // The compiler does not omit it.
    hint::black_box(&mut reserve);
    // A takeover begins with this.
    program::inherit().map_err(|error| error_text(&error))?;
    let has_page = state.page.is_some();
    let has_checks = state.settings.has_checks();
    let checked = Checked::new(state, Role::Successor, &entries.build)?;
    let Checked { state, jail, ocsp, keys, server_keys, tables, .. } = checked;
    in_jail(&jail, ProcessKind::Relay, "a worker", None, |_| Ok(()))?;
    if has_page {
        in_jail(&jail, ProcessKind::Page, "the page process", None, |_| Ok(()))?;
    }
    if has_checks {
        in_jail(&jail, ProcessKind::Checker, "the checker", None, |_| Ok(()))?;
    }
    if let Some(path) = &state.runtime.config {
        configuration::load(path).map_err(|errors| errors.join("; "))?;
    }
    if keys.is_some() {
        let (files, _) = tls_material::gather(&state.settings.tls, ocsp.as_ref())?;
        let examine = |files: Option<OwnedFd>| {
            files.map_or(Ok(()), |files| (entries.examine_tls)(files).map(drop))
        };
        let what = "the examiner of TLS files";
        in_jail(&jail, ProcessKind::Examiner, what, Some(files), examine)?;
    }
    if server_keys.is_some() {
        let (files, _) = tls_material::servers::gather(&state.settings.server_tls)?;
        let examine = |files: Option<OwnedFd>| {
            files.map_or(Ok(()), |files| (entries.examine_server_tls)(files).map(drop))
        };
        let what = "the examiner of TLS files";
        in_jail(&jail, ProcessKind::Examiner, what, Some(files), examine)?;
    }
    Ok(tables.transfer())
}

/// The bytes that must be left.
const RESERVE: usize = 16 << 20;

/// Does some work in a child that enters the jail first, with files if it needs them.
fn in_jail(
    jail: &Jail,
    kind: ProcessKind,
    what: &str,
    files: Option<OwnedFd>,
    work: impl FnOnce(Option<OwnedFd>) -> Result<(), String>,
) -> Result<(), String> {
    let (mut reason, mut tell) = io::pipe().map_err(|error| error_text(&error))?;
    let parent = getpid();
    let child = sys::fork(|| {
        let entered = signals::reset_for_child()
            .map_err(|error| error_text(&error))
            .and_then(|()| {
                let keep: Vec<_> =
                    [tell.as_fd()].into_iter().chain(files.as_ref().map(AsFd::as_fd)).collect();
                jail.enter(kind, parent, &keep).map_err(|error| error.to_string())
            })
            .map_err(|why| format!("cannot jail {what}{}: {why}", jail.location()));
        match entered.and_then(|()| work(files)) {
            Ok(()) => 0,
            Err(why) => {
                let _ = tell.write_all(why.as_bytes());
                1
            }
        }
    });
    drop(tell);
    let child =
        child.map_err(|error| format!("no process can be forked: {}", error_text(&error)))?;
    let mut why = Vec::new();
    let _ = reason.read_to_end(&mut why);
    match waitpid(child, None) {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        _ if why.is_empty() => Err(format!("{what} ended without a reason")),
        _ => Err(printable(&String::from_utf8_lossy(&why))),
    }
}
