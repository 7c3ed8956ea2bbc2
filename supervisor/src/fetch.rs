//! A file or a socket that an operator named, had by a child with the operator's rights: in the jail, as the user of `-u`.
//!
//! The supervisor never opens, reads, binds or removes such a path itself: its directory may be in a stranger's hands, and root's are not to be lent.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use pen_contract::address::Address;
use pen_contract::channel::{Channel, Received};
use pen_contract::codec::{self, LARGE_LIMIT};
use pen_contract::command;
use pen_contract::configuration::Placed;
use pen_contract::walk;
use serde::{Deserialize, Serialize};

use crate::child::Child;
use crate::config_file;
use crate::helper::Nothing;
use crate::jail::Jail;
use crate::listen::{self, Listener, SocketPath};
use crate::log_file;
use crate::memory;
use crate::peer::printable;
use crate::sandbox::Kind;
use crate::signals;
use crate::status_file;
use crate::sys;
use crate::why::why;

/// What to have.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// A request log.
    Log(PathBuf),
    /// A file for status pages.
    Status(PathBuf),
    /// An OCSP response, to be read.
    Ocsp(PathBuf),
    /// A listening Unix socket, with its backlog.
    Listener(PathBuf, u32),
    /// The commands of a configuration file and of all that it includes.
    Commands(PathBuf),
}

/// From the child; with a descriptor if it has one.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// Here it is. For a socket: device and number of its file. For commands: memory with [`Commands`].
    Here(u64, u64),
    /// Why not.
    Failed(String),
}

/// What a file says, or everything that is wrong with it.
pub(crate) type Commands = Result<Vec<Placed>, Vec<String>>;

/// What was had.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The descriptor.
    pub(crate) descriptor: OwnedFd,
    /// The file of a socket: device and number.
    pub(crate) place: (u64, u64),
}

impl Fetched {
    /// The commands that were asked for.
    ///
    /// # Errors
    /// There are none to be had.
    pub(crate) fn commands(self) -> io::Result<Commands> {
        let memory = File::from(self.descriptor);
        let length = memory.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(length).ok().filter(|length| *length <= LARGE_LIMIT).unwrap_or(0)];
        memory.read_exact_at(&mut bytes, 0)?;
        let commands: Commands = codec::decode_large(&bytes).map_err(io::Error::other)?;
        check(commands)
    }
}

/// Commands of a child, which may have been taken over by what is in the file: no more than an honest one sends, each one that the grammar makes,
/// and words that harm no terminal.
fn check(commands: Commands) -> io::Result<Commands> {
    let mut commands = match commands {
        Ok(commands) => commands,
        Err(errors) => return Ok(Err(config_file::bounded(errors).iter().map(|error| printable(error)).collect())),
    };
    if commands.len() > config_file::MOST_COMMANDS {
        return Err(io::Error::other("what was read is more than there can be"));
    }
    for Placed { place, command } in &mut commands {
        if !command::is_well_formed(command) {
            return Err(io::Error::other("what was read is no command"));
        }
        *place = printable(place);
    }
    Ok(Ok(commands))
}

/// A child at work.
#[derive(Debug)]
pub(crate) struct Fetching {
    channel: Channel<Nothing, Answer>,
    /// None once it was waited for: then the pid can be somebody else's.
    child: Option<Child>,
    deadline: Instant,
}

impl Fetching {
    /// Forks the child.
    ///
    /// # Errors
    /// There can be no child now.
    pub(crate) fn begin(wanted: &Wanted, jail: &Jail, now: Instant) -> io::Result<Fetching> {
        let (ours, theirs): (Channel<Nothing, Answer>, Channel<Answer, Nothing>) = Channel::pair()?;
        let supervisor = getpid();
        let child = Child::fork(jail.identity.uid, || answer(wanted, jail, supervisor, &theirs))?;
        Ok(Fetching { channel: ours, child: Some(child), deadline: now + PATIENCE })
    }

    /// To be polled for reading.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// When it is to be read at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What came of it, once it is known.
    pub(crate) fn read(&self, now: Instant) -> Option<Result<Fetched, String>> {
        match self.channel.receive() {
            Ok(Received::Message(Answer::Here(device, number), Some(descriptor))) => {
                Some(Ok(Fetched { descriptor, place: (device, number) }))
            }
            Ok(Received::Message(Answer::Failed(why), _)) => Some(Err(printable(&why))),
            Ok(Received::Empty) if now < self.deadline => None,
            Ok(Received::Empty) => Some(Err(format!("not opened within {} s", PATIENCE.as_secs()))),
            Ok(Received::Message(Answer::Here(_, _), None) | Received::Closed) | Err(_) => {
                Some(Err("the process that was to open it ended".into()))
            }
        }
    }

    /// Whether this child was the one; it has been waited for.
    pub(crate) fn reaped(&mut self, child: Pid) -> bool {
        self.child.take_if(|own| own.pid == child).is_some()
    }
}

/// The child is killed; whoever waits for this process's children reaps it.
impl Drop for Fetching {
    fn drop(&mut self) {
        if let Some(child) = self.child {
            child.kill();
        }
    }
}

/// The file of a listener in the jail, removed by a child when this is dropped by the process that had it made, if it is still the same file.
#[derive(Debug)]
pub(crate) struct JailedPath {
    path: PathBuf,
    place: (u64, u64),
    jail: Jail,
    maker: u32,
}

impl JailedPath {
    pub(crate) fn new(path: &Path, place: (u64, u64), jail: &Jail) -> JailedPath {
        JailedPath { path: path.into(), place, jail: jail.clone(), maker: std::process::id() }
    }
}

impl Drop for JailedPath {
    fn drop(&mut self) {
        if self.maker != std::process::id() {
            return;
        }
        let supervisor = getpid();
        let remove = || {
            let entered = signals::settle_child().is_ok() && self.jail.enter(Kind::Opener, supervisor, &[]).is_ok();
            i32::from(!(entered && listen::remove(&self.path, self.place).is_ok()))
        };
        let Ok(child) = sys::fork(remove) else { return };
        // It takes no time that matters; but a supervisor that ends takes its children with it.
        let deadline = Instant::now() + REMOVAL_PATIENCE;
        while waitpid(child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

// From here on: in the child.

fn answer(wanted: &Wanted, jail: &Jail, supervisor: Pid, channel: &Channel<Answer, Nothing>) -> i32 {
    let (answer, descriptor) = match had(wanted, jail, supervisor, channel) {
        Ok(Fetched { descriptor, place: (device, number) }) => (Answer::Here(device, number), Some(descriptor)),
        Err(why) => (Answer::Failed(why), None),
    };
    i32::from(channel.send(&answer, descriptor.as_ref().map(AsFd::as_fd)).is_err())
}

fn had(wanted: &Wanted, jail: &Jail, supervisor: Pid, channel: &Channel<Answer, Nothing>) -> Result<Fetched, String> {
    let at = |step: &'static str| move |error: io::Error| format!("{step}: {}", why(&error));
    signals::settle_child().map_err(at("signals"))?;
    jail.enter(Kind::Opener, supervisor, &[channel.as_fd()]).map_err(|error| error.to_string())?;
    match wanted {
        Wanted::Log(path) => {
            let log = log_file::open(path).map_err(|error| error.to_string())?;
            Ok(Fetched { descriptor: crate::inheritance::into_descriptor(log), place: (0, 0) })
        }
        Wanted::Status(path) => {
            let file = status_file::open(path).map_err(|error| error.to_string())?;
            Ok(Fetched { descriptor: file.into(), place: (0, 0) })
        }
        Wanted::Ocsp(path) => {
            let file = walk::read(path).map_err(|error| format!("{}: {}", path.display(), why(&error)))?;
            Ok(Fetched { descriptor: file.into(), place: (0, 0) })
        }
        Wanted::Commands(path) => {
            let commands: Commands = config_file::load(path).map(|loaded| loaded.commands);
            let descriptor =
                memory::large(&commands).map_err(|error| format!("{}: {}", path.display(), why(&error)))?;
            Ok(Fetched { descriptor, place: (0, 0) })
        }
        Wanted::Listener(path, backlog) => {
            let listener = Listener::bind(&Address::Unix(path.clone()), *backlog).map_err(|error| error.to_string())?;
            let (descriptor, guard) = listener.into_parts();
            let place = guard.as_ref().map_or((0, 0), SocketPath::place);
            // The file stays; the supervisor has it removed.
            std::mem::forget(guard);
            Ok(Fetched { descriptor, place })
        }
    }
}

/// How long the child may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the removal of a socket's file may take.
const REMOVAL_PATIENCE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use pen_contract::command::{Command, Number};

    use super::*;

    /// What becomes of what a child read.
    fn read(commands: &Commands) -> io::Result<Commands> {
        Fetched { descriptor: memory::large(commands).unwrap(), place: (0, 0) }.commands()
    }

    fn placed(place: &str, command: Command) -> Placed {
        Placed { place: place.into(), command }
    }

    #[test]
    fn only_commands_are_taken_and_no_more_than_there_can_be() {
        let commands = vec![placed("f:1", Command::Pid); config_file::MOST_COMMANDS];
        assert_eq!(read(&Ok(commands.clone())).unwrap().unwrap(), commands);
        let more = [&commands[..], &commands[..1]].concat();
        assert_eq!(read(&Ok(more)).unwrap_err().to_string(), "what was read is more than there can be");
        let none = placed("f:1", Command::Number(Number::Blacklist, Some(u32::MAX)));
        assert_eq!(read(&Ok(vec![none])).unwrap_err().to_string(), "what was read is no command");
    }

    #[test]
    fn a_childs_words_are_made_harmless() {
        let commands = read(&Ok(vec![placed("f\x1b[2J:1", Command::Pid)])).unwrap().unwrap();
        assert_eq!(commands[0].place, "f.[2J:1");
        let errors = read(&Err(vec!["a\nb\x1b[2J".into(); 5000])).unwrap().unwrap_err();
        assert_eq!((errors[0].as_str(), errors.len()), ("a.b.[2J", 101));
        assert_eq!(errors[100], "4900 more lines are wrong");
    }
}
