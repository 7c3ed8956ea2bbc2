//! The opener: a child that opens, reads or makes files and sockets for the supervisor.
//!
//! A path that an operator named is opened with the operator's rights: in the jail, as the user of
//! `-u`. The supervisor never opens, reads, binds or removes such a path itself. An attacker may
//! control its directory, and must not get the use of root's rights.
//!
//! The configuration file and the TLS files are read with the rights of the user who started pen. A
//! child does it, because a hanging file system blocks every process that reads from it. Then the
//! supervisor kills the child and keeps what it had.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, getppid};
use pen_config::address::Address;
use pen_config::command;
use pen_config::command::SourcedCommand;
use pen_config::tls::Tls;
use pen_config::tls::servers::ServerTls;
use pen_ipc::channel::Channel;
use pen_ipc::codec::{self, LARGE_LIMIT};
use pen_ipc::text::error_text;
use pen_walk as walk;
use serde::{Deserialize, Serialize};

use crate::files::configuration;
use crate::files::configuration::Loaded;
use crate::files::line_log;
use crate::files::line_log::{LineLog, OpenLog};
use crate::files::listener::Listener;
use crate::files::made;
use crate::files::made::{FileId, MadeFile};
use crate::files::memory;
use crate::files::status_file;
use crate::files::tls_material;
use crate::helpers::helper::{Helper, HelperFailure, NoQuestion};
use crate::jail::Jail;
use crate::jail::sandbox::ProcessKind;
use crate::log::printable::printable;
use crate::processes::child::Child;
use crate::signals;
use crate::sys;

/// The file or socket to open.
#[derive(Debug)]
pub(crate) enum OpenRequest {
    /// A log.
    Log(LineLog, PathBuf),
    /// A file for status pages.
    Status(PathBuf),
    /// An OCSP response, to be read.
    Ocsp(PathBuf),
    /// A listening Unix socket, with its backlog.
    Listener(PathBuf, u32),
    /// The commands of an operator's file and of all files that it includes.
    Commands(PathBuf),
    /// The commands of the file of `-F` and of all files that it includes.
    Configuration(PathBuf),
    /// The TLS files, with the arguments of [`tls_material::gather`]: the settings, and an OCSP
    /// response that an operator's process opened.
    Keys(Box<Tls>, Option<OwnedFd>),
    /// The files of TLS towards servers.
    ServerKeys(Box<ServerTls>),
}

/// The rights of an opener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Rights {
    /// The rights of the user of `-u`, in the jail.
    Operator,
    /// The rights of the user who started pen, for reading.
    Starter,
}

impl OpenRequest {
    fn rights(&self) -> Rights {
        match self {
            OpenRequest::Log(_, _)
            | OpenRequest::Status(_)
            | OpenRequest::Ocsp(_)
            | OpenRequest::Listener(_, _)
            | OpenRequest::Commands(_) => Rights::Operator,
            OpenRequest::Configuration(_)
            | OpenRequest::Keys(_, _)
            | OpenRequest::ServerKeys(_) => Rights::Starter,
        }
    }

    fn patience(&self) -> Duration {
        match self {
            OpenRequest::Keys(_, _) | OpenRequest::ServerKeys(_) => KEYS_PATIENCE,
            OpenRequest::Log(_, _)
            | OpenRequest::Status(_)
            | OpenRequest::Ocsp(_)
            | OpenRequest::Listener(_, _)
            | OpenRequest::Commands(_)
            | OpenRequest::Configuration(_) => PATIENCE,
        }
    }

    /// The error message when the opener takes too long.
    fn late(&self) -> String {
        let seconds = self.patience().as_secs();
        match self {
            OpenRequest::Log(_, _)
            | OpenRequest::Status(_)
            | OpenRequest::Ocsp(_)
            | OpenRequest::Listener(_, _)
            | OpenRequest::Commands(_) => {
                format!("not opened within {seconds} s")
            }
            OpenRequest::Configuration(path) => {
                format!(
                    "{}: not read within {seconds} s: its file system does not answer",
                    path.display()
                )
            }
            OpenRequest::Keys(_, _) | OpenRequest::ServerKeys(_) => {
                format!(
                    "the files of TLS were not read within {seconds} s: a file system does not \
                     answer"
                )
            }
        }
    }
}

/// The answer of the child, with a descriptor on success.
#[derive(Debug, Serialize, Deserialize)]
enum OpenAnswer {
    /// Success.
    Here {
        /// The file that was made, if one was.
        made: Option<FileId>,
        /// Notices about the TLS files for the log.
        notices: Vec<String>,
    },
    /// Failure, with the reason.
    Failed(String),
}

/// The commands of a file, or all errors in it.
pub(crate) type Commands = Result<Loaded, Vec<String>>;

/// The result of an opener.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// A log, a file or a listener. For commands: memory with [`Commands`]. For TLS files: sealed
    /// memory with all of them.
    pub(crate) descriptor: OwnedFd,
    /// The file that was made, if one was.
    pub(crate) made: Option<FileId>,
    /// Notices about the TLS files for the log.
    pub(crate) notices: Vec<String>,
}

impl Fetched {
    /// A result with a descriptor only.
    pub(crate) fn descriptor(descriptor: impl Into<OwnedFd>) -> Fetched {
        Fetched { descriptor: descriptor.into(), made: None, notices: Vec::new() }
    }

    /// A result with a descriptor and the file that was made for it. The file stays; the supervisor
    /// has it removed if need be.
    fn made(descriptor: impl Into<OwnedFd>, made: Option<MadeFile>) -> Fetched {
        Fetched { made: made.map(MadeFile::keep), ..Fetched::descriptor(descriptor) }
    }

    /// Decodes the commands from the memory.
    ///
    /// # Errors
    /// The memory cannot be read, or holds no valid commands.
    pub(crate) fn commands(self) -> io::Result<Commands> {
        let bytes = pen_ipc::memory::read(&File::from(self.descriptor), LARGE_LIMIT)?;
        let commands: Commands = codec::decode_large(&bytes).map_err(io::Error::other)?;
        check(commands)
    }
}

/// Checks commands from a child, which may have been taken over by a malicious file. Their number
/// is bounded, the grammar must be able to produce each one, and texts are made safe for a
/// terminal.
fn check(commands: Commands) -> io::Result<Commands> {
    let mut loaded = match commands {
        Ok(loaded) => loaded,
        Err(errors) => {
            return Ok(Err(configuration::bounded(errors)
                .iter()
                .map(|error| printable(error))
                .collect()));
        }
    };
    if loaded.commands.len().max(loaded.notices.len()) > configuration::MOST_COMMANDS {
        return Err(io::Error::other("what was read is more than there can be"));
    }
    loaded.notices.iter_mut().for_each(|notice| *notice = printable(notice));
    for SourcedCommand { source_line, command } in &mut loaded.commands {
        if !command::is_well_formed(command) {
            return Err(io::Error::other("what was read is no command"));
        }
        *source_line = printable(source_line);
    }
    Ok(Ok(loaded))
}

/// An opener at work.
#[derive(Debug)]
pub(crate) struct Fetching {
    helper: Helper<OpenAnswer>,
    /// The error message when the deadline passes.
    late: String,
}

impl Fetching {
    /// Forks the opener.
    ///
    /// # Errors
    /// No child can be forked now.
    pub(crate) fn begin(wanted: &OpenRequest, jail: &Jail, now: Instant) -> io::Result<Fetching> {
        let deadline = now + wanted.patience();
        let helper = Helper::begin(jail.identity.uid, deadline, |channel, supervisor| {
            answer(wanted, jail, supervisor, channel)
        })?;
        Ok(Fetching { helper, late: wanted.late() })
    }

    /// The descriptor to poll for reading.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.helper.descriptor()
    }

    /// When to call [`Fetching::read`] at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.helper.deadline()
    }

    /// The result, once it is known.
    pub(crate) fn read(&self, now: Instant) -> Option<Result<Fetched, String>> {
        Some(match self.helper.read(now)? {
            Ok((OpenAnswer::Here { made, notices }, Some(descriptor))) => {
                let notices = notices.iter().map(|notice| printable(notice)).collect();
                Ok(Fetched { descriptor, made, notices })
            }
            Ok((OpenAnswer::Failed(why), _)) => Err(printable(&why)),
            Err(HelperFailure::Late) => Err(self.late.clone()),
            Ok((OpenAnswer::Here { .. }, None)) | Err(HelperFailure::Ended) => {
                Err("the process that was to open it ended".into())
            }
        })
    }

    /// Kills the opener, and returns it: it ends later if a file system holds it.
    pub(crate) fn kill(self) -> Child {
        self.helper.kill()
    }
}

/// A file that an opener made in the jail. When the process that had it made drops this, a child
/// removes the file, as [`made::remove`] does.
#[derive(Debug)]
pub(crate) struct JailedFile {
    path: PathBuf,
    id: FileId,
    jail: Jail,
    maker: u32,
    is_kept: bool,
}

impl JailedFile {
    pub(crate) fn new(path: &Path, id: FileId, jail: &Jail) -> JailedFile {
        let (path, maker) = (path.into(), std::process::id());
        JailedFile { path, id, jail: jail.clone(), maker, is_kept: false }
    }

    /// Its path inside the jail.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode number.
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// Leaves the file for good.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for JailedFile {
    fn drop(&mut self) {
        if self.is_kept || self.maker != std::process::id() {
            return;
        }
        let supervisor = getpid();
        let remove = || {
            let entered = signals::reset_for_child().is_ok()
                && self.jail.enter(ProcessKind::Opener, supervisor, &[]).is_ok();
            i32::from(!(entered && made::remove(&self.path, self.id).is_ok()))
        };
        let Ok(child) = sys::fork(remove) else { return };
        // The removal is quick. But the children of the supervisor die with it, so it waits for the
        // child.
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        while waitpid(child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive)
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

// The code from here on runs in the child.

fn answer(
    wanted: &OpenRequest,
    jail: &Jail,
    supervisor: Pid,
    channel: &Channel<OpenAnswer, NoQuestion>,
) -> i32 {
    let confined = match wanted.rights() {
        Rights::Operator => confine_as_operator(jail, supervisor, channel),
        Rights::Starter => confine_as_starter(wanted, jail, supervisor, channel),
    };
    let (answer, descriptor) = match confined.and_then(|()| open(wanted)) {
        Ok(Fetched { descriptor, made, notices }) => {
            (OpenAnswer::Here { made, notices }, Some(descriptor))
        }
        Err(why) => (OpenAnswer::Failed(why), None),
    };
    i32::from(channel.send(&answer, descriptor.as_ref().map(AsFd::as_fd)).is_err())
}

fn confine_as_operator(
    jail: &Jail,
    supervisor: Pid,
    channel: &Channel<OpenAnswer, NoQuestion>,
) -> Result<(), String> {
    signals::reset_for_child().map_err(|error| format!("signals: {}", error_text(&error)))?;
    jail.enter(ProcessKind::Opener, supervisor, &[channel.as_fd()])
        .map_err(|error| error.to_string())
}

fn confine_as_starter(
    wanted: &OpenRequest,
    jail: &Jail,
    supervisor: Pid,
    channel: &Channel<OpenAnswer, NoQuestion>,
) -> Result<(), String> {
    let at = |step: &'static str| move |error: io::Error| format!("{step}: {}", error_text(&error));
    signals::reset_for_child().map_err(at("signals"))?;
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|errno| at("parent death signal")(errno.into()))?;
    if getppid() != supervisor {
        return Err("the supervisor is gone".into());
    }
    let held = match wanted {
        OpenRequest::Keys(_, held) => held.as_ref().map(AsFd::as_fd),
        OpenRequest::Log(_, _)
        | OpenRequest::Status(_)
        | OpenRequest::Ocsp(_)
        | OpenRequest::Listener(_, _)
        | OpenRequest::Commands(_)
        | OpenRequest::Configuration(_)
        | OpenRequest::ServerKeys(_) => None,
    };
    let keep: Vec<_> = held.into_iter().chain([channel.as_fd()]).collect();
    sys::close_all_but(&keep).map_err(at("close descriptors"))?;
    jail.sandbox.enter_reader().map_err(at("sandbox"))
}

fn open(wanted: &OpenRequest) -> Result<Fetched, String> {
    match wanted {
        OpenRequest::Log(which, path) => {
            let OpenLog { log, made } =
                line_log::open_file(*which, path).map_err(|error| error.to_string())?;
            Ok(Fetched::made(crate::processes::spawn::into_descriptor(log), made))
        }
        OpenRequest::Status(path) => {
            let (file, made) = status_file::open(path).map_err(|error| error.to_string())?;
            Ok(Fetched::made(file, made))
        }
        OpenRequest::Ocsp(path) => walk::read(path)
            .map(Fetched::descriptor)
            .map_err(|error| format!("{}: {}", path.display(), error_text(&error))),
        OpenRequest::Commands(path) | OpenRequest::Configuration(path) => {
            let commands: Commands = configuration::load(path);
            let memory = memory::large(&commands)
                .map_err(|error| format!("{}: {}", path.display(), error_text(&error)))?;
            Ok(Fetched::descriptor(memory))
        }
        OpenRequest::Keys(tls, held) => {
            let (memory, mut notices) = tls_material::gather(tls, held.as_ref())?;
            // All notices travel in one message.
            notices.truncate(MOST_NOTICES);
            Ok(Fetched { notices, ..Fetched::descriptor(memory) })
        }
        OpenRequest::ServerKeys(tls) => {
            let (memory, notices) = tls_material::servers::gather(tls)?;
            Ok(Fetched { notices, ..Fetched::descriptor(memory) })
        }
        OpenRequest::Listener(path, backlog) => {
            let listener = Listener::bind(&Address::Unix(path.clone()), *backlog)
                .map_err(|error| error.to_string())?;
            let (descriptor, made) = listener.into_parts();
            Ok(Fetched::made(descriptor, made))
        }
    }
}

/// How long an opener may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an opener may take for all TLS files: 16384 of them on a disk that seeks for each.
const KEYS_PATIENCE: Duration = Duration::from_secs(60);

/// Most notices about TLS files: more than there can be. Each has one path in it.
const MOST_NOTICES: usize = 12;

/// How long the removal of a socket's file may take.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use pen_config::command::{Command, Number, Query, Setting};

    use super::*;

    /// The commands as the supervisor decodes them from a child.
    fn read(commands: &Commands) -> io::Result<Commands> {
        Fetched::descriptor(memory::large(commands).unwrap()).commands()
    }

    fn loaded(commands: Vec<SourcedCommand>) -> Commands {
        Ok(Loaded { commands, notices: Vec::new() })
    }

    fn placed(source_line: &str, command: Command) -> SourcedCommand {
        SourcedCommand { source_line: source_line.into(), command }
    }

    #[test]
    fn only_commands_are_taken_and_no_more_than_there_can_be() {
        let commands =
            vec![placed("f:1", Command::Query(Query::Pid)); configuration::MOST_COMMANDS];
        assert_eq!(read(&loaded(commands.clone())).unwrap().unwrap().commands, commands);
        let more = [&commands[..], &commands[..1]].concat();
        assert_eq!(
            read(&loaded(more)).unwrap_err().to_string(),
            "what was read is more than there can be"
        );
        let none = placed("f:1", Command::Setting(Setting::Number(Number::Blacklist, u32::MAX)));
        assert_eq!(
            read(&loaded(vec![none])).unwrap_err().to_string(),
            "what was read is no command"
        );
    }

    #[test]
    fn a_childs_words_are_made_harmless() {
        let commands = read(&loaded(vec![placed("f\x1b[2J:1", Command::Query(Query::Pid))]))
            .unwrap()
            .unwrap()
            .commands;
        assert_eq!(commands[0].source_line, "f.[2J:1");
        let errors = read(&Err(vec!["a\nb\x1b[2J".into(); 5000])).unwrap().unwrap_err();
        assert_eq!((errors[0].as_str(), errors.len()), ("a.b.[2J", 101));
        assert_eq!(errors[100], "4900 more lines are wrong");
    }
}
