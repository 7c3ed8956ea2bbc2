//! A program that another pen executed: it takes the service over, gets it back, or only rehearses
//! that.
//!
//! 1. `sys::guard` makes every failure until the commit execute the earlier program again.
//! 2. `restore` builds the supervisor from the state, with duplicates of the descriptors.
//! 3. The event loop forks new workers, which accept no client yet.
//! 4. When all are ready, the program commits: it closes the originals of the descriptors, lets the
//!    new workers accept, and orders the old ones to drain. From now on failures are its own.
//!
//! A program that gets the service back does 2. only, with the originals: its workers never stopped
//! serving, and nobody else needs them.

#![forbid(unsafe_code)]

mod descriptors;
mod rehearse;
mod restore;
mod tables;

use std::env;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use nix::sys::prctl;
use pen_ipc::text::error_text;

use crate::event_loop::upgrade::execute::environment;
use crate::event_loop::upgrade::rehearsal::REHEARSE;
use crate::handover::descriptors::Number;
use crate::handover::marker::{Marker, Role};
use crate::handover::memory;
use crate::handover::state::State;
use crate::log::Logger;
use crate::log::printable::printable;
use crate::successor::restore::{Checked, Restored};
use crate::sys::guard::{self, Guard, Return};
use crate::sys::program::Program;
use crate::sys::{self, Environment, inherited, program};
use crate::{Entries, StartError, VARIABLES, clock, limits};

/// What a program that a pen executed is to do.
#[derive(Debug)]
pub struct Succession(Task);

#[derive(Debug)]
enum Task {
    /// Answer whether it could take over.
    Rehearse { state: RawFd, channel: RawFd },
    /// Take over.
    TakeOver { marker: Marker, environment: Environment, guard: Guard },
    /// Go on in the place of a successor that failed.
    TakeBack { marker: Marker, environment: Environment },
    /// Nothing: this program cannot execute the one before it.
    Fail(String),
}

impl Succession {
    /// The task, if a pen executed this program. Call it before anything else: from now on a crash
    /// gives the process back to the earlier program.
    pub fn find() -> Option<Succession> {
        // The file gives this process rights that its starter lacks, and no earlier pen took them
        // away (no_new_privs): the state could be anybody's.
        let is_privileged = sys::is_privileged_by_file();
        if is_privileged && !prctl::get_no_new_privs().unwrap_or(false) {
            sys::take_variable(Marker::VARIABLE);
            return None;
        }
        let words: Vec<_> = env::args_os().skip(1).take(4).collect();
        if let [first, state, channel] = words.as_slice()
            && first == REHEARSE
        {
            let number = |word: &OsStr| word.to_str()?.parse().ok();
            let (state, channel) = (number(state)?, number(channel)?);
            return Some(Succession(Task::Rehearse { state, channel }));
        }
        let environment = Environment::find();
        let marker = sys::take_variable(Marker::VARIABLE)?;
        let marker = Marker::parse(marker.to_str()?)?;
        let inherited = program::inherit().map_err(|error| error_text(&error));
        Some(Succession(match (inherited, marker.role) {
            (Err(why), _) => Task::Fail(why),
            (Ok(()), Role::Predecessor) => Task::TakeBack { marker, environment },
            (Ok(()), Role::Successor) => match guard_with(marker) {
                Ok(guard) => Task::TakeOver { marker, environment, guard },
                Err(error) => Task::Fail(give_back(marker, &error)),
            },
        }))
    }

    /// Does it. Returns when the service has ended.
    ///
    /// # Errors
    /// There is no state that this program understands, and no program to give back to.
    pub fn run(self, entries: Entries) -> Result<(), StartError> {
        match self.0 {
            Task::Rehearse { state, channel } => rehearse::run(state, channel, &entries),
            Task::TakeOver { marker, environment, guard } => {
                match restore(marker, environment, &entries) {
                    Ok(restored) => take_over(restored, marker, guard),
                    Err(why) => guard::give_up(&why),
                }
                Ok(())
            }
            Task::TakeBack { marker, environment } => {
                let restored = restore(marker, environment, &entries).map_err(lost)?;
                take_back(restored, marker);
                Ok(())
            }
            Task::Fail(why) => Err(lost(why)),
        }
    }
}

/// The end of pen: no program can go on. In the background, nobody reads standard error.
fn lost(why: String) -> StartError {
    let line = format!("upgrade: {why}; pen ends");
    Logger::background(0).error(&line);
    StartError(line)
}

/// Executes the earlier program although there is no guard. Returns why that failed too.
fn give_back(marker: Marker, error: &io::Error) -> String {
    let back = Marker { role: Role::Predecessor, ..marker };
    let other = program::execute(Program::Running, &arguments(), &environment(Some(back)));
    format!("{}; {}", error_text(error), error_text(&other))
}

fn arguments() -> Vec<CString> {
    env::args_os().filter_map(|word| CString::new(word.into_vec()).ok()).collect()
}

/// Makes every failure execute the earlier program with the same state.
fn guard_with(marker: Marker) -> io::Result<Guard> {
    let back = Marker { role: Role::Predecessor, ..marker };
    let argv = arguments();
    program::prepare_return()?;
    // The same number: the earlier program reads it there.
    let report = inherited::take(marker.report)?;
    guard::arm(Return { argv, environment: environment(Some(back)), report }, PATIENCE)
}

/// Builds the supervisor from the state.
fn restore(marker: Marker, found: Environment, entries: &Entries) -> Result<Restored, String> {
    let state = match marker.role {
        Role::Successor => inherited::duplicate(marker.state),
        // Nobody else needs it, and a new descriptor may not be had.
        Role::Predecessor => inherited::take(marker.state),
    };
    let state = state.map_err(|error| error_text(&error))?;
    let state = memory::read(&File::from(state), &entries.build)?;
    if state.pid != std::process::id().cast_signed() {
        return Err(format!("the state is that of process {}", state.pid));
    }
    let name = CString::new(state.launch.name.as_str()).unwrap_or_default();
    prctl::set_name(&name).map_err(|errno| error_text(&errno.into()))?;
    if state.export.is_none() && state.table.description.layout != entries.build.table_layout {
        return Err("the state has no clients for another layout of the table".into());
    }
    keep_only(&state, marker)?;
    found.wipe(&VARIABLES);
    sys::title::begin();
    // The C library reads the time zone file now, because no jail contains it.
    clock::utc_offset(0);
    let checked = Checked::new(state, marker.role, &entries.build)?;
    checked.build(marker.role, entries, limits::raise_descriptors())
}

/// Closes every descriptor that is neither in the state nor one of the two programs.
fn keep_only(state: &State, marker: Marker) -> Result<(), String> {
    let mut keep: Vec<RawFd> = state.descriptors.iter().map(|number| number.0).collect();
    keep.extend([marker.state, marker.report]);
    inherited::close_others(keep)
        .map_err(|error| format!("inherited descriptors: {}", error_text(&error)))
}

/// Starts a new generation of workers, commits, and serves.
fn take_over(restored: Restored, marker: Marker, guard: Guard) {
    let Restored { mut service, signals, deferred, asked_by, before, table, originals, .. } =
        restored;
    // No drop may run before the commit: it would end what the earlier program needs.
    if let Err(StartError(why)) = service.begin_generation() {
        guard::give_up(&why);
    }
    guard.disarm();
    if let Err(error) = program::become_running() {
        let why = error_text(&error);
        service.logger().warning(&format!("upgrade: no further one is possible: {why}"));
    }
    close(&originals, [marker.state]);
    service.commit(asked_by, &before, table);
    service.run(&signals, deferred);
}

/// Goes on with the workers that are there.
fn take_back(restored: Restored, marker: Marker) {
    let Restored { mut service, signals, deferred, asked_by, children, .. } = restored;
    let why = reason(marker.report);
    if let Err(error) = program::drop_successor() {
        service.logger().warning(&format!("upgrade: {}", error_text(&error)));
    }
    close(&[], [marker.report]);
    service.upgrade_was_undone(asked_by, &children, &why);
    service.run(&signals, deferred);
}

/// The reason that the failed program left.
fn reason(report: RawFd) -> String {
    let text = inherited::duplicate(report)
        .and_then(|report| pen_ipc::memory::read(&File::from(report), MOST_OF_REASON));
    match text {
        Ok(text) if !text.is_empty() => {
            let shown: String = String::from_utf8_lossy(&text).chars().take(SHOWN).collect();
            format!("the new program gave up: {}", printable(&shown))
        }
        Ok(_) | Err(_) => "the new program gave up without a reason".into(),
    }
}

/// Closes the descriptors of the earlier program, for which this one has duplicates.
fn close(originals: &[Number], others: impl IntoIterator<Item = RawFd>) {
    let passed = originals.iter().map(|number| number.0);
    let numbers: Vec<RawFd> = passed.chain(others).collect();
    inherited::close(&numbers);
}

/// How long a program may take from its execution until its workers are ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// Characters of a reason that are shown.
pub(in crate::successor) const SHOWN: usize = 1000;

/// Most bytes of a reason.
const MOST_OF_REASON: usize = 1 << 20;
