//! Walks to a file whose path was given to pen, component by component, so that a symbolic link of
//! another user cannot lead root elsewhere.
//!
//! A symbolic link is followed on two conditions. It belongs to root or to the user who started
//! pen, and no other user can replace it. For the second condition, each directory on the way must
//! belong to these users and must not be writable by others. In a directory with the sticky bit
//! (/tmp) the owner of the link is enough, because no other user may rename it. Directories that
//! are not links are entered whatever their owner. A user cannot move another user's directory into
//! his own, because rename(2) needs the right to write both.
//!
//! The result holds a descriptor of the directory that was reached. Files are opened, renamed and
//! removed relative to it, so a path that changes afterwards has no effect. Each use of a path
//! walks again, and so finds a directory that was made again.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, fstatfs, getxattr, openat, readlinkat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getuid};

/// Which links of untrusted users are followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Strangers {
    /// None: the file is to be written, or is a directory that pen relies on.
    Refused,
    /// Links to files of the link's own owner, who could also have put such a file there: the file
    /// is only read.
    ToTheirOwn,
    /// All: the file is not opened.
    Looked,
}

/// A name in a directory that is held open; a file of that name may exist or not.
#[derive(Debug)]
pub struct Entry {
    directory: OwnedFd,
    name: OsString,
    /// Whether only trusted users can replace this directory by another.
    is_fixed: bool,
    /// The required owner of the file, because a link of that untrusted user led here.
    owner: Option<u32>,
}

/// The end of a path.
#[derive(Debug)]
pub enum PathEnd {
    /// A name that is not a link.
    Entry(Entry),
    /// A link of /proc that stands for an open file and not for a name (proc(5)). Only the kernel
    /// can follow it.
    OpenFile(Entry),
}

/// The kind of file at the end of a path, after all links.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// No file.
    Missing,
    /// A directory, a device, a fifo, a socket, or a descriptor of a process.
    Other,
}

impl Entry {
    /// Walks to the directory of `path`. The last component is not followed.
    ///
    /// # Errors
    /// A directory is missing or this process has no access to it, or a link of an untrusted user
    /// is on the way.
    pub fn find(path: &Path) -> io::Result<Entry> {
        match walk(path, Last::Kept, Strangers::Refused)? {
            PathEnd::Entry(entry) | PathEnd::OpenFile(entry) => Ok(entry),
        }
    }

    /// The status of the file of this name; a link is not followed.
    ///
    /// # Errors
    /// There is no file of that name, or its status cannot be read.
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Opens the file. A link is refused with ELOOP. Opening does not wait for a fifo or terminal.
    ///
    /// # Errors
    /// As openat(2); or the file does not belong to the user whose link led here.
    pub fn open(&self, flags: OFlags, mode: u32) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = openat(&self.directory, &self.name, flags, Mode::from_raw_mode(mode))?;
        match self.owner {
            Some(owner) if fstat(&file)?.st_uid != owner => Err(strange_target()),
            _ => Ok(file.into()),
        }
    }

    /// Opens the file that a link of /proc stands for ([`PathEnd::OpenFile`]).
    ///
    /// # Errors
    /// As openat(2).
    pub fn open_followed(&self, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(openat(&self.directory, &self.name, flags, Mode::empty())?.into())
    }

    /// Whether the name refers to this file now.
    pub fn is(&self, file: &Stat) -> bool {
        self.stat().is_ok_and(|now| (now.st_dev, now.st_ino) == (file.st_dev, file.st_ino))
    }

    /// Removes the name.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn remove(&self) -> io::Result<()> {
        Ok(unlinkat(&self.directory, &self.name, AtFlags::empty())?)
    }

    /// Another name in the same directory.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn beside(&self, name: String) -> io::Result<Entry> {
        let directory = self.directory.try_clone()?;
        Ok(Entry { directory, name: name.into(), is_fixed: self.is_fixed, owner: None })
    }

    /// Replaces this file by the file of another name in the same directory.
    ///
    /// # Errors
    /// As rename(2).
    pub fn replace_by(&self, other: &Entry) -> io::Result<()> {
        Ok(renameat(&other.directory, &other.name, &self.directory, &self.name)?)
    }

    /// Exchanges the files of two names in the same directory atomically (renameat2(2)).
    ///
    /// # Errors
    /// The file system does not support it (EINVAL), or one of the files is gone.
    pub fn exchange_with(&self, other: &Entry) -> io::Result<()> {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        Ok(rustix::fs::renameat_with(
            &other.directory,
            &other.name,
            &self.directory,
            &self.name,
            flags,
        )?)
    }

    /// The directory.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The name in the directory.
    pub fn name(&self) -> &Path {
        Path::new(&self.name)
    }

    /// Whether only trusted users can replace this directory by another. Then its path may be used
    /// again as it was given.
    pub fn is_fixed(&self) -> bool {
        self.is_fixed
    }
}

/// Walks to the end of `path`, and follows the permitted links.
///
/// # Errors
/// As [`Entry::find`].
pub fn follow(path: &Path, strangers: Strangers) -> io::Result<PathEnd> {
    walk(path, Last::Followed, strangers)
}

/// Opens a file for reading, and follows the permitted links.
///
/// # Errors
/// The file cannot be opened or is not a regular file, or an untrusted user's link leads to a file
/// of another user.
pub fn read(path: &Path) -> io::Result<File> {
    let PathEnd::Entry(entry) = follow(path, Strangers::ToTheirOwn)? else {
        return Err(not_regular());
    };
    let file = entry.open(OFlags::RDONLY, 0)?;
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(not_regular()),
    }
}

/// Opens a directory that pen relies on, and follows the permitted links. It needs no right to read
/// the directory.
///
/// # Errors
/// The directory is missing, inaccessible or not a directory, or a link of an untrusted user is on
/// the way.
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    // The last component is followed like those before it if a component follows it.
    Ok(Entry::find(&path.join("any"))?.directory)
}

/// Opens a directory to list its names.
///
/// # Errors
/// As [`directory`]; but a link of an untrusted user may lead to that user's directory.
pub fn list(path: &Path) -> io::Result<OwnedFd> {
    let PathEnd::Entry(entry) = follow(path, Strangers::ToTheirOwn)? else {
        return Err(Errno::NOTDIR.into());
    };
    Ok(entry.open(OFlags::RDONLY | OFlags::DIRECTORY, 0)?.into())
}

/// The kind of the file at the end of a path; all links are followed. No file is opened.
///
/// # Errors
/// The kind cannot be read.
pub fn kind(path: &Path) -> io::Result<FileKind> {
    let entry = match follow(path, Strangers::Looked) {
        Ok(PathEnd::Entry(entry)) => entry,
        // The open file may be a regular one, but it is not the file in this directory.
        Ok(PathEnd::OpenFile(_)) => return Ok(FileKind::Other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(FileKind::Missing),
        Err(error) => return Err(error),
    };
    match entry.stat() {
        Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::RegularFile => {
            Ok(FileKind::Regular)
        }
        Ok(_) => Ok(FileKind::Other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(FileKind::Missing),
        Err(error) => Err(error),
    }
}

/// How a link is treated that is the last component.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Last {
    Kept,
    Followed,
}

/// A directory on the way.
#[derive(Debug)]
struct PathStep {
    directory: OwnedFd,
    name: OsString,
    /// Whether only trusted users can replace it by another directory.
    is_fixed: bool,
    links: LinkBudget,
}

/// Who can put a link into a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum LinkBudget {
    /// Trusted users only.
    Trusted,
    /// All users, but no user can change another user's link (the sticky bit).
    EverybodysOwn,
    /// Untrusted users.
    Strange,
}

/// The users whose links are followed: root and the user who started pen.
#[derive(Clone, Copy, Debug)]
struct Trusted {
    users: [u32; 3],
    /// Their groups; often the group of the starting user has no other member.
    groups: [u32; 2],
}

impl Trusted {
    fn here() -> Trusted {
        Trusted {
            users: [0, geteuid().as_raw(), getuid().as_raw()],
            groups: [0, getegid().as_raw()],
        }
    }

    fn owns(&self, file: &Stat) -> bool {
        self.users.contains(&file.st_uid)
    }

    fn links(&self, directory: &OwnedFd, is_fixed: bool) -> io::Result<LinkBudget> {
        let there = fstat(directory)?;
        let mode = Mode::from_raw_mode(there.st_mode);
        let group_may_write = mode.contains(Mode::WGRP)
            && !(self.groups.contains(&there.st_gid) && has_no_list(directory));
        Ok(match is_fixed && self.owns(&there) {
            false => LinkBudget::Strange,
            true if !mode.contains(Mode::WOTH) && !group_may_write => LinkBudget::Trusted,
            true if mode.contains(Mode::SVTX) => LinkBudget::EverybodysOwn,
            true => LinkBudget::Strange,
        })
    }
}

/// Whether a directory has no access control list (acl(5)). With a list, the group bits of the mode
/// apply to every user on the list.
fn has_no_list(directory: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    // Extended attributes cannot be read by a descriptor that was opened with O_PATH.
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let nothing: &mut [u8] = &mut [];
    matches!(
        getxattr(path, "system.posix_acl_access", nothing),
        Err(Errno::NODATA | Errno::OPNOTSUPP)
    )
}

struct Walk {
    trusted: Trusted,
    strangers: Strangers,
    steps: Vec<PathStep>,
    links: usize,
    /// The untrusted user whose link led here.
    lender: Option<u32>,
}

fn walk(path: &Path, last: Last, strangers: Strangers) -> io::Result<PathEnd> {
    let mut walk =
        Walk { trusted: Trusted::here(), strangers, steps: Vec::new(), links: 0, lender: None };
    walk.begin()?;
    let mut rest = components(path);
    while let Some(name) = rest.pop() {
        if name == ".." {
            walk.back()?;
            continue;
        }
        if rest.is_empty() && last == Last::Kept {
            return walk.end(name).map(PathEnd::Entry);
        }
        let directory = walk.here()?;
        let found = match openat(
            directory,
            &name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Err(Errno::NOENT) if rest.is_empty() => return walk.end(name).map(PathEnd::Entry),
            found => found?,
        };
        let there = fstat(&found)?;
        match FileType::from_raw_mode(there.st_mode) {
            FileType::Symlink => {
                walk.may_follow(&name, &there)?;
                let text = readlinkat(&found, "", Vec::new())?;
                let text = Path::new(OsStr::from_bytes(text.as_bytes()));
                // Links such as /proc/self/fd/1 and /proc/1/cwd are not text: only the kernel can
                // follow and change them.
                let is_text = text.is_relative() && !text.as_os_str().as_bytes().contains(&b':');
                if fstatfs(&found)?.f_type == PROC_SUPER_MAGIC && !is_text {
                    if rest.is_empty() {
                        return walk.end(name).map(PathEnd::OpenFile);
                    }
                    walk.jump(name)?;
                    continue;
                }
                if text.is_absolute() {
                    walk.begin()?;
                }
                rest.extend(components(text));
            }
            FileType::Directory if !rest.is_empty() => walk.enter(found, name)?,
            _ if rest.is_empty() => return walk.end(name).map(PathEnd::Entry),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    // `/`, or a path that ends with `..`.
    walk.end(".".into()).map(PathEnd::Entry)
}

impl Walk {
    fn begin(&mut self) -> io::Result<()> {
        self.steps.clear();
        let root =
            openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        self.push(root, OsString::new(), true)
    }

    fn here(&self) -> io::Result<&OwnedFd> {
        self.steps.last().map(|step| &step.directory).ok_or_else(|| Errno::NOENT.into())
    }

    fn push(&mut self, directory: OwnedFd, name: OsString, is_fixed: bool) -> io::Result<()> {
        let links = self.trusted.links(&directory, is_fixed)?;
        self.steps.push(PathStep { directory, name, is_fixed, links });
        Ok(())
    }

    fn enter(&mut self, directory: OwnedFd, name: OsString) -> io::Result<()> {
        let is_fixed = match self.steps.last().map(|step| step.links) {
            Some(LinkBudget::Trusted) => true,
            Some(LinkBudget::EverybodysOwn) => self.trusted.owns(&fstat(&directory)?),
            Some(LinkBudget::Strange) | None => false,
        };
        self.push(directory, name, is_fixed)
    }

    /// Goes back to the directory that was entered before, wherever the present one is now.
    fn back(&mut self) -> io::Result<()> {
        match self.steps.len() {
            0 | 1 if self.steps.first().is_some_and(|step| !step.name.is_empty()) => {
                Err(Errno::NOENT.into())
            }
            0 | 1 => Ok(()),
            _ => {
                self.steps.pop();
                Ok(())
            }
        }
    }

    /// Follows a link of /proc to a directory. The path of that directory is unknown.
    fn jump(&mut self, name: OsString) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(self.here()?, &name, flags, Mode::empty())?;
        let name = self.path(&name).into_os_string();
        self.steps.clear();
        self.push(directory, name, false)
    }

    fn may_follow(&mut self, name: &OsStr, link: &Stat) -> io::Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        let is_trusted = self.trusted.owns(link)
            && match self.steps.last().map(|step| step.links) {
                Some(LinkBudget::Trusted) => true,
                // With a second name, the link may have been made elsewhere and for another
                // purpose.
                Some(LinkBudget::EverybodysOwn) => link.st_nlink == 1,
                Some(LinkBudget::Strange) | None => false,
            };
        match self.strangers {
            _ if is_trusted => Ok(()),
            Strangers::Looked => Ok(()),
            Strangers::ToTheirOwn if self.lender.is_none_or(|lender| lender == link.st_uid) => {
                self.lender = Some(link.st_uid);
                Ok(())
            }
            Strangers::ToTheirOwn => Err(strange_target()),
            Strangers::Refused => Err(io::Error::other(format!(
                "the symbolic link {} is not followed, because others than root and the user who \
                 started pen can change \
                 it; give the path that it leads to",
                self.path(name).display()
            ))),
        }
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        let names = self.steps.iter().map(|step| step.name.as_os_str()).chain([name]);
        Path::new("/").join(names.collect::<PathBuf>())
    }

    fn end(mut self, name: OsString) -> io::Result<Entry> {
        let PathStep { directory, is_fixed, .. } = self.steps.pop().ok_or(Errno::NOENT)?;
        Ok(Entry { directory, name, is_fixed, owner: self.lender })
    }
}

/// The names of a path, the last first.
fn components(path: &Path) -> Vec<OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_os_string()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

fn not_regular() -> io::Error {
    io::Error::other("not a regular file")
}

fn strange_target() -> io::Error {
    io::Error::other("a symbolic link of another user leads to a file that is not that user's")
}

/// The number of links that the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The file system of /proc (statfs(2)).
const PROC_SUPER_MAGIC: rustix::fs::FsWord = 0x9fa0;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    use rustix::fs::linkat;

    use super::*;

    const STRANGER: u32 = 65534;

    fn directory(parent: &Path, name: &str, mode: u32, owner: u32, group: u32) -> PathBuf {
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
    fn dots_and_links_lead_where_the_kernel_goes() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/file"), "x").unwrap();
        symlink("a/b", at("to-b")).unwrap();
        symlink(at("to-b"), at("whole")).unwrap();
        symlink("../a/file", at("a/to-file")).unwrap();
        symlink("loop", at("loop")).unwrap();
        for path in [
            "a/file",
            "a/./b/../file",
            "to-b/../file",
            "whole/../file",
            "a/to-file",
            "whole/..//to-file",
        ] {
            assert_eq!(fs::read(at(path)).unwrap(), b"x");
            read(&at(path)).unwrap();
            assert_eq!(kind(&at(path)).unwrap(), FileKind::Regular, "{path}");
        }
        assert_eq!(read(&at("loop")).unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert_eq!(read(&at("a/file/x")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert_eq!(read(&at("no/such")).unwrap_err().kind(), io::ErrorKind::NotFound);
        for path in ["/", "/..", "/../../", "/proc/self/cwd", "/proc/self/fd/../fd"] {
            super::directory(Path::new(path)).unwrap();
        }
        assert!(
            Entry::find(Path::new("/proc/self/cwd/../x")).is_err(),
            "nobody knows what is above"
        );
        for (path, expected) in
            [("a", FileKind::Other), ("a/x", FileKind::Missing), ("/dev/null", FileKind::Other)]
        {
            assert_eq!(kind(&at(path)).unwrap(), expected, "{path}");
        }
    }

    #[test]
    fn a_descriptor_in_proc_is_an_open_file_whatever_it_is_of() {
        use std::os::fd::AsRawFd;
        let root = tempfile::tempdir().unwrap();
        let file = fs::File::create(root.path().join("file")).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert_eq!(kind(&path).unwrap(), FileKind::Other);
        assert!(matches!(follow(&path, Strangers::Refused).unwrap(), PathEnd::OpenFile(_)));
        symlink(&path, root.path().join("link")).unwrap();
        let PathEnd::OpenFile(entry) =
            follow(&root.path().join("link"), Strangers::Refused).unwrap()
        else {
            panic!()
        };
        entry.open_followed(OFlags::WRONLY).unwrap();
    }

    #[test]
    fn links_are_followed_where_nobody_else_can_put_them() {
        if !geteuid().is_root() {
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
            let parent = directory(root.path(), &n.to_string(), mode, owner, group);
            let link = link(&parent, link_owner);
            let case = format!("{mode:o} {owner} {group} {link_owner}");
            assert_eq!(Entry::find(&link.join("x")).is_ok(), followed, "{case}");
            assert_eq!(super::directory(&link).is_ok(), followed, "{case}");
            // The last component is not followed; its kind can always be read.
            assert!(
                Entry::find(&link).is_ok() && kind(&link).unwrap() == FileKind::Other,
                "{case}"
            );
            // A directory of root below a directory that can be replaced.
            let below = directory(&parent, "below", 0o755, 0, 0);
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
            return;
        }
        symlink("/proc", root.path().join("link")).unwrap();
        assert!(Entry::find(&root.path().join("link/x")).is_err());
    }

    #[test]
    fn a_strangers_link_is_read_to_the_strangers_own_file_only() {
        if !geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let home = directory(root.path(), "home", 0o755, STRANGER, STRANGER);
        for (owner, is_read) in [(STRANGER, true), (0, false), (1, false)] {
            let file = root.path().join(owner.to_string());
            fs::write(&file, "x").unwrap();
            chown(&file, Some(owner), None).unwrap();
            let link = home.join(format!("link-{owner}"));
            symlink(&file, &link).unwrap();
            lchown(&link, Some(STRANGER), Some(STRANGER)).unwrap();
            assert_eq!(read(&link).is_ok(), is_read, "{owner}");
            assert!(follow(&link, Strangers::Refused).is_err());
        }
    }

    #[test]
    fn what_was_reached_stays_reached_when_the_path_changes() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("www")).unwrap();
        fs::create_dir(at("precious")).unwrap();
        let entry = Entry::find(&at("www/file")).unwrap();
        fs::rename(at("www"), at("moved")).unwrap();
        symlink("precious", at("www")).unwrap();
        entry.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600).unwrap();
        let other = entry.beside("other".into()).unwrap();
        other.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600).unwrap();
        entry.exchange_with(&other).unwrap();
        entry.replace_by(&other).unwrap();
        assert!(at("moved/file").exists() && fs::read_dir(at("precious")).unwrap().count() == 0);
        entry.remove().unwrap();
        assert_eq!(fs::read_dir(at("moved")).unwrap().count(), 0);
    }
}
