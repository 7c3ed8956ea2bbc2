//! The supervisor's own sandbox. The supervisor needs most of its rights, but none that give access
//! to the kernel or another process.

#![forbid(unsafe_code)]

use std::rc::Rc;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::prctl;
use nix::unistd::geteuid;
use pen_ipc::text::error_text;

use crate::StartError;
use crate::clock;
use crate::jail::sandbox::conditions::Calls;
use crate::jail::sandbox::execution::Execution;
use crate::jail::sandbox::verify::KernelStatus;
use crate::jail::sandbox::{Filters, Sandbox, calls, empty_root, filter};
use crate::sys;

/// Restricts the supervisor, and finds out which restrictions its children can have. Returns a line
/// for the log if something is missing. `jailed`: there is a root directory by `-j`. `required`:
/// the sandbox must be complete. `held`: whether the running program is held for an upgrade.
///
/// # Errors
/// The sandbox must be complete, and something is missing.
pub(crate) fn confine(
    jailed: bool,
    required: bool,
    held: &Result<(), String>,
) -> Result<(Sandbox, Option<String>), StartError> {
    // Libraries read this at their first use: the location of the kernel's clock. They do it now,
    // for all children.
    clock::monotonic();
    let mut missing = Vec::new();
    let mut lacks = |what: &str, why: String| missing.push(format!("{what} ({why})"));
    if let Err(why) = reduce_capabilities() {
        lacks("smaller set of capabilities for the supervisor", why);
    }
    let filters = match filter_system_calls() {
        Ok(inherited) => Filters::Inherited(inherited),
        Err(why) => {
            lacks("filter for system calls", why);
            Filters::Missing
        }
    };
    let landlock =
        sys::landlock_version().map_err(|error| lacks("Landlock", error_text(&error))).unwrap_or(0);
    let limit = Execution::of_running(held);
    let execution = match (landlock, &limit) {
        (1.., _) => match limit.restrict(landlock) {
            Ok(()) => limit,
            Err(why) => {
                lacks("limit to what the supervisor executes", why);
                Execution::Anything
            }
        },
        (_, Execution::Beneath(_)) => Execution::Anything,
        (_, Execution::Anything | Execution::Nothing(_)) => limit,
    };
    let wanted = !jailed && geteuid().is_root();
    let root =
        wanted.then(|| match caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_CHROOT) {
            Ok(true) => empty_root::make().map_err(|error| error_text(&error)),
            _ => Err("CAP_SYS_CHROOT is missing".into()),
        });
    let empty_root = root
        .transpose()
        .map_err(|why| lacks("empty root directory", why))
        .unwrap_or(None)
        .map(Rc::new);
    let sandbox = Sandbox { filters, landlock, empty_root, execution, list: calls::LIST };
    match (missing.is_empty(), required) {
        (true, _) => Ok((sandbox, None)),
        (false, true) => {
            Err(StartError(format!("--require-sandbox: there is no {}", missing.join(", no "))))
        }
        (false, false) => Ok((
            sandbox,
            Some(format!(
                "the sandbox is not whole: this system has no {} (--require-sandbox makes this an \
                 error)",
                missing.join(", no ")
            )),
        )),
    }
}

/// The capabilities that the supervisor needs while it runs: for files, ports and listeners that a
/// reload names, and for the jails of children. Not CAP_KILL: the supervisor kills a child with
/// another user as that user.
const OF_SUPERVISOR: [Capability; 8] = [
    // To give the control port's socket to the user of -u.
    Capability::CAP_CHOWN,
    // For files and directories of other users: logs, status files.
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    // For a listener that moves to another privileged port.
    Capability::CAP_NET_BIND_SERVICE,
    // For the jails of replacements.
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// The capabilities of a child that reads files of other users.
pub(crate) const OF_READER: [Capability; 1] = [Capability::CAP_DAC_OVERRIDE];

/// The capabilities of a child that replaces the file of `-w`.
pub(crate) const OF_REPORTER: [Capability; 2] =
    [Capability::CAP_DAC_OVERRIDE, Capability::CAP_FOWNER];

/// Drops the capabilities that the supervisor does not need.
pub(super) fn reduce_capabilities() -> Result<(), String> {
    let text = |error: caps::errors::CapsError| error.to_string();
    // Dropping from the bounding set needs a capability itself, so it comes first. Without that
    // capability, the set stays as the starting process chose it.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).map_err(text)? {
        for capability in caps::read(None, CapSet::Bounding).map_err(text)? {
            if !OF_SUPERVISOR.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability).map_err(text)?;
            }
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(text)?;
    keep_capabilities(&OF_SUPERVISOR, &[CapSet::Effective, CapSet::Permitted, CapSet::Inheritable])
}

/// Drops the capabilities that are not among `kept` from these sets, and verifies that.
pub(crate) fn keep_capabilities(kept: &[Capability], sets: &[CapSet]) -> Result<(), String> {
    let text = |error: caps::errors::CapsError| error.to_string();
    let kept: CapsHashSet = kept.iter().copied().collect();
    for set in sets {
        let held = caps::read(None, *set).map_err(text)?;
        let left: CapsHashSet = held.intersection(&kept).copied().collect();
        if left.len() < held.len() {
            caps::set(None, *set, &left).map_err(text)?;
        }
        if let Some(more) = caps::read(None, *set).map_err(text)?.difference(&kept).next() {
            return Err(format!("{more} cannot be dropped from the {set:?} set"));
        }
    }
    Ok(())
}

/// The calls that are denied to the supervisor and its children on this kernel.
pub(crate) fn denied() -> Calls {
    let mut denied = calls::never();
    if filter::knows_memory_without_execution() {
        denied.checked.push(calls::executable_memory());
    }
    denied
}

/// Installs the list of calls that neither the supervisor nor its children may make. Returns the
/// number of filters, if it can be known.
pub(super) fn filter_system_calls() -> Result<Option<u32>, String> {
    let verifier = KernelStatus::open();
    let read_status = || verifier.read().map_err(|error| error_text(&error));
    // No program is executed that is more privileged, so this takes nothing away. The kernel
    // requires it for filters if root lacks CAP_SYS_ADMIN.
    prctl::set_no_new_privs().map_err(|errno| error_text(&errno.into()))?;
    let before = read_status()?;
    let added = filter::deny(denied()).map_err(|error| error_text(&error))?;
    match (before, read_status()?) {
        (Some(before), Some(after)) if after.filters != before.filters + added => {
            Err("they are not in force".into())
        }
        (_, after) => Ok(after.map(|after| after.filters)),
    }
}
