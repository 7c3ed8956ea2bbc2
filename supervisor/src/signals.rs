//! Signals as events of the supervisor's loop, and the signal state that children are born with.
//!
//! What was inherited (blocked or ignored signals, as nohup(1) or a careless parent leave them) is
//! replaced, not added to.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys::{Disposition, dispose};

/// What a signal asks of the supervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Request {
    /// HUP: reopen the request log.
    Reopen,
    /// USR1: report.
    Report,
    /// TERM, INT, QUIT: end.
    Stop(Signal),
    /// CHLD: a child changed state.
    Child,
}

/// The signals that the supervisor handles, to be polled.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks the handled signals and makes them events; ignores those that have no meaning.
    ///
    /// # Errors
    /// signalfd(2) failed: no descriptors left.
    pub(crate) fn take_over() -> io::Result<Signals> {
        let mut handled = SigSet::empty();
        for signal in HANDLED {
            // An inherited SIG_IGN would make children reap themselves (CHLD) or be all that a
            // nohup'd pen hears (HUP).
            dispose(signal, Disposition::Default);
            handled.add(signal);
        }
        for signal in IGNORED {
            dispose(signal, Disposition::Ignore);
        }
        let signals =
            SignalFd::with_flags(&handled, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&handled), None)?;
        Ok(Signals(signals))
    }

    /// The next signal that waits, if there is one.
    pub(crate) fn next(&self) -> Option<Request> {
        let information = self.0.read_signal().ok()??;
        let signal = i32::try_from(information.ssi_signo)
            .ok()
            .and_then(|number| Signal::try_from(number).ok())?;
        match signal {
            Signal::SIGHUP => Some(Request::Reopen),
            Signal::SIGUSR1 => Some(Request::Report),
            Signal::SIGCHLD => Some(Request::Child),
            stop => Some(Request::Stop(stop)),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives a child a signal state of its own: nothing is blocked, and what the supervisor answers for
/// is ignored, because Ctrl-C and a hangup reach every process of the terminal's group.
pub(crate) fn settle_child() -> io::Result<()> {
    for signal in Signal::iterator() {
        match signal {
            // Rust reports an overflowing stack from its handlers of these two.
            Signal::SIGSEGV | Signal::SIGBUS => {}
            signal
                if signal != Signal::SIGCHLD
                    && (HANDLED.contains(&signal) || IGNORED.contains(&signal)) =>
            {
                dispose(signal, Disposition::Ignore);
            }
            other => dispose(other, Disposition::Default),
        }
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

const HANDLED: [Signal; 6] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGCHLD,
];

/// XFSZ: a limit on the size of files (`ulimit -f`) is to each writer what a full disk is (EFBIG).
const IGNORED: [Signal; 4] = [Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGPIPE, Signal::SIGXFSZ];
