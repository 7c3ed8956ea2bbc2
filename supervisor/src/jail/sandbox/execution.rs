//! The limit to what the supervisor and its children may execute: files beneath two directories, by
//! Landlock. That of the program holds its successors; the kernel executes the dynamic loader of a
//! program from the other one.
//!
//! The rules are for directories, because an update of a package puts other files there. A file
//! that lost its name stays allowed. Memory with a descriptor is no file beneath a directory, and
//! Landlock lets it be executed; the system call filter denies such memory.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ::landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus,
};
use pen_ipc::text::error_text;
use serde::{Deserialize, Serialize};

use crate::jail::sandbox::landlock;

/// What may be executed, apart from the limits of the system call filter.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) enum Execution {
    /// Any file: the kernel has no Landlock.
    Anything,
    /// Files beneath these directories.
    Beneath(#[serde(with = "pen_config::paths")] Vec<PathBuf>),
    /// Nothing, for this reason; there can be no upgrade.
    Nothing(String),
}

impl Execution {
    /// The limit for the running program. `held` is the result of holding it
    /// ([`crate::sys::program::hold_running`]).
    pub(crate) fn of_running(held: &Result<(), String>) -> Execution {
        match held.clone().and_then(|()| directories()) {
            Ok(directories) => Execution::Beneath(directories),
            Err(reason) => Execution::Nothing(reason),
        }
    }

    /// Puts the limit in force for ever, for this process and its children. `version` is the
    /// kernel's version of Landlock.
    ///
    /// # Errors
    /// The kernel refuses, or a directory is gone.
    pub(crate) fn restrict(&self, version: i32) -> Result<(), String> {
        let rules = match self {
            Execution::Anything => return Ok(()),
            Execution::Beneath(directories) => directories.as_slice(),
            Execution::Nothing(_) => &[],
        };
        // A process with any rule may move no file to another directory, unless a rule says so.
        let all = AccessFs::from_all(ABI::from(version.min(landlock::TESTED)));
        let moves = all & AccessFs::Refer;
        match enforce(rules, moves) {
            Ok(RulesetStatus::FullyEnforced) => Ok(()),
            Ok(RulesetStatus::PartiallyEnforced | RulesetStatus::NotEnforced) => {
                Err("not all of it is in force".into())
            }
            Err(reason) => Err(reason),
        }
    }

    /// Whether an upgrade is possible.
    ///
    /// # Errors
    /// It is not, for this reason.
    pub(crate) fn allows_upgrade(&self) -> Result<(), String> {
        match self {
            Execution::Anything | Execution::Beneath(_) => Ok(()),
            Execution::Nothing(reason) => {
                Err(format!("pen could not hold its own file when it started: {reason}"))
            }
        }
    }

    /// The limit as text.
    pub(crate) fn words(&self) -> String {
        match self {
            Execution::Anything => "executes a successor anywhere".into(),
            Execution::Beneath(directories) => {
                let all: Vec<_> =
                    directories.iter().map(|path| path.display().to_string()).collect();
                format!("executes a successor beneath {}", all.join(" and "))
            }
            Execution::Nothing(_) => "executes nothing".into(),
        }
    }
}

fn enforce(beneath: &[PathBuf], moves: BitFlags<AccessFs>) -> Result<RulesetStatus, String> {
    let text = |error: ::landlock::RulesetError| error.to_string();
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(moves | AccessFs::Execute)
        .and_then(Ruleset::create)
        .map_err(text)?;
    let rule = |path: &Path, access: BitFlags<AccessFs>| {
        PathFd::new(path)
            .map(|path| PathBeneath::new(path, access))
            .map_err(|error| error.to_string())
    };
    for directory in beneath {
        ruleset = ruleset.add_rule(rule(directory, AccessFs::Execute.into())?).map_err(text)?;
    }
    if !moves.is_empty() {
        ruleset = ruleset.add_rule(rule(Path::new("/"), moves)?).map_err(text)?;
    }
    Ok(ruleset.restrict_self().map_err(text)?.ruleset)
}

/// The directories of the running program and of its dynamic loader, which a static program does
/// not have.
fn directories() -> Result<Vec<PathBuf>, String> {
    const RUNNING: &str = "/proc/self/exe";
    let at = |error: io::Error| format!("{RUNNING}: {}", error_text(&error));
    let program = fs::read_link(RUNNING).map_err(at)?;
    let mut directories = vec![directory(&program)?];
    let loader = interpreter(&File::open(RUNNING).map_err(at)?).map_err(at)?;
    if let Some(loader) = loader {
        let loader = fs::canonicalize(&loader)
            .map_err(|error| format!("{}: {}", loader.display(), error_text(&error)))?;
        directories.extend(Some(directory(&loader)?).filter(|found| !directories.contains(found)));
    }
    Ok(directories)
}

/// The directory of a file.
fn directory(file: &Path) -> Result<PathBuf, String> {
    // The kernel shows a path that this process cannot reach without the slash.
    let parent = file.parent().filter(|parent| parent.is_absolute() && parent.is_dir());
    parent
        .map(Path::to_owned)
        .ok_or_else(|| format!("{}: its directory cannot be reached", file.display()))
}

/// The dynamic loader that an ELF file of this machine's kind names (PT_INTERP, elf(5)).
fn interpreter(program: &File) -> io::Result<Option<PathBuf>> {
    const HEADER: usize = 64;
    let mut header = [0; HEADER];
    program.read_exact_at(&mut header, 0)?;
    let bad = || io::Error::other("not an ELF file of 64 bits");
    if !header.starts_with(b"\x7fELF\x02") {
        return Err(bad());
    }
    let number = |bytes: &[u8], at: usize, length: usize| -> Option<u64> {
        let mut whole = [0; 8];
        let part = bytes.get(at..at + length)?;
        match cfg!(target_endian = "little") {
            true => whole[..length].copy_from_slice(part),
            false => whole[8 - length..].copy_from_slice(part),
        }
        Some(u64::from_ne_bytes(whole))
    };
    let field = |at, length| number(&header, at, length).ok_or_else(bad);
    let (offset, size, count) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
    // 16 bits each, so at most 4 GB; a real table has less than a page.
    if size * count > MOST_OF_TABLE {
        return Err(bad());
    }
    let mut table = vec![0; (size * count) as usize];
    program.read_exact_at(&mut table, offset)?;
    for entry in table.chunks_exact((size as usize).max(1)) {
        if number(entry, 0, 4) != Some(PT_INTERP) {
            continue;
        }
        let (Some(offset), Some(length)) = (number(entry, 8, 8), number(entry, 32, 8)) else {
            return Err(bad());
        };
        if length > libc::PATH_MAX as u64 {
            return Err(bad());
        }
        let mut path = vec![0; length as usize];
        program.read_exact_at(&mut path, offset)?;
        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
        return Ok(Some(PathBuf::from(std::ffi::OsStr::from_bytes(path))));
    }
    Ok(None)
}

const PT_INTERP: u64 = libc::PT_INTERP as u64;

const MOST_OF_TABLE: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn the_loader_of_this_program_is_found() {
        let loader = interpreter(&File::open("/proc/self/exe").unwrap()).unwrap();
        // A static program has none.
        assert!(loader.is_none_or(|loader| loader.is_absolute() && loader.is_file()));
        assert!(interpreter(&file(b"#!/bin/sh\n")).is_err() && interpreter(&file(b"")).is_err());
    }

    #[test]
    fn a_file_without_a_directory_is_none_to_execute() {
        assert_eq!(directory(Path::new("/proc/self/exe")).unwrap(), Path::new("/proc/self"));
        for path in ["(unreachable)/pen", "/no such directory/pen", "/"] {
            assert!(
                directory(Path::new(path)).unwrap_err().contains("cannot be reached"),
                "{path}"
            );
        }
    }

    proptest! {
        /// Damaged files give an error or any path, and no panic.
        #[test]
        fn any_file_can_be_read(
            changes in prop::collection::vec((0..200_usize, any::<u8>()), 1..20),
            length in 0..4096_usize,
        ) {
            let mut content = vec![0; 4096];
            File::open("/proc/self/exe").unwrap().read_exact_at(&mut content, 0).unwrap();
            for (at, byte) in changes {
                content[at] = byte;
            }
            let _ = interpreter(&file(&content[..length]));
        }
    }
}
