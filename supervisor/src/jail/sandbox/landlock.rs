//! Restrictions by Landlock (landlock(7)): files, ports and other processes. They apply to every
//! path, whatever user and root directory the process has.

#![forbid(unsafe_code)]

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use crate::jail::sandbox::ProcessKind;

/// Restricts this process for ever. `version` is that of the kernel.
///
/// # Errors
/// The kernel refuses, or enforces less than requested.
pub(crate) fn restrict(kind: ProcessKind, version: i32) -> Result<(), String> {
    match enforce(kind, ABI::from(version.min(TESTED))) {
        Ok(RulesetStatus::FullyEnforced) => Ok(()),
        Ok(RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced) => {
            Err("not all of it is in force".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn enforce(kind: ProcessKind, abi: ABI) -> Result<RulesetStatus, RulesetError> {
    let all = AccessFs::from_all(abi);
    // This version knows all requested rights, so a right that it ignores is an error.
    let mut ruleset =
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(all)?;
    let ports = ports(kind) & AccessNet::from_all(abi);
    if !ports.is_empty() {
        ruleset = ruleset.handle_access(ports)?;
    }
    let scopes = scopes(kind) & Scope::from_all(abi);
    if !scopes.is_empty() {
        ruleset = ruleset.scope(scopes)?;
    }
    let mut ruleset = ruleset.create()?;
    let files = files(kind) & all;
    if !files.is_empty() {
        ruleset = ruleset.add_rules(path_beneath_rules(["/"], files))?;
    }
    if matches!(kind, ProcessKind::Relay | ProcessKind::Checker) && !ports.is_empty() {
        // `source` binds an address and leaves the choice of the port to the kernel.
        ruleset = ruleset.add_rule(NetPort::new(0, AccessNet::BindTcp))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// The rights on files anywhere below the process's root directory, within the rights of its user.
/// They never include: execute a file, make directories, devices, fifos or links, or move a file to
/// another directory.
fn files(kind: ProcessKind) -> BitFlags<AccessFs> {
    let written = AccessFs::ReadFile
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Truncate
        | AccessFs::IoctlDev;
    match kind {
        ProcessKind::Relay | ProcessKind::Examiner | ProcessKind::Page | ProcessKind::Checker => {
            BitFlags::EMPTY
        }
        ProcessKind::Control | ProcessKind::Writer | ProcessKind::Reporter => written,
        ProcessKind::Opener => written | AccessFs::MakeSock,
        ProcessKind::Resolver | ProcessKind::Reader => AccessFs::ReadFile | AccessFs::ReadDir,
    }
}

/// Whether a kind of process may read directories.
pub(crate) fn lists_directories(kind: ProcessKind) -> bool {
    files(kind).contains(AccessFs::ReadDir)
}

/// The rights on TCP ports that are denied, except for the rules above.
fn ports(kind: ProcessKind) -> BitFlags<AccessNet> {
    match kind {
        // Servers may have any port. Access lists of the network are better placed to restrict
        // that.
        ProcessKind::Relay | ProcessKind::Checker | ProcessKind::Resolver => {
            AccessNet::BindTcp.into()
        }
        ProcessKind::Control
        | ProcessKind::Examiner
        | ProcessKind::Page
        | ProcessKind::Reader
        | ProcessKind::Reporter
        | ProcessKind::Opener
        | ProcessKind::Writer => AccessNet::BindTcp | AccessNet::ConnectTcp,
    }
}

/// The scopes that are closed: signals, and connections to abstract Unix sockets, to processes
/// outside.
fn scopes(kind: ProcessKind) -> BitFlags<Scope> {
    match kind {
        ProcessKind::Relay
        | ProcessKind::Examiner
        | ProcessKind::Control
        | ProcessKind::Page
        | ProcessKind::Checker
        | ProcessKind::Opener
        | ProcessKind::Writer
        | ProcessKind::Reader => Scope::Signal | Scope::AbstractUnixSocket,
        // Local daemons for names or logs may listen at abstract sockets.
        ProcessKind::Resolver | ProcessKind::Reporter => Scope::Signal.into(),
    }
}

/// The restrictions in force, as text.
pub(crate) fn words(kind: ProcessKind, version: i32) -> String {
    let abi = ABI::from(version.min(TESTED));
    let files = match kind {
        ProcessKind::Relay | ProcessKind::Examiner | ProcessKind::Page | ProcessKind::Checker => {
            "no file"
        }
        ProcessKind::Control | ProcessKind::Writer | ProcessKind::Reporter => {
            "files read, written and removed"
        }
        ProcessKind::Opener => "files and sockets opened, made and removed",
        ProcessKind::Resolver | ProcessKind::Reader => "files read",
    };
    let ports = match (kind, (ports(kind) & AccessNet::from_all(abi)).is_empty()) {
        (_, true) => ", any port",
        (ProcessKind::Relay | ProcessKind::Checker, _) => ", no port of its choice",
        (ProcessKind::Resolver, _) => ", no TCP port of its own",
        (
            ProcessKind::Control
            | ProcessKind::Examiner
            | ProcessKind::Page
            | ProcessKind::Reader
            | ProcessKind::Reporter
            | ProcessKind::Opener
            | ProcessKind::Writer,
            _,
        ) => ", no TCP",
    };
    let signals =
        if (scopes(kind) & Scope::from_all(abi)).is_empty() { "" } else { ", no signals" };
    format!("{files}{ports}{signals}")
}

/// The newest tested version; the rights of later versions are not requested.
pub(crate) const TESTED: i32 = 6;
