//! Paths of the command line, made independent of the working directory before pen leaves it.

#![forbid(unsafe_code)]

use std::io;
use std::path::{Path, PathBuf};

use pen_config::address::{Host, Local, MAX_UNIX_PATH};
use pen_config::command::{
    Command, ConnectionLogTarget, LogTarget, ServerChange, Setting, SourcedCommand, Startup,
};
use pen_ipc::text::error_text;

use crate::{Launch, StartError};

/// Makes every path absolute, relative to the directory where pen was started.
///
/// Paths of servers are those that a worker sees. With `-j` it sees the jail directory as `/`. So a
/// relative path that leads into the jail loses the path of the jail directory.
///
/// # Errors
/// A path needs the starting directory, which no longer exists. Or a socket's path is too long. Or,
/// with `-j`, a path seems to be meant inside the jail, as in older releases.
pub(crate) fn make_absolute(
    launch: &mut Launch,
    start: io::Result<PathBuf>,
) -> Result<Base, StartError> {
    if let Some(jail) = &mut launch.jail {
        *jail = absolute(jail, &start).map_err(StartError)?;
    }
    let base = Base { start, jail: launch.jail.clone() };
    let outside = |path: &mut PathBuf| base.outside(path).map_err(StartError);
    for path in [&mut launch.pid_file, &mut launch.config].into_iter().flatten() {
        outside(path)?;
    }
    let tls = &mut launch.configuration.tls;
    for path in [&mut tls.certificate, &mut tls.key, &mut tls.ca_file, &mut tls.ca_directory]
        .into_iter()
        .flatten()
    {
        outside(path)?;
    }
    for local in [&mut launch.configuration.local, &mut launch.control, &mut launch.page]
        .into_iter()
        .flatten()
    {
        base.local(local).map_err(StartError)?;
    }
    let configuration = &mut launch.configuration;
    let servers = configuration
        .servers
        .iter_mut()
        .chain(&mut configuration.emergency)
        .chain(&mut configuration.abuse);
    for server in servers {
        base.server(&mut server.host).map_err(StartError)?;
    }
    Ok(base)
}

/// The base directory of relative paths, for as long as pen runs.
#[derive(Debug)]
pub(crate) struct Base {
    /// The directory where pen was started.
    start: io::Result<PathBuf>,
    jail: Option<PathBuf>,
}

impl Base {
    /// The base of a start in this directory, if it is known, with this jail.
    pub(crate) fn adopted(start: Option<PathBuf>, jail: Option<PathBuf>) -> Base {
        Base { start: start.ok_or_else(|| io::ErrorKind::NotFound.into()), jail }
    }

    /// The directory where pen was started, if it was found.
    pub(crate) fn start(&self) -> Option<&Path> {
        self.start.as_deref().ok()
    }

    /// Makes the paths of a setting absolute. The setting is from the command line or a file.
    ///
    /// # Errors
    /// As [`make_absolute`]; the error names the source line of the setting.
    fn setting(&self, source_line: &str, setting: &mut Setting) -> Result<(), String> {
        let done = match setting {
            Setting::Log(Some(LogTarget::File(path)))
            | Setting::ConnectionLog(Some(ConnectionLogTarget::Log(LogTarget::File(path))))
            | Setting::WebStats(Some(path)) => {
                return self.output(source_line, path);
            }
            Setting::Log(Some(LogTarget::Network(_, _)) | None)
            | Setting::ConnectionLog(
                Some(
                    ConnectionLogTarget::Syslog
                    | ConnectionLogTarget::Log(LogTarget::Network(_, _)),
                )
                | None,
            )
            | Setting::WebStats(None) => Ok(()),
            Setting::ServerTlsCa(path) | Setting::SslOcsp(path) | Setting::SslNames(path) => {
                self.each_outside(path)
            }
            Setting::Startup(startup) => match startup {
                Startup::Control(local) | Startup::Page(local) => {
                    local.iter_mut().try_for_each(|local| self.local(local))
                }
                Startup::Jail(path) | Startup::PidFile(path) => self.each_outside(path),
                Startup::ExitCommand(_) | Startup::RequireSandbox(_) | Startup::User(_) => Ok(()),
            },
            Setting::Certificate(files) | Setting::ServerTlsCert(files) => {
                files.iter_mut().try_for_each(|(file, key)| {
                    self.outside(file).and_then(|()| self.each_outside(key))
                })
            }
            Setting::ClientCa(paths) => self.each_outside(paths),
            Setting::Listen(local) => self.local(local),
            Setting::Emergency(spec) | Setting::Abuse(spec) => {
                spec.iter_mut().try_for_each(|spec| self.server(&mut spec.host))
            }
            Setting::Server { changes, .. } => {
                let hosts = changes.iter_mut().filter_map(|change| {
                    let ServerChange::Address(host) = change else { return None };
                    Some(host)
                });
                { hosts }.try_for_each(|host| self.server(host))
            }
            Setting::Acl { .. }
            | Setting::Check(_)
            | Setting::ConnectionLogFormat(_)
            | Setting::Fastclose(_)
            | Setting::Http(_)
            | Setting::NoAcl(_)
            | Setting::NoServer(_)
            | Setting::NoServersFrom(_)
            | Setting::Number(_, _)
            | Setting::Maglev(_)
            | Setting::OnDown(_)
            | Setting::PerClientNet(_)
            | Setting::PerClientRate(_)
            | Setting::ProxyIn(_)
            | Setting::ProxyOut(_)
            | Setting::ServerTlsName(_)
            | Setting::ServersFrom(_)
            | Setting::SocketBuffers(_, _)
            | Setting::Source(_)
            | Setting::SslAlways
            | Setting::SslCiphers(_)
            | Setting::SslNoTls12
            | Setting::SslRenegotiation(_)
            | Setting::SslTls12
            | Setting::Switch(_, _)
            | Setting::UnlimitedAcl(_) => Ok(()),
        };
        done.map_err(|why| format!("{source_line}: {why}"))
    }

    fn each_outside<'p>(
        &self,
        paths: impl IntoIterator<Item = &'p mut PathBuf>,
    ) -> Result<(), String> {
        paths.into_iter().try_for_each(|path| self.outside(path))
    }

    fn outside(&self, path: &mut PathBuf) -> Result<(), String> {
        absolute(path, &self.start).map(|absolute| *path = absolute)
    }

    fn output(&self, source_line: &str, path: &mut PathBuf) -> Result<(), String> {
        self.outside(path).map_err(|why| format!("{source_line}: {why}"))?;
        match &self.jail {
            Some(jail) => check_not_meant_inside(source_line, path, jail),
            None => Ok(()),
        }
    }

    fn local(&self, local: &mut Local) -> Result<(), String> {
        match local {
            Local::Unix(path) => {
                self.outside(path)?;
                check_length(path)
            }
            Local::Inet { .. } => Ok(()),
        }
    }

    fn server(&self, host: &mut Host) -> Result<(), String> {
        match host {
            Host::Unix(path) => {
                *path = inside(path, &self.start, self.jail.as_deref())?;
                check_length(path)
            }
            Host::Ip(_) | Host::Zoned(_, _) | Host::Name(_) => Ok(()),
        }
    }
}

/// A path made absolute, relative to the directory where pen was started.
///
/// # Errors
/// That directory is gone, and the path needs it.
pub(crate) fn absolute(path: &Path, start: &io::Result<PathBuf>) -> Result<PathBuf, String> {
    match (path.is_absolute(), start) {
        (true, _) => Ok(path.into()),
        (false, Ok(start)) => Ok(start.join(path)),
        (false, Err(error)) => Err(format!(
            "{}: the current directory cannot be found: {}",
            path.display(),
            error_text(error)
        )),
    }
}

fn inside(
    path: &Path,
    start: &io::Result<PathBuf>,
    jail: Option<&Path>,
) -> Result<PathBuf, String> {
    let outside = absolute(path, start)?;
    Ok(match jail.and_then(|jail| outside.strip_prefix(jail).ok()) {
        Some(inside) if path.is_relative() => Path::new("/").join(inside),
        _ => outside,
    })
}

fn check_length(path: &Path) -> Result<(), String> {
    match path.as_os_str().len() {
        0..=MAX_UNIX_PATH => Ok(()),
        length => Err(format!(
            "{}: the path of a socket is at most {MAX_UNIX_PATH} bytes long, this one is {length}",
            path.display()
        )),
    }
}

/// The original pen took `-l` and `-w` inside the jail. A path of that form is an error, so that
/// nobody is left without a log.
fn check_not_meant_inside(option: &str, path: &Path, jail: &Path) -> Result<(), String> {
    let (Some(directory), Ok(below)) = (path.parent(), path.strip_prefix("/")) else {
        return Ok(());
    };
    let meant = jail.join(below);
    if directory.is_dir() || !meant.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    // After an option comes its value; after a source line, a colon.
    let (colon, logger) = if option.len() == 2 { ("", option) } else { (":", "the path") };
    Err(format!(
        "{option}{colon} {}: no directory {}; with -j this path is still one outside the jail: say \
         {logger} {}",
        path.display(),
        directory.display(),
        meant.display()
    ))
}

/// Makes the paths in commands absolute.
///
/// # Errors
/// A line for each path that cannot be.
pub(crate) fn all_absolute(
    base: &Base,
    commands: &mut [SourcedCommand],
) -> Result<(), Vec<String>> {
    let one = |SourcedCommand { source_line, command }: &mut SourcedCommand| match command {
        Command::Setting(setting) => base.setting(source_line, setting).err(),
        Command::Query(_) | Command::Action(_) => None,
    };
    let errors: Vec<String> = commands.iter_mut().filter_map(one).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
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
        assert!(
            absolute(Path::new("a"), &gone).unwrap_err().to_string().contains("current directory")
        );
    }

    #[test]
    fn servers_are_seen_from_inside_the_jail() {
        let jail = Some(Path::new("/srv/pen"));
        assert_eq!(inside(Path::new("./a.sock"), &start(), jail).unwrap(), Path::new("/a.sock"));
        assert_eq!(
            inside(Path::new("/srv/pen/a"), &start(), jail).unwrap(),
            Path::new("/srv/pen/a")
        );
        assert_eq!(
            inside(Path::new("./a.sock"), &start(), None).unwrap(),
            Path::new("/srv/pen/./a.sock")
        );
        assert_eq!(
            inside(Path::new("a/b"), &start(), Some(Path::new("/jail"))).unwrap(),
            Path::new("/srv/pen/a/b")
        );
    }

    #[test]
    fn a_path_that_was_meant_inside_the_jail_is_explained() {
        let jail = tempfile::tempdir().unwrap();
        std::fs::create_dir(jail.path().join("only-inside")).unwrap();
        let error = check_not_meant_inside("-l", Path::new("/only-inside/pen.log"), jail.path())
            .unwrap_err();
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
