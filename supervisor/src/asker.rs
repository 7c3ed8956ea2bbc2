//! `pen --upgrade PIDFILE`: a command that asks the running pen to go on as the program that is
//! installed now, and waits for the outcome.
//!
//! The command makes a datagram socket beside the pid file, `PIDFILE.upgrade.PID` with its own pid,
//! and sends signal USR2. The supervisor learns the pid of the command from the signal, and sends
//! one datagram to that socket: the byte `0` for success or `1` for failure, and one line of text.
//! The kernel says which process sent a datagram; one of another process does not count.

#![forbid(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::PollFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, geteuid, getuid};
use pen_ipc::text::error_text;
use pen_walk::Entry;
use rustix::fs::{FileType, OFlags, Stat, fstat};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, sendto, socket_with,
};

use crate::files::holder::{Holder, HolderError};
use crate::files::listener::at_place;
use crate::log::printable::printable;
use crate::poll::PollSet;

/// The reason why there is no upgrade. Each is a line for the administrator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// There is no pen that could be asked.
    #[error(transparent)]
    Holder(#[from] HolderError),
    /// The socket for the answer cannot be made.
    #[error("{path}: {reason} (the socket for the answer); send signal USR2, or give the \
        command upgrade at the control port", path = .0.display(), reason = error_text(.1))]
    Socket(PathBuf, io::Error),
    /// This process has no descriptors left.
    #[error("cannot wait for the answer: {}", error_text(.0))]
    Wait(io::Error),
    /// This process got a signal.
    #[error("ended by signal {1}; pid {0} may still carry out the upgrade, and logs it")]
    Interrupted(Pid, Signal),
    /// The pen ended.
    #[error("pid {0} ended before it answered; its log may say why")]
    Ended(Pid),
    /// The pen did not answer in time.
    #[error("pid {0} did not answer within {patience} s; its log may say why",
        patience = PATIENCE.as_secs())]
    Silent(Pid),
    /// The answer of the pen.
    #[error("{0}")]
    Refused(String),
}

/// Asks the pen that holds this pid file for an upgrade. Returns its answer, one line.
///
/// # Errors
/// The pen goes on as it was, or it is not known whether it does.
pub(crate) fn ask(pid_file: &Path) -> Result<String, AskError> {
    ask_patiently(pid_file, PATIENCE)
}

fn ask_patiently(pid_file: &Path, patience: Duration) -> Result<String, AskError> {
    let holder = Holder::find(pid_file)?;
    // Before the socket is made, which must not stay.
    let signals = CaughtSignals::catch().map_err(AskError::Wait)?;
    let mailbox = Mailbox::make(pid_file, &holder)?;
    holder.signal()?;
    let deadline = Instant::now() + patience;
    let mut again = Instant::now() + AGAIN;
    loop {
        let mut set = PollSet::new();
        set.add(Source::Answer, mailbox.socket.as_fd(), PollFlags::POLLIN);
        set.add(Source::Signal, signals.descriptor.as_fd(), PollFlags::POLLIN);
        set.add(Source::Process, holder.as_fd(), PollFlags::POLLIN);
        let ready = set.wait(Some(deadline.min(again)));
        // A pen that ended may have answered before.
        if let Some(answer) = mailbox.read(holder.pid()).map_err(AskError::Wait)? {
            return answer.map_err(AskError::Refused);
        }
        for source in ready {
            match source {
                Source::Answer => {}
                Source::Signal => {
                    if let Some(signal) = signals.next() {
                        return Err(AskError::Interrupted(holder.pid(), signal));
                    }
                }
                Source::Process => return Err(AskError::Ended(holder.pid())),
            }
        }
        if Instant::now() >= deadline {
            return Err(AskError::Silent(holder.pid()));
        }
        if Instant::now() >= again {
            // The kernel keeps one pending signal of a kind: that of another process may have taken
            // the place of this one (signal(7)).
            holder.signal()?;
            again = Instant::now() + AGAIN;
        }
    }
}

/// Sends the outcome of an upgrade to the process that asked for it by signal, if that waits beside
/// the pid file. Whoever only sent the signal has no socket there. Errors are ignored, because the
/// log has the outcome too. Returns whether the process has the outcome.
pub(crate) fn answer(pid_file: Option<&Path>, asker: Pid, outcome: Result<&str, &str>) -> bool {
    pid_file.is_some_and(|pid_file| send(pid_file, asker, outcome).is_ok())
}

fn send(pid_file: &Path, asker: Pid, outcome: Result<&str, &str>) -> io::Result<()> {
    let file = place(pid_file, asker)?.1.open(OFlags::PATH, 0)?;
    let there = fstat(&file)?;
    // A file with the set-user-ID bit makes another user of who started pen, and who may ask.
    let is_ours = [0, geteuid().as_raw(), getuid().as_raw()].contains(&there.st_uid);
    if FileType::from_raw_mode(there.st_mode) != FileType::Socket || !is_ours {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (kind, text) = match outcome {
        Ok(text) => (b'0', text),
        Err(text) => (b'1', text),
    };
    let mut datagram = vec![kind];
    datagram.extend(text.bytes().take(LONGEST - 1));
    // This leads to the file that was just examined, and its name has no length limit.
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    sendto(&datagrams()?, &datagram, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &address)?;
    Ok(())
}

/// The place of a command's socket.
fn place(pid_file: &Path, asker: Pid) -> io::Result<(PathBuf, Entry)> {
    let entry = Entry::find(pid_file)?;
    let name = format!("{}.upgrade.{asker}", entry.name().display());
    Ok((pid_file.with_file_name(&name), entry.beside(name)?))
}

fn datagrams() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?)
}

/// What the command waits for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Answer,
    Signal,
    Process,
}

/// The socket for the answer. Its file is removed on drop.
#[derive(Debug)]
struct Mailbox {
    socket: OwnedFd,
    entry: Entry,
    made: Stat,
}

impl Mailbox {
    fn make(pid_file: &Path, holder: &Holder) -> Result<Mailbox, AskError> {
        let (path, entry) = place(pid_file, Pid::this())
            .map_err(|error| AskError::Socket(pid_file.into(), error))?;
        let failed = |error| AskError::Socket(path.clone(), error);
        // A killed command with the same pid may have left it.
        if entry.stat().is_ok_and(|left| FileType::from_raw_mode(left.st_mode) == FileType::Socket)
        {
            let _ = entry.remove();
        }
        let socket = datagrams().map_err(failed)?;
        setsockopt(&socket, PassCred, &true).map_err(|errno| failed(errno.into()))?;
        // A pen of another user must be able to send. Its answer is known by its pid.
        let is_foreign = holder.user().is_some_and(|user| user != geteuid().as_raw());
        let others = if is_foreign { Mode::empty() } else { Mode::S_IRWXG | Mode::S_IRWXO };
        let before = umask(others | Mode::S_IXUSR | Mode::S_IXGRP | Mode::S_IXOTH);
        let bound = at_place(&path, &entry, |path| Ok(bind(&socket, &SocketAddrUnix::new(path)?)?));
        umask(before);
        bound.map_err(failed)?;
        let made = entry.stat().map_err(failed)?;
        Ok(Mailbox { socket, entry, made })
    }

    /// The answer of this process, if it has come. Other datagrams are dropped.
    fn read(&self, pen: Pid) -> io::Result<Option<Result<String, String>>> {
        loop {
            let mut datagram = [0; LONGEST];
            let mut control = nix::cmsg_space!(UnixCredentials);
            let mut parts = [IoSliceMut::new(&mut datagram)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let socket = self.socket.as_raw_fd();
            let received = recvmsg::<()>(socket, &mut parts, Some(&mut control), flags);
            let (length, by) = match received {
                Ok(message) => {
                    let by = message.cmsgs().ok().and_then(|mut parts| parts.find_map(sender));
                    (message.bytes, by)
                }
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if by != Some(pen) {
                continue;
            }
            let text = |bytes| printable(&String::from_utf8_lossy(bytes));
            return Ok(match &datagram[..length] {
                [b'0', rest @ ..] => Some(Ok(text(rest))),
                [b'1', rest @ ..] => Some(Err(text(rest))),
                _ => continue,
            });
        }
    }
}

fn sender(part: ControlMessageOwned) -> Option<Pid> {
    match part {
        ControlMessageOwned::ScmCredentials(credentials) => Some(Pid::from_raw(credentials.pid())),
        // The kernel's message, of which only this kind was asked for.
        _ => None,
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if self.entry.is(&self.made) {
            let _ = self.entry.remove();
        }
    }
}

/// The signals that would end this process, as events. Those that it ignores stay ignored.
#[derive(Debug)]
struct CaughtSignals {
    descriptor: SignalFd,
    before: SigSet,
}

impl CaughtSignals {
    fn catch() -> io::Result<CaughtSignals> {
        let caught = SigSet::from_iter(ENDING);
        let descriptor =
            SignalFd::with_flags(&caught, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let before = caught.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(CaughtSignals { descriptor, before })
    }

    fn next(&self) -> Option<Signal> {
        let number = self.descriptor.read_signal().ok()??.ssi_signo;
        i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok())
    }
}

impl Drop for CaughtSignals {
    fn drop(&mut self) {
        let _ = self.before.thread_set_mask();
    }
}

const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// How long to wait until the signal is sent again.
const AGAIN: Duration = Duration::from_secs(7);

/// How long an upgrade may take until the answer.
const PATIENCE: Duration = Duration::from_secs(45);

/// The longest datagram in bytes.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};

    use nix::sys::wait::waitpid;

    use super::*;
    use crate::files::pid_file::PidFile;
    use crate::signals::{SignalRequest, Signals};
    use crate::sys::{self, Disposition};

    /// What a pretended pen does when it is asked.
    #[derive(Clone, Copy)]
    enum Conduct {
        Answers(Result<&'static str, &'static str>),
        Ends,
        Ignores,
        IsSilent,
        WouldDie,
    }

    /// A pretended pen with a pid file. It ends with the test.
    struct Pretended {
        pid: Pid,
        directory: tempfile::TempDir,
        alive: io::PipeWriter,
    }

    impl Pretended {
        fn new(conduct: Conduct) -> Pretended {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("pen.pid");
            let (mut ready, said) = io::pipe().unwrap();
            let (test, alive) = io::pipe().unwrap();
            let copy = alive.try_clone().unwrap();
            let pid = sys::fork(|| {
                drop(copy);
                pretend(&path, conduct, said, test)
            });
            assert_eq!(ready.read(&mut [0]).unwrap(), 1, "the pretended pen has its pid file");
            Pretended { pid: pid.unwrap(), directory, alive }
        }

        fn path(&self) -> PathBuf {
            self.directory.path().join("pen.pid")
        }

        /// Asks, and ends the pretended pen. Returns the outcome with the pen called PEN.
        fn asked(self) -> Result<String, String> {
            self.asked_within(PATIENCE)
        }

        fn asked_within(self, patience: Duration) -> Result<String, String> {
            let outcome = ask_patiently(&self.path(), patience);
            let names: Vec<_> = fs::read_dir(self.directory.path()).unwrap().flatten().collect();
            let left = names.iter().any(|name| name.path() != self.path());
            assert!(!left, "the socket is gone: {names:?}");
            let shown = self.pid.to_string();
            drop(self.alive);
            let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
            waitpid(self.pid, None).unwrap();
            outcome.map_err(|why| why.to_string().replace(&shown, "PEN"))
        }
    }

    fn pretend(path: &Path, conduct: Conduct, mut said: impl Write, test: io::PipeReader) -> i32 {
        let mut pid_file = PidFile::lock(path).unwrap();
        let signals = Signals::take_over().unwrap();
        match conduct {
            Conduct::Answers(_) | Conduct::Ends | Conduct::IsSilent => {}
            Conduct::Ignores => sys::set_disposition(Signal::SIGUSR2, Disposition::Ignore),
            Conduct::WouldDie => SigSet::empty().thread_set_mask().unwrap(),
        }
        pid_file.write().unwrap();
        said.write_all(b"r").unwrap();
        drop(said);
        loop {
            let mut set = PollSet::new();
            set.add("signal", signals.as_fd(), PollFlags::POLLIN);
            set.add("test", test.as_fd(), PollFlags::POLLIN);
            if set.wait(None).contains(&"test") {
                return 0;
            }
            let Some(SignalRequest::Upgrade { asker: Some(asker) }) = signals.next() else {
                continue;
            };
            match conduct {
                Conduct::Answers(outcome) => assert!(answer(Some(path), asker, outcome)),
                Conduct::Ends => return 0,
                Conduct::Ignores | Conduct::IsSilent | Conduct::WouldDie => {}
            }
        }
    }

    #[test]
    fn the_answer_is_passed_on() {
        let good = "pen 0.1.0 is now pen 0.2.0";
        assert_eq!(Pretended::new(Conduct::Answers(Ok(good))).asked(), Ok(good.to_owned()));
        let bad = "upgrade: the file\u{1b} is gone";
        let shown = "upgrade: the file. is gone".to_owned();
        assert_eq!(Pretended::new(Conduct::Answers(Err(bad))).asked(), Err(shown));
    }

    #[test]
    fn without_an_answer_there_is_a_reason() {
        let asked = |conduct, patience| Pretended::new(conduct).asked_within(patience).unwrap_err();
        assert_eq!(
            asked(Conduct::Ends, PATIENCE),
            "pid PEN ended before it answered; its log may say why"
        );
        assert_eq!(
            asked(Conduct::Ignores, PATIENCE),
            "pid PEN ignores signal USR2: it is an early release, which can only be restarted"
        );
        assert_eq!(
            asked(Conduct::IsSilent, Duration::ZERO),
            "pid PEN did not answer within 45 s; its log may say why"
        );
    }

    #[test]
    fn a_process_that_the_signal_would_end_does_not_get_it() {
        let pen = Pretended::new(Conduct::WouldDie);
        let path = pen.path();
        let why = format!("pid file {}: process PEN is not the pen that holds it", path.display());
        assert_eq!(pen.asked(), Err(why));
    }

    #[test]
    fn what_is_left_of_a_killed_command_is_no_obstacle() {
        let pen = Pretended::new(Conduct::Answers(Ok("done")));
        let (place, _) = place(&pen.path(), Pid::this()).unwrap();
        drop(std::os::unix::net::UnixDatagram::bind(&place).unwrap());
        assert_eq!(pen.asked(), Ok("done".to_owned()));
    }

    #[test]
    fn nothing_is_sent_to_what_is_no_socket_of_the_asker() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pen.pid");
        let asker = Pid::from_raw(7);
        let (place, _) = place(&pid_file, asker).unwrap();
        assert!(send(&pid_file, asker, Ok("x")).is_err(), "there is nothing");
        fs::write(&place, "precious").unwrap();
        assert!(send(&pid_file, asker, Ok("x")).is_err());
        assert_eq!(fs::read_to_string(&place).unwrap(), "precious");
        fs::remove_file(&place).unwrap();
        let real = directory.path().join("real");
        let socket = std::os::unix::net::UnixDatagram::bind(&real).unwrap();
        std::os::unix::fs::symlink(&real, &place).unwrap();
        assert!(send(&pid_file, asker, Ok("x")).is_err(), "a link is not followed");
        fs::rename(&real, &place).unwrap();
        send(&pid_file, asker, Err("x")).unwrap();
        let mut datagram = [0; 9];
        let length = socket.recv(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"1x");
        answer(None, asker, Ok("without a pid file there is nobody to tell"));
    }
}
