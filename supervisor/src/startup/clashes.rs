//! Conflicts: one address or one file with two purposes. Nothing is opened, made or changed here.

#![forbid(unsafe_code)]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use pen_config::address::{Address, Local};
use pen_config::command::{ConnectionLogTarget, LogTarget};
use pen_config::configuration::Settled;

use crate::Launch;

/// A listener that pen has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken<'a> {
    /// What it is, as the beginning of a sentence that an address ends.
    pub(crate) by: &'static str,
    pub(crate) at: &'a [Address],
}

/// Checks whether a port of pen's own, `what`, can exist beside another listener. If a name has
/// several addresses, one free address is enough.
///
/// # Errors
/// It cannot. The text goes behind the source line of the port.
pub(crate) fn of_addresses(taken: Taken<'_>, what: &str, port: &[Address]) -> Result<(), String> {
    let Taken { by, at } = taken;
    let all = at.iter().all(|at| port.iter().all(|port| meet(at, port)));
    match (at.first(), port.first()) {
        (Some(at), Some(port)) if all => {
            let part = if matches!(port, Address::Unix(_)) { "path" } else { "port" };
            Err(format!("{port} is taken: {by} at {at}; give {what} another {part}"))
        }
        _ => Ok(()),
    }
}

/// Whether two listeners at these addresses would conflict.
fn meet(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => plain(one) == plain(other),
        (Address::Inet(one), Address::Inet(other)) => {
            let covers = |one: IpAddr, other: IpAddr| match one {
                IpAddr::V4(ip) => ip.is_unspecified() && other.is_ipv4(),
                // Dual stack.
                IpAddr::V6(ip) => ip.is_unspecified(),
            };
            let (one_ip, other_ip) = (one.ip(), other.ip());
            one.port() == other.port()
                && (one_ip == other_ip || covers(one_ip, other_ip) || covers(other_ip, one_ip))
        }
        (Address::Unix(_), Address::Inet(_)) | (Address::Inet(_), Address::Unix(_)) => false,
    }
}

/// A file that a start would use.
struct Used {
    /// The purpose, with the option and the command that name the file.
    purpose: &'static str,
    path: PathBuf,
    /// Whether pen writes, makes or replaces it, which would destroy any other use.
    is_written: bool,
}

/// Checks that every written file has a path of its own.
///
/// # Errors
/// One error for each pair with the same path.
pub(crate) fn of_files(
    launch: &Launch,
    settled: &Settled,
    [control, page]: [Option<&Local>; 2],
) -> Result<(), Vec<String>> {
    let tls = &settled.settings.tls;
    let log = settled.log.as_ref().and_then(LogTarget::file);
    let connection_log = settled.connection_log.as_ref().and_then(ConnectionLogTarget::log);
    let connection_log = connection_log.and_then(LogTarget::file);
    let rows: [(&'static str, Option<&Path>, bool); 12] = [
        ("the configuration file (-F)", launch.config.as_deref(), false),
        ("the certificate (-E, certificate)", tls.certificate.as_deref(), false),
        ("its key (-K, certificate)", tls.key.as_deref(), false),
        ("the authorities of clients (-G, client_ca)", tls.ca_file.as_deref(), false),
        ("the OCSP response (ssl_ocsp_response)", tls.ocsp.as_deref(), false),
        ("the request log (-l, log)", log, true),
        ("the connection log (connection_log)", connection_log, true),
        ("status reports (-w, status_file)", settled.status_file.as_deref(), true),
        ("the pid file (-p, pid_file)", launch.pid_file.as_deref(), true),
        ("the control port (-C, control)", control.and_then(socket), true),
        ("the page (page)", page.and_then(socket), true),
        ("the listen address", socket(&settled.local), true),
    ];
    let used = rows.into_iter().filter_map(|(purpose, path, is_written)| {
        path.map(|path| Used { purpose, path: plain(path), is_written })
    });
    clashes(&used.collect::<Vec<_>>())
}

fn clashes(used: &[Used]) -> Result<(), Vec<String>> {
    let mut errors = Vec::new();
    for (index, one) in used.iter().enumerate() {
        for other in used.iter().skip(index + 1).filter(|other| one.is_written || other.is_written)
        {
            if is_same(&one.path, &other.path) {
                let (path, first, second) = (one.path.display(), one.purpose, other.purpose);
                errors.push(format!(
                    "{path}: one path for {first} and {second}: give each a path of its own"
                ));
            }
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn socket(local: &Local) -> Option<&Path> {
    match local {
        Local::Unix(path) => Some(path),
        Local::Inet { .. } => None,
    }
}

/// A path without `.` and double slashes.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// Whether two paths name the same file: by their text, or by the existing file. A device may be
/// written for two purposes.
fn is_same(one: &Path, other: &Path) -> bool {
    let (here, there) = (fs::metadata(one), fs::metadata(other));
    match (here, there) {
        (Ok(here), Ok(there)) if here.is_file() => {
            (here.dev(), here.ino()) == (there.dev(), there.ino())
        }
        (Ok(here), Ok(_)) if is_device(&here) => false,
        _ => one == other,
    }
}

fn is_device(there: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    there.file_type().is_char_device()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(at: &[Address]) -> Taken<'_> {
        Taken { by: "pen listens", at }
    }

    #[test]
    fn a_port_where_pen_listens_is_an_error() {
        let at = |text: &str| Address::Inet(text.parse().unwrap());
        for (listen, control, clash) in [
            ("0.0.0.0:8080", "127.0.0.1:8080", true),
            ("[::]:8080", "127.0.0.1:8080", true),
            ("127.0.0.1:8080", "0.0.0.0:8080", true),
            ("127.0.0.1:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "[::1]:8080", false),
            ("127.0.0.1:8080", "127.0.0.2:8080", false),
            ("0.0.0.0:8080", "127.0.0.1:8081", false),
        ] {
            let found = of_addresses(taken(&[at(listen)]), "it", &[at(control)]);
            assert_eq!(found.is_err(), clash, "{listen} {control}");
        }
        let path = |text: &str| Address::Unix(text.into());
        let found = of_addresses(taken(&[path("/run/a")]), "the page", &[path("/run/./a")]);
        assert_eq!(
            found.unwrap_err(),
            "/run/./a is taken: pen listens at /run/a; give the page another path"
        );
        assert_eq!(of_addresses(taken(&[path("/run/a")]), "it", &[at("127.0.0.1:80")]), Ok(()));
        let two = [at("[::1]:80"), at("127.0.0.1:80")];
        let found = of_addresses(taken(&[at("127.0.0.1:80")]), "it", &two);
        assert_eq!(found, Ok(()), "the other can be bound");
    }

    #[test]
    fn one_path_is_for_one_purpose_unless_both_only_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        let used = |path: PathBuf, is_written| Used {
            purpose: "something",
            path: plain(&path),
            is_written,
        };
        for (one, other) in [("file", "file"), ("file", "link"), ("new", "new"), ("new", "./new")] {
            for (first, second) in [(true, true), (true, false), (false, true), (false, false)] {
                let found = clashes(&[
                    used(at(one), first),
                    used(at("else"), true),
                    used(at(other), second),
                ]);
                assert_eq!(found.is_err(), first || second, "{one} {other}: {found:?}");
            }
        }
        let null = || used("/dev/null".into(), true);
        assert_eq!(clashes(&[null(), null()]), Ok(()));
    }
}
