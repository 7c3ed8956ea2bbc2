//! Whose symbolic links are followed, and where: the rule that the other files apply.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, Stat, fstat, getxattr};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getuid};

/// Who can put a link into a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LinkMakers {
    /// Trusted users only.
    Trusted,
    /// All users, but no user can change another user's link (the sticky bit).
    Sticky,
    /// Untrusted users.
    Untrusted,
}

/// The users whose links are followed: root and the user who started pen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrustedUsers {
    users: [u32; 3],
    /// Their groups; often the group of the starting user has no other member.
    groups: [u32; 2],
}

impl TrustedUsers {
    pub fn of_this_process() -> TrustedUsers {
        TrustedUsers {
            users: [0, geteuid().as_raw(), getuid().as_raw()],
            groups: [0, getegid().as_raw()],
        }
    }

    /// Whether a link is one of theirs that no other user could have put there. `makers`: of the
    /// directory that it is in.
    pub fn own_link(&self, link: &Stat, makers: LinkMakers) -> bool {
        self.owns(link)
            && match makers {
                LinkMakers::Trusted => true,
                // With a second name, the link may have been made elsewhere and for another
                // purpose.
                LinkMakers::Sticky => link.st_nlink == 1,
                LinkMakers::Untrusted => false,
            }
    }

    /// Whether only they can replace a directory by another. `makers`: of the directory that it is
    /// in.
    pub fn fix_directory(&self, directory: &Stat, makers: LinkMakers) -> bool {
        match makers {
            LinkMakers::Trusted => true,
            LinkMakers::Sticky => self.owns(directory),
            LinkMakers::Untrusted => false,
        }
    }

    fn owns(&self, file: &Stat) -> bool {
        self.users.contains(&file.st_uid)
    }

    /// Who can put a link into a directory. `is_fixed`: only they can replace the directory.
    pub fn link_makers(&self, directory: &OwnedFd, is_fixed: bool) -> io::Result<LinkMakers> {
        let there = fstat(directory)?;
        let mode = Mode::from_raw_mode(there.st_mode);
        let group_may_write = mode.contains(Mode::WGRP)
            && !(self.groups.contains(&there.st_gid) && has_no_list(directory));
        Ok(match is_fixed && self.owns(&there) {
            false => LinkMakers::Untrusted,
            true if !mode.contains(Mode::WOTH) && !group_may_write => LinkMakers::Trusted,
            true if mode.contains(Mode::SVTX) => LinkMakers::Sticky,
            true => LinkMakers::Untrusted,
        })
    }
}

/// Whether a directory has no access control list (acl(5)). With a list, the group bits of the mode
/// apply to every user on the list.
fn has_no_list(directory: &OwnedFd) -> bool {
    // Extended attributes cannot be read by a descriptor that was opened with O_PATH.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let nothing: &mut [u8] = &mut [];
    matches!(
        getxattr(path, "system.posix_acl_access", nothing),
        Err(Errno::NODATA | Errno::OPNOTSUPP)
    )
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
    use std::path::{Path, PathBuf};

    use rustix::fs::{AtFlags, CWD, linkat};

    use super::*;
    use crate::{Entry, FileKind, kind};

    const STRANGER: u32 = 65534;

    fn make_directory(parent: &Path, name: &str, mode: u32, owner: u32, group: u32) -> PathBuf {
        let path = parent.join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(owner), Some(group)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A link in `parent` to a directory; the links in that directory do not matter here.
    fn link(parent: &Path, owner: u32) -> PathBuf {
        let path = parent.join("link");
        symlink("/proc", &path).unwrap();
        lchown(&path, Some(owner), Some(owner)).unwrap();
        path
    }

    #[test]
    fn links_are_followed_where_nobody_else_can_put_them() {
        if !geteuid().is_root() {
            let test = "links_are_followed_where_nobody_else_can_put_them";
            let _ = writeln!(std::io::stderr(), "NOT CHECKED: {test}: it needs root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let cases = [
            // Mode, owner and group of the directory, owner of the link, whether the link is
            // followed.
            (0o755, 0, 0, 0, true),
            (0o755, 0, 0, STRANGER, false),
            (0o755, STRANGER, 0, 0, false),
            (0o1777, 0, 0, 0, true),
            (0o1777, 0, 0, STRANGER, false),
            (0o1777, STRANGER, 0, 0, false),
            (0o777, 0, 0, 0, false),
            (0o775, 0, 0, 0, true),
            (0o775, 0, STRANGER, 0, false),
            (0o1775, 0, STRANGER, 0, true),
        ];
        for (n, (mode, owner, group, link_owner, followed)) in cases.into_iter().enumerate() {
            let parent = make_directory(root.path(), &n.to_string(), mode, owner, group);
            let link = link(&parent, link_owner);
            let case = format!("{mode:o} {owner} {group} {link_owner}");
            assert_eq!(Entry::find(&link.join("x")).is_ok(), followed, "{case}");
            assert_eq!(crate::directory(&link).is_ok(), followed, "{case}");
            // The last component is not followed; its kind can always be read.
            assert!(
                Entry::find(&link).is_ok() && kind(&link).unwrap() == FileKind::Other,
                "{case}"
            );
            // A directory of root below a directory that can be replaced.
            let below = make_directory(&parent, "below", 0o755, 0, 0);
            let is_fixed = owner == 0 && (mode & 0o1000 != 0 || mode & 0o022 == 0 || followed);
            assert_eq!(Entry::find(&self::link(&below, 0).join("x")).is_ok(), is_fixed, "{case}");
            if mode & 0o1000 != 0 && followed {
                linkat(CWD, &link, CWD, parent.join("second"), AtFlags::empty()).unwrap();
                assert!(Entry::find(&link.join("x")).is_err(), "{case}: with a second name");
            }
        }
    }

    #[test]
    fn a_group_on_an_access_list_counts_as_others() {
        let root = tempfile::tempdir().unwrap();
        // user::rwx, user:65534:rwx, group::r-x, mask::rwx, other::r-x (acl(5), in the kernel's
        // format).
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in [
            (1, 7, u32::MAX),
            (2, 7, STRANGER),
            (4, 5, u32::MAX),
            (0x10, 7, u32::MAX),
            (0x20, 5, u32::MAX),
        ] {
            list.extend(
                u16::to_le_bytes(tag)
                    .into_iter()
                    .chain(u16::to_le_bytes(rights))
                    .chain(id.to_le_bytes()),
            );
        }
        let flags = rustix::fs::XattrFlags::empty();
        if rustix::fs::setxattr(root.path(), "system.posix_acl_access", &list, flags).is_err() {
            let test = "a_group_on_an_access_list_counts_as_others";
            let _ = writeln!(std::io::stderr(), "NOT CHECKED: {test}: it needs access lists");
            return;
        }
        symlink("/proc", root.path().join("link")).unwrap();
        assert!(Entry::find(&root.path().join("link/x")).is_err());
    }
}
