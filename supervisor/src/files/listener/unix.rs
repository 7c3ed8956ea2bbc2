//! Unix listeners: the file of the socket, and a dead socket in its place.

#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use caps::{CapSet, Capability};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, fchdir, geteuid};
use pen_config::address::Address;
use pen_walk::Entry;
use rustix::fs::{AtFlags, FileType, OFlags, Stat, fstat};
use socket2::{Domain, SockAddr, Socket};

use crate::files::listener::{IN_USE, ListenError, Listener, stream};
use crate::files::made::{MadeFile, file_id};
use crate::jail::user::acting_as;

impl Listener {
    /// Binds and listens at a path that belongs to this user and group, and to which nobody else
    /// can connect.
    ///
    /// # Errors
    /// As [`Listener::bind`], or the owner of the file cannot be changed.
    pub(crate) fn bind_private(
        address: &Address,
        backlog: u32,
        user: Uid,
        group: Gid,
    ) -> Result<Listener, ListenError> {
        if let Address::Unix(path) = address {
            remove_of_a_user(path)?;
        }
        // The file must never exist with another mode, not even for a moment. There is one thread.
        let before = umask(Mode::S_IRWXG | Mode::S_IRWXO | Mode::S_IXUSR);
        // Without CAP_CHOWN, the file is made as the user, if the user may write the directory.
        // Then its owner need not change.
        let may_give =
            || caps::has_cap(None, CapSet::Effective, Capability::CAP_CHOWN).unwrap_or(true);
        let bound = if geteuid().is_root() && !user.is_root() && !may_give() {
            let failed =
                |source| ListenError::Failed { address: address.clone(), source, hint: AS_USER };
            match acting_as(user, group, || Listener::bind(address, backlog)).map_err(failed) {
                Ok(Err(ListenError::Failed { source, .. }))
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Err(failed(source))
                }
                other => other.and_then(|bound| bound),
            }
        } else {
            Listener::bind(address, backlog)
        };
        umask(before);
        let bound = bound?;
        if let Some(path) = &bound.path {
            give(path, user, group).map_err(|source| ListenError::Failed {
                address: address.clone(),
                source,
                hint: " (while giving the socket to the user of -u)",
            })?;
        }
        Ok(bound)
    }
}

/// Binds a socket at a path, at which no other socket is in use.
pub(in crate::files::listener) fn bind(path: &Path) -> Result<(Socket, MadeFile), ListenError> {
    let entry = remove_if_dead(path)?;
    let bound = || {
        let socket = Socket::new(Domain::UNIX, stream(), None)?;
        at_place(path, &entry, |path| socket.bind(&SockAddr::unix(path)?))?;
        Ok((socket, entry.stat()?))
    };
    let address = || Address::Unix(path.into());
    let (socket, made) = bound().map_err(|source| ListenError::new(&address(), source))?;
    Ok((socket, MadeFile::new(entry, &made)))
}

/// Removes a socket that nobody answers on: a killed process left it.
fn remove_if_dead(path: &Path) -> Result<Entry, ListenError> {
    let (entry, found) = find(path)?;
    let Some(found) = found else { return Ok(entry) };
    if is_dead(path, &entry)? {
        remove_same(path, &entry, &found)?;
    }
    Ok(entry)
}

/// Removes a dead socket that only its owner may ask or remove: root without CAP_DAC_OVERRIDE may
/// not. An earlier pen with another user (`-u`) left it.
fn remove_of_a_user(path: &Path) -> Result<(), ListenError> {
    let (entry, found) = find(path)?;
    let Some(found) = found.filter(|found| geteuid().is_root() && found.st_uid != 0) else {
        return Ok(());
    };
    let (user, group) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    // What the owner may not do either, is told when the socket is bound.
    let Ok(Ok(true)) = acting_as(user, group, || is_dead(path, &entry)) else { return Ok(()) };
    if remove_same(path, &entry, &found).is_err() {
        let _ = acting_as(user, group, || remove_same(path, &entry, &found));
    }
    Ok(())
}

/// Whether nobody answers at a socket. One that is gone is not dead.
fn is_dead(path: &Path, entry: &Entry) -> Result<bool, ListenError> {
    let failed =
        |source, hint| ListenError::Failed { address: Address::Unix(path.into()), source, hint };
    let probe = |source| failed(source, " (while asking the socket there whether anybody answers)");
    let socket = Socket::new(Domain::UNIX, stream(), None).map_err(probe)?;
    match at_place(path, entry, |path| socket.connect(&SockAddr::unix(path)?)) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        // A full queue (EAGAIN) and a socket of another type (EPROTOTYPE) also mean that the socket
        // is in use.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(probe(error)),
        _ => Err(failed(io::Error::from_raw_os_error(libc::EADDRINUSE), IN_USE)),
    }
}

/// Removes a socket, if it is the one that was found.
fn remove_same(path: &Path, entry: &Entry, found: &Stat) -> Result<(), ListenError> {
    // Another pen may have replaced the socket meanwhile; that one must stay. The time
    // distinguishes the old file from a later one with the same inode number.
    match entry.stat() {
        Ok(now)
            if file_id(&now) == file_id(found)
                && (now.st_ctime, now.st_ctime_nsec) == (found.st_ctime, found.st_ctime_nsec) =>
        {
            entry.remove().map_err(|source| ListenError::Failed {
                address: Address::Unix(path.into()),
                source,
                hint: " (while removing a socket that nobody answers on)",
            })
        }
        _ => Ok(()),
    }
}

/// Finds the directory entry of a socket. An entry of another type is an error.
pub(in crate::files::listener) fn find(path: &Path) -> Result<(Entry, Option<Stat>), ListenError> {
    let failed =
        |source| ListenError::Failed { address: Address::Unix(path.into()), source, hint: "" };
    let entry = Entry::find(path).map_err(failed)?;
    match entry.stat() {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Socket => {
            Ok((entry, Some(found)))
        }
        Ok(_) => Err(ListenError::NoSocket(path.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((entry, None)),
        Err(error) => Err(failed(error)),
    }
}

/// Calls `act` with a path that leads to this entry only. If only trusted users can change the path
/// as given, that path is used; `ss -xl` then shows it. If not, it is the name alone, relative to
/// the entry's directory. There is one thread.
pub(crate) fn at_place<T>(
    path: &Path,
    entry: &Entry,
    act: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    if entry.is_fixed() {
        return act(path);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let before = rustix::fs::open(".", flags, rustix::fs::Mode::empty())?;
    fchdir(entry.directory())?;
    let done = act(entry.name());
    fchdir(&before)?;
    done
}

/// Changes the owner of a socket's file. Users who may write the directory may have put another
/// file there: it is left alone.
fn give(socket: &MadeFile, user: Uid, group: Gid) -> io::Result<()> {
    let file = socket.entry().open(OFlags::PATH, 0)?;
    let there = fstat(&file)?;
    let is_socket = FileType::from_raw_mode(there.st_mode) == FileType::Socket;
    if file_id(&there) != socket.id() || !is_socket || there.st_nlink != 1 {
        return Err(io::Error::other("the socket was replaced"));
    }
    if (there.st_uid, there.st_gid) == (user.as_raw(), group.as_raw()) {
        return Ok(());
    }
    let (user, group) =
        (rustix::fs::Uid::from_raw(user.as_raw()), rustix::fs::Gid::from_raw(group.as_raw()));
    Ok(rustix::fs::chownat(&file, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?)
}

const AS_USER: &str =
    " (without CAP_CHOWN the user of -u has to be allowed to make files in that directory)";

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_private_socket_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let (user, group) = match nix::unistd::geteuid().is_root() {
            true => (Uid::from_raw(65534), Gid::from_raw(65534)),
            false => (nix::unistd::geteuid(), nix::unistd::getegid()),
        };
        let _listener =
            Listener::bind_private(&Address::Unix(path.clone()), 64, user, group).unwrap();
        let there = fs::symlink_metadata(&path).unwrap();
        assert_eq!((there.uid(), there.gid()), (user.as_raw(), group.as_raw()));
        assert_eq!(there.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_dead_unix_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("front.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (_socket, guard) =
            Listener::bind(&Address::Unix(path.clone()), 500).unwrap().into_parts();
        UnixStream::connect(&path).unwrap();
        let error = Listener::bind(&Address::Unix(path.clone()), 500).unwrap_err().to_string();
        assert!(error.contains("address in use"), "{error}");
        drop(guard);
        assert!(!path.exists());
    }

    #[test]
    fn any_other_file_in_the_way_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "precious").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for path in [&file, &link, &directory.path().to_path_buf()] {
            assert!(matches!(
                Listener::bind(&Address::Unix(path.clone()), 500),
                Err(ListenError::NoSocket(_))
            ));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("front.sock");
        let (socket, guard) =
            Listener::bind(&Address::Unix(path.clone()), 500).unwrap().into_parts();
        drop(socket);
        fs::rename(&path, directory.path().join("old")).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(guard);
        assert!(path.exists());
    }
}
