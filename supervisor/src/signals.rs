//! Signals as events of the supervisor's loop, and the signal state of new children.
//!
//! An inherited state is replaced, not extended: nohup(1) or a careless parent may have blocked or
//! ignored signals.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::sys::{Disposition, dispose};

/// The request of a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SignalRequest {
    /// HUP: open the request log again, and reload.
    Reopen,
    /// USR1: report.
    Report,
    /// TERM, INT, QUIT: end.
    Stop(Signal),
    /// CHLD: a child changed state.
    Child,
}

/// The signals that the supervisor handles, as a descriptor for poll(2).
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks the handled signals and makes them events; ignores signals without a meaning here.
    ///
    /// # Errors
    /// signalfd(2) failed: no descriptors left.
    pub(crate) fn take_over() -> io::Result<Signals> {
        let mut handled = SigSet::empty();
        for signal in HANDLED {
            // With an inherited SIG_IGN, children would reap themselves (CHLD), and pen under
            // nohup(1) would ignore HUP.
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

    /// The next pending signal, if there is one.
    pub(crate) fn next(&self) -> Option<SignalRequest> {
        let information = self.0.read_signal().ok()??;
        let signal = i32::try_from(information.ssi_signo)
            .ok()
            .and_then(|number| Signal::try_from(number).ok())?;
        match signal {
            Signal::SIGHUP => Some(SignalRequest::Reopen),
            Signal::SIGUSR1 => Some(SignalRequest::Report),
            Signal::SIGCHLD => Some(SignalRequest::Child),
            stop => Some(SignalRequest::Stop(stop)),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives a child its own signal state: nothing is blocked. Signals that the supervisor handles for
/// all are ignored, because Ctrl-C and a hangup reach every process of the terminal's group.
pub(crate) fn settle_child() -> io::Result<()> {
    for signal in Signal::iterator() {
        match signal {
            // Rust's handlers for these two report a stack overflow.
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

/// XFSZ: a limit on the size of files (`ulimit -f`) then makes a write fail like a full disk
/// (EFBIG).
const IGNORED: [Signal; 4] = [Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGPIPE, Signal::SIGXFSZ];
