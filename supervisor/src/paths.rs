//! The paths of the command line, made independent of the working directory before pen leaves it.

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use pen_contract::address::{Host, Local, MAX_UNIX_PATH};

use crate::why::why;
use crate::{Launch, LogTarget, StartError};

/// Makes every path absolute, as seen from `start`, the directory where the command was given.
///
/// Paths of servers are those that a worker sees. With `-j` it sees the jail directory as `/`, so a relative path that leads
/// into the jail loses the jail directory.
///
/// # Errors
/// There is no such directory any more and a path needs it, a socket's path is too long, or with `-j` a path was meant
/// inside the jail, as releases before this one took it.
pub(crate) fn make_absolute(launch: &mut Launch, start: &io::Result<PathBuf>) -> Result<(), StartError> {
    let outside = |path: &mut PathBuf| absolute(path, start).map(|absolute| *path = absolute);
    for path in [&mut launch.jail, &mut launch.pid_file, &mut launch.status_file].into_iter().flatten() {
        outside(path)?;
    }
    if let Some(LogTarget::File(path)) = &mut launch.log {
        outside(path)?;
    }
    if let Local::Unix(path) = &mut launch.configuration.local {
        outside(path)?;
        check_length(path)?;
    }
    let jail = launch.jail.as_deref();
    let configuration = &mut launch.configuration;
    let servers = configuration.servers.iter_mut().chain(&mut configuration.emergency).chain(&mut configuration.abuse);
    for server in servers {
        if let Host::Unix(path) = &mut server.host {
            *path = inside(path, start, jail)?;
            check_length(path)?;
        }
    }
    let log = match &launch.log {
        Some(LogTarget::File(path)) => Some(path),
        _ => None,
    };
    if let Some(jail) = &launch.jail {
        for (option, path) in [("-l", log), ("-w", launch.status_file.as_ref())] {
            path.map_or(Ok(()), |path| check_not_meant_inside(option, path, jail))?;
        }
    }
    Ok(())
}

fn absolute(path: &Path, start: &io::Result<PathBuf>) -> Result<PathBuf, StartError> {
    match (path.is_absolute(), start) {
        (true, _) => Ok(path.into()),
        (false, Ok(start)) => Ok(start.join(path)),
        (false, Err(error)) => {
            Err(StartError(format!("{}: the current directory cannot be found: {}", path.display(), why(error))))
        }
    }
}

fn inside(path: &Path, start: &io::Result<PathBuf>, jail: Option<&Path>) -> Result<PathBuf, StartError> {
    let outside = absolute(path, start)?;
    Ok(match jail.and_then(|jail| outside.strip_prefix(jail).ok()) {
        Some(inside) if path.is_relative() => Path::new("/").join(inside),
        _ => outside,
    })
}

fn check_length(path: &Path) -> Result<(), StartError> {
    match path.as_os_str().len() {
        0..=MAX_UNIX_PATH => Ok(()),
        length => Err(StartError(format!(
            "{}: the path of a socket is at most {MAX_UNIX_PATH} bytes long, this one is {length}",
            path.display()
        ))),
    }
}

/// The original took `-l` and `-w` inside the jail. Whoever still writes that is told, rather than left without a log.
fn check_not_meant_inside(option: &str, path: &Path, jail: &Path) -> Result<(), StartError> {
    let (Some(directory), Ok(below)) = (path.parent(), path.strip_prefix("/")) else { return Ok(()) };
    let meant = jail.join(below);
    if directory.is_dir() || !meant.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    Err(StartError(format!(
        "{option} {}: no directory {}; with -j this path is still one outside the jail: say {option} {}",
        path.display(),
        directory.display(),
        meant.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> io::Result<PathBuf> {
        Ok("/srv/pen".into())
    }

    #[test]
    fn relative_paths_start_where_the_command_was_given() {
        assert_eq!(absolute(Path::new("a/b"), &start()).unwrap(), Path::new("/srv/pen/a/b"));
        assert_eq!(absolute(Path::new("/a"), &start()).unwrap(), Path::new("/a"));
        let gone = Err(io::Error::from_raw_os_error(libc::ENOENT));
        assert!(absolute(Path::new("a"), &gone).unwrap_err().to_string().contains("current directory"));
    }

    #[test]
    fn servers_are_seen_from_inside_the_jail() {
        let jail = Some(Path::new("/srv/pen"));
        assert_eq!(inside(Path::new("./a.sock"), &start(), jail).unwrap(), Path::new("/a.sock"));
        assert_eq!(inside(Path::new("/srv/pen/a"), &start(), jail).unwrap(), Path::new("/srv/pen/a"));
        assert_eq!(inside(Path::new("./a.sock"), &start(), None).unwrap(), Path::new("/srv/pen/./a.sock"));
        assert_eq!(inside(Path::new("a/b"), &start(), Some(Path::new("/jail"))).unwrap(), Path::new("/srv/pen/a/b"));
    }

    #[test]
    fn a_path_that_was_meant_inside_the_jail_is_explained() {
        let jail = tempfile::tempdir().unwrap();
        std::fs::create_dir(jail.path().join("only-inside")).unwrap();
        let error = check_not_meant_inside("-l", Path::new("/only-inside/pen.log"), jail.path()).unwrap_err();
        let meant = jail.path().join("only-inside/pen.log");
        assert!(error.to_string().ends_with(&format!("say -l {}", meant.display())), "{error}");
        check_not_meant_inside("-l", Path::new("/tmp/pen.log"), jail.path()).unwrap();
        check_not_meant_inside("-l", Path::new("/nowhere/pen.log"), jail.path()).unwrap();
    }

    #[test]
    fn a_socket_has_room_for_107_bytes() {
        check_length(Path::new(&format!("/{}", "x".repeat(106)))).unwrap();
        assert!(check_length(Path::new(&format!("/{}", "x".repeat(107)))).is_err());
    }
}
