//! The jail: a child of the supervisor gives up every right that it does not need before it reads
//! the first byte from the network.
//!
//! The code runs in the child right after the fork. Every step is fatal and has its own message;
//! the result is verified. The last step is the sandbox.

#![forbid(unsafe_code)]

pub(crate) mod display;
pub(crate) mod sandbox;
pub(crate) mod user;

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use caps::CapSet;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{
    Gid, Pid, Uid, chdir, chroot, fchdir, getgroups, getppid, getresgid, getresuid, setgroups,
    setresgid, setresuid,
};
use pen_ipc::text::error_text;
use pen_walk as walk;

use crate::jail::sandbox::{KernelStatus, ProcessKind, Sandbox};
use crate::jail::user::Identity;
use crate::sys;

/// The root directory, user and sandbox of a child.
#[derive(Clone, Debug)]
pub(crate) struct Jail {
    /// The new root directory, if there is one (`-j`).
    pub(crate) root: Option<PathBuf>,
    /// The user and group ids.
    pub(crate) identity: Identity,
    /// The further restrictions.
    pub(crate) sandbox: Sandbox,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {reason}", reason = error_text(.source))]
pub(crate) struct JailError {
    step: &'static str,
    source: io::Error,
}

impl Jail {
    /// ` in DIRECTORY`, for messages.
    pub(crate) fn location(&self) -> String {
        self.root.as_ref().map_or(String::new(), |root| format!(" in {}", root.display()))
    }

    /// Enters the jail, and closes all descriptors except these and the standard streams. The child
    /// dies with its parent, `supervisor`.
    ///
    /// # Errors
    /// A step failed; the process must end.
    pub(crate) fn enter(
        &self,
        kind: ProcessKind,
        supervisor: Pid,
        keep: &[BorrowedFd<'_>],
    ) -> Result<(), JailError> {
        if let Some(root) = self.sandbox.root(kind) {
            // Before its descriptor is closed, because the supervisor owns that.
            fchdir(root).map_err(at("chdir to the empty root"))?;
        }
        sys::close_all_but(keep).map_err(at_io("close descriptors"))?;
        let verifier = KernelStatus::open();
        let may_drop_bounding = holds(caps::Capability::CAP_SETPCAP)?;
        let inside = self.change_root(kind)?;
        if may_drop_bounding {
            // While the child is still root: this needs a capability that setresuid(2) removes. A
            // supervisor that was started without that capability leaves the set alone. That set
            // gives no rights, because the other sets are empty and no_new_privs is set.
            clear(CapSet::Bounding, "capability bounding set")?;
        }
        self.change_ids()?;
        clear(CapSet::Ambient, "ambient capabilities")?;
        clear(CapSet::Effective, "effective capabilities")?;
        clear(CapSet::Permitted, "permitted capabilities")?;
        clear(CapSet::Inheritable, "inheritable capabilities")?;
        prctl::set_no_new_privs().map_err(at("no_new_privs"))?;
        // After setresuid(2), which resets it.
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("parent death signal"))?;
        if getppid() != supervisor {
            return Err(refused("parent death signal", "the supervisor is gone"));
        }
        prctl::set_dumpable(false).map_err(at("not dumpable"))?;
        // No core file may contain keys or traffic, not even one that goes to the system's core
        // handler.
        setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(at("no core"))?;
        self.verify(inside, may_drop_bounding)?;
        self.sandbox.enter(kind, &verifier).map_err(at_io("sandbox"))
    }

    /// Changes the root directory, and the working directory with it: a working directory outside
    /// would be a way out. Returns the directory that must be the root afterwards.
    fn change_root(&self, kind: ProcessKind) -> Result<DirectoryId, JailError> {
        if let Some(root) = &self.root {
            // Held by a descriptor, because an untrusted user may own the directory above.
            let root = walk::directory(root).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => refused("chroot", "no such directory"),
                _ => at_io("chroot")(error),
            })?;
            fchdir(root).map_err(at("chdir to the jail"))?;
            chroot(".").map_err(at("chroot"))?;
        } else if self.sandbox.root(kind).is_some() {
            chroot(".").map_err(at("chroot to the empty root"))?;
        }
        chdir("/").map_err(at("chdir to the new root"))?;
        directory_id(".").map_err(at_io("look at the new root"))
    }

    fn change_ids(&self) -> Result<(), JailError> {
        let Identity { uid, gid, groups } = &self.identity;
        // Without a difference, no call is made: an ordinary user or a container may not be allowed
        // to make it.
        if !same(&getgroups().map_err(at("getgroups"))?, groups) {
            setgroups(groups).map_err(at("setgroups"))?;
        }
        setresgid(*gid, *gid, *gid).map_err(at("setresgid"))?;
        setresuid(*uid, *uid, *uid).map_err(at("setresuid"))
    }

    fn verify(&self, inside: DirectoryId, bounding_dropped: bool) -> Result<(), JailError> {
        let Identity { uid, gid, groups } = &self.identity;
        let users = getresuid().map_err(at("verify user"))?;
        if [users.real, users.effective, users.saved] != [*uid; 3] {
            return Err(refused("verify user", "it did not change"));
        }
        let group = getresgid().map_err(at("verify group"))?;
        if [group.real, group.effective, group.saved] != [*gid; 3] {
            return Err(refused("verify group", "it did not change"));
        }
        if !same(&getgroups().map_err(at("verify groups"))?, groups) {
            return Err(refused("verify groups", "they did not change"));
        }
        let root = Uid::from_raw(0);
        if !uid.is_root() && setresuid(root, root, root).is_ok() {
            return Err(refused("verify user", "it can become root again"));
        }
        let sets = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient];
        for set in sets.into_iter().chain(bounding_dropped.then_some(CapSet::Bounding)) {
            let left = caps::read(None, set).map_err(at_caps("verify capabilities"))?;
            if let Some(capability) = left.iter().next() {
                return Err(refused(
                    "verify capabilities",
                    &format!("{capability} is left in {set:?}"),
                ));
            }
        }
        if prctl::get_dumpable().map_err(at("verify not dumpable"))?
            || getrlimit(Resource::RLIMIT_CORE).map_err(at("verify no core"))? != (0, 0)
        {
            return Err(refused("verify not dumpable", "it can leave a core"));
        }
        match (
            directory_id("/").map_err(at_io("verify root"))?,
            directory_id(".").map_err(at_io("verify root"))?,
        ) {
            (root, work) if root == inside && work == inside => Ok(()),
            _ => Err(refused(
                "verify root",
                "the root or working directory is another than the jail",
            )),
        }
    }
}

/// Device and inode number of a directory.
type DirectoryId = (u64, u64);

fn directory_id(path: &str) -> io::Result<DirectoryId> {
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn holds(capability: caps::Capability) -> Result<bool, JailError> {
    caps::has_cap(None, CapSet::Effective, capability).map_err(at_caps("read capabilities"))
}

fn clear(set: CapSet, step: &'static str) -> Result<(), JailError> {
    caps::clear(None, set).map_err(at_caps(step))
}

/// Whether two lists name the same groups.
fn same(left: &[Gid], right: &[Gid]) -> bool {
    let sorted = |groups: &[Gid]| {
        let mut groups: Vec<u32> = groups.iter().map(|group| group.as_raw()).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    };
    sorted(left) == sorted(right)
}

fn at(step: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError { step, source: errno.into() }
}

fn at_io(step: &'static str) -> impl Fn(io::Error) -> JailError {
    move |source| JailError { step, source }
}

fn at_caps(step: &'static str) -> impl Fn(caps::errors::CapsError) -> JailError {
    move |error| refused(step, &error.to_string())
}

fn refused(step: &'static str, reason: &str) -> JailError {
    JailError { step, source: io::Error::other(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_compared_as_sets() {
        let groups =
            |raw: &[u32]| raw.iter().map(|group| Gid::from_raw(*group)).collect::<Vec<_>>();
        assert!(same(&groups(&[1, 2, 2]), &groups(&[2, 1])));
        assert!(!same(&groups(&[1]), &groups(&[])));
    }

    #[test]
    fn a_step_names_itself() {
        assert_eq!(at("setgroups")(Errno::EPERM).to_string(), "setgroups: operation not permitted");
        assert_eq!(refused("chroot", "no such directory").to_string(), "chroot: no such directory");
    }
}
