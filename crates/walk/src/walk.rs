//! The walk along a path, component by component, and over the links that the rule permits.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, fstatfs, openat, readlinkat};
use rustix::io::Errno;

use crate::entry::{Entry, foreign_target};
use crate::trust::{LinkMakers, TrustedUsers};

/// The end of a path.
#[derive(Debug)]
pub enum PathEnd {
    /// A name that is not a link.
    Entry(Entry),
    /// A link of /proc that stands for an open file and not for a name (proc(5)). Only the kernel
    /// can follow it.
    OpenFile(Entry),
}

/// Which links of untrusted users are followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UntrustedLinks {
    /// None: the file is to be written, or is a directory that pen relies on.
    Refused,
    /// Links to files of the link's own owner, who could also have put such a file there: the file
    /// is only read.
    ToOwnFiles,
    /// All: the file is not opened.
    Followed,
}

/// How a link is treated that is the last component.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LastLink {
    Kept,
    Followed,
}

impl Entry {
    /// Walks to the directory of `path`. The last component is not followed.
    ///
    /// # Errors
    /// A directory is missing or this process has no access to it, or a link of an untrusted user
    /// is on the way.
    pub fn find(path: &Path) -> io::Result<Entry> {
        match walk(path, LastLink::Kept, UntrustedLinks::Refused)? {
            PathEnd::Entry(entry) | PathEnd::OpenFile(entry) => Ok(entry),
        }
    }
}

/// A directory on the way.
#[derive(Debug)]
struct PathStep {
    directory: OwnedFd,
    name: OsString,
    /// Whether only trusted users can replace it by another directory.
    is_fixed: bool,
    link_makers: LinkMakers,
}

struct Walk {
    trusted: TrustedUsers,
    untrusted_links: UntrustedLinks,
    steps: Vec<PathStep>,
    links: usize,
    /// The untrusted user whose link led here.
    link_owner: Option<u32>,
}

pub(crate) fn walk(
    path: &Path,
    last: LastLink,
    untrusted_links: UntrustedLinks,
) -> io::Result<PathEnd> {
    let mut walk = Walk {
        trusted: TrustedUsers::of_this_process(),
        untrusted_links,
        steps: Vec::new(),
        links: 0,
        link_owner: None,
    };
    walk.start_at_root()?;
    let mut rest = components(path);
    while let Some(name) = rest.pop() {
        if name == ".." {
            walk.leave()?;
            continue;
        }
        if rest.is_empty() && last == LastLink::Kept {
            return walk.finish(name).map(PathEnd::Entry);
        }
        let directory = walk.current()?;
        let found = match openat(
            directory,
            &name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Err(Errno::NOENT) if rest.is_empty() => return walk.finish(name).map(PathEnd::Entry),
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
                        return walk.finish(name).map(PathEnd::OpenFile);
                    }
                    walk.enter_proc_link(name)?;
                    continue;
                }
                if text.is_absolute() {
                    walk.start_at_root()?;
                }
                rest.extend(components(text));
            }
            FileType::Directory if !rest.is_empty() => walk.enter(found, name)?,
            _ if rest.is_empty() => return walk.finish(name).map(PathEnd::Entry),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    // `/`, or a path that ends with `..`.
    walk.finish(".".into()).map(PathEnd::Entry)
}

impl Walk {
    fn start_at_root(&mut self) -> io::Result<()> {
        self.steps.clear();
        let root =
            openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        self.push(root, OsString::new(), true)
    }

    fn current(&self) -> io::Result<&OwnedFd> {
        self.steps.last().map(|step| &step.directory).ok_or_else(|| Errno::NOENT.into())
    }

    fn push(&mut self, directory: OwnedFd, name: OsString, is_fixed: bool) -> io::Result<()> {
        let link_makers = self.trusted.link_makers(&directory, is_fixed)?;
        self.steps.push(PathStep { directory, name, is_fixed, link_makers });
        Ok(())
    }

    fn enter(&mut self, directory: OwnedFd, name: OsString) -> io::Result<()> {
        let is_fixed = self.trusted.fix_directory(&fstat(&directory)?, self.link_makers());
        self.push(directory, name, is_fixed)
    }

    fn link_makers(&self) -> LinkMakers {
        self.steps.last().map_or(LinkMakers::Untrusted, |step| step.link_makers)
    }

    /// Goes back to the directory that was entered before, wherever the present one is now.
    fn leave(&mut self) -> io::Result<()> {
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
    fn enter_proc_link(&mut self, name: OsString) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(self.current()?, &name, flags, Mode::empty())?;
        let name = self.path(&name).into_os_string();
        self.steps.clear();
        self.push(directory, name, false)
    }

    fn may_follow(&mut self, name: &OsStr, link: &Stat) -> io::Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        if self.trusted.own_link(link, self.link_makers()) {
            return Ok(());
        }
        match self.untrusted_links {
            UntrustedLinks::Followed => Ok(()),
            UntrustedLinks::ToOwnFiles
                if self.link_owner.is_none_or(|owner| owner == link.st_uid) =>
            {
                self.link_owner = Some(link.st_uid);
                Ok(())
            }
            UntrustedLinks::ToOwnFiles => Err(foreign_target()),
            UntrustedLinks::Refused => Err(io::Error::other(format!(
                "the symbolic link {} is not followed, because others than root and the user who \
                 started pen can change it; give the path that it leads to",
                self.path(name).display()
            ))),
        }
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        let names = self.steps.iter().map(|step| step.name.as_os_str()).chain([name]);
        Path::new("/").join(names.collect::<PathBuf>())
    }

    fn finish(mut self, name: OsString) -> io::Result<Entry> {
        let PathStep { directory, is_fixed, .. } = self.steps.pop().ok_or(Errno::NOENT)?;
        Ok(Entry { directory, name, is_fixed, owner: self.link_owner })
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

/// The number of links that the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The file system of /proc (statfs(2)).
const PROC_SUPER_MAGIC: rustix::fs::FsWord = 0x9fa0;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{FileKind, follow, kind, read};

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
            crate::directory(Path::new(path)).unwrap();
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
        let root = tempfile::tempdir().unwrap();
        let file = fs::File::create(root.path().join("file")).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        assert_eq!(kind(&path).unwrap(), FileKind::Other);
        assert!(matches!(follow(&path).unwrap(), PathEnd::OpenFile(_)));
        symlink(&path, root.path().join("link")).unwrap();
        let PathEnd::OpenFile(entry) = follow(&root.path().join("link")).unwrap() else { panic!() };
        entry.open_followed(OFlags::WRONLY).unwrap();
    }
}
