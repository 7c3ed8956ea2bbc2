//! The user of the jailed processes: the account of `-u`, looked up before any jail.

#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, User, getegid, geteuid, getgrouplist, getgroups, setegid, seteuid};
use pen_ipc::text::error_text;

/// The ids of a jailed process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    /// Real, effective and saved user id.
    pub(crate) uid: Uid,
    /// Real, effective and saved group id.
    pub(crate) gid: Gid,
    /// Supplementary groups. They contain root's group only for root.
    pub(crate) groups: Vec<Gid>,
}

/// The reason why an account cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserError {
    /// The user database could not be read.
    #[error("cannot look up user {0}: {reason}", reason = error_text(.1))]
    Lookup(String, io::Error),
    /// No account has this name or number.
    #[error("-u {0}: no such user")]
    Unknown(String),
    /// The account would leave a worker in root's group.
    #[error("-u {0}: the primary group of this user is root's (gid 0); choose another user")]
    RootGroup(String),
    /// Only root can become another user.
    #[error("-u {0}: only root can run workers as another user")]
    OtherUser(String),
    /// Only root can change the root directory.
    #[error("-j: only root can use a jail directory; leave it out, or start pen as root")]
    JailNeedsRoot,
}

/// The identity of the workers: that of `-u`, or without it that of the user who starts pen.
///
/// # Errors
/// The account does not exist or must not be used, or an ordinary user asks for something that
/// needs root.
pub(crate) fn of_workers(user: Option<&str>, jailed: bool) -> Result<Identity, UserError> {
    let (uid, gid) = (geteuid(), getegid());
    if jailed && !uid.is_root() {
        return Err(UserError::JailNeedsRoot);
    }
    match user {
        Some(user) => {
            let account = account(user)?;
            match uid.is_root() {
                true => of_account(user, &account),
                false if account.uid == uid => Ok(own(uid, gid)),
                false => Err(UserError::OtherUser(user.into())),
            }
        }
        // Root's own groups give a process without capabilities access to root's files: keep none.
        None if uid.is_root() => Ok(Identity { uid, gid, groups: Vec::new() }),
        None => Ok(own(uid, gid)),
    }
}

/// The identity of the resolver: the workers', but `nobody` rather than root if there is such an
/// account.
pub(crate) fn of_resolver(workers: &Identity) -> Identity {
    let nobody = || of_account(NOBODY, &account(NOBODY).ok()?).ok();
    match workers.uid.is_root() {
        true => nobody().unwrap_or_else(|| workers.clone()),
        false => workers.clone(),
    }
}

/// Calls `act` with the effective ids of another user, for files and processes to which the
/// supervisor has no right of its own. There is one thread. The real and saved ids stay, so that no
/// other user can signal or trace this process meanwhile.
///
/// # Errors
/// Only root can do so.
pub(crate) fn acting_as<R>(user: Uid, group: Gid, act: impl FnOnce() -> R) -> io::Result<R> {
    let (own_user, own_group) = (geteuid(), getegid());
    setegid(group)?;
    let done = seteuid(user).map(|()| act());
    // The user first: it brings back the capabilities that changing the group needs.
    if seteuid(own_user).and_then(|()| setegid(own_group)).is_err() {
        // Cannot happen, because the saved ids allow it. A supervisor with another user could not
        // manage its workers; they end with it.
        std::process::abort();
    }
    Ok(done?)
}

/// The identity of an ordinary user, who cannot change groups and need not.
fn own(uid: Uid, gid: Gid) -> Identity {
    Identity { uid, gid, groups: getgroups().unwrap_or_default() }
}

fn account(user: &str) -> Result<User, UserError> {
    let failed = |errno: Errno| UserError::Lookup(user.into(), errno.into());
    let by_name = User::from_name(user).map_err(failed)?;
    let by_number =
        || match user.bytes().all(|byte| byte.is_ascii_digit()).then(|| user.parse::<u32>()) {
            Some(Ok(number)) => User::from_uid(Uid::from_raw(number)).map_err(failed),
            _ => Ok(None),
        };
    by_name
        .map_or_else(by_number, |found| Ok(Some(found)))?
        .ok_or_else(|| UserError::Unknown(user.into()))
}

fn of_account(user: &str, account: &User) -> Result<Identity, UserError> {
    if account.gid.as_raw() == 0 && !account.uid.is_root() {
        return Err(UserError::RootGroup(user.into()));
    }
    let name = CString::new(account.name.as_str()).map_err(|_| UserError::Unknown(user.into()))?;
    let mut groups = getgrouplist(&name, account.gid)
        .map_err(|errno| UserError::Lookup(user.into(), errno.into()))?;
    groups.retain(|group| account.uid.is_root() || group.as_raw() != 0);
    Ok(Identity { uid: account.uid, gid: account.gid, groups })
}

const NOBODY: &str = "nobody";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_name_and_by_number() {
        let name = account("nobody").unwrap();
        let number = account(&name.uid.to_string()).unwrap();
        assert_eq!(name.uid, number.uid);
        assert!(matches!(account("no-such-user"), Err(UserError::Unknown(_))));
        assert!(matches!(account("4000000000"), Err(UserError::Unknown(_))));
        assert!(matches!(account("-1"), Err(UserError::Unknown(_))));
        assert!(matches!(account(""), Err(UserError::Unknown(_))));
    }

    #[test]
    fn roots_group_is_for_root_alone() {
        let mut nobody = account("nobody").unwrap();
        let identity = of_account("nobody", &nobody).unwrap();
        assert!(identity.groups.iter().all(|group| group.as_raw() != 0));
        nobody.gid = Gid::from_raw(0);
        assert!(matches!(of_account("nobody", &nobody), Err(UserError::RootGroup(_))));
        assert!(of_account("root", &account("root").unwrap()).is_ok());
    }

    #[test]
    fn the_resolver_is_not_root_if_it_can_be_helped() {
        let root = Identity { uid: Uid::from_raw(0), gid: Gid::from_raw(0), groups: Vec::new() };
        assert!(!of_resolver(&root).uid.is_root());
        let user =
            Identity { uid: Uid::from_raw(1000), gid: Gid::from_raw(1000), groups: Vec::new() };
        assert_eq!(of_resolver(&user), user);
    }

    #[test]
    fn an_ordinary_user_is_itself_and_has_no_jail() {
        if geteuid().is_root() {
            // tests/it/supervisor/jail.rs has the same cases with a pen of an ordinary user.
            return;
        }
        assert!(matches!(of_workers(Some("root"), false), Err(UserError::OtherUser(_))));
        assert!(matches!(of_workers(None, true), Err(UserError::JailNeedsRoot)));
        assert_eq!(of_workers(None, false).unwrap().uid, geteuid());
    }
}
