//! Signals as events of the supervisor's loop, and the signal state of new children.
//!
//! An inherited state is replaced, not extended: nohup(1) or a careless parent may have blocked or
//! ignored signals.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::sys::{Disposition, guard, set_disposition};

/// The request of a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SignalRequest {
    /// HUP: open the request log again, and reload.
    Reopen,
    /// USR1: report.
    Report,
    /// USR2: go on as the program that is installed now.
    Upgrade {
        /// The process that sent the signal; none if it is outside this pid namespace.
        asker: Option<Pid>,
    },
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
            set_disposition(signal, Disposition::Default);
            handled.add(signal);
        }
        for signal in IGNORED {
            // The alarm of a guard takes effect.
            if signal != Signal::SIGALRM || !guard::is_armed() {
                set_disposition(signal, Disposition::Ignore);
            }
        }
        Signals::of(&handled)
    }

    /// Goes on with the signals of an earlier program in this process. execve(2) keeps the mask,
    /// the ignored signals and those that are pending. So no disposition is set here: that would
    /// discard a pending CHLD (sigaction(2)).
    ///
    /// # Errors
    /// signalfd(2) failed: no descriptors left.
    pub(crate) fn go_on() -> io::Result<Signals> {
        let mut handled = SigSet::empty();
        HANDLED.into_iter().for_each(|signal| handled.add(signal));
        if !guard::is_armed() {
            // A failed program had a handler, which the execution reset to the default.
            set_disposition(Signal::SIGALRM, Disposition::Ignore);
        }
        Signals::of(&handled)
    }

    /// Blocks exactly these signals and makes them events.
    fn of(handled: &SigSet) -> io::Result<Signals> {
        let signals =
            SignalFd::with_flags(handled, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(handled), None)?;
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
            Signal::SIGUSR2 => Some(SignalRequest::Upgrade { asker: sender(information.ssi_pid) }),
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

/// The sender of a signal. The kernel says 0 if this pid namespace does not show it.
fn sender(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 0).map(Pid::from_raw)
}

/// Gives a child its own signal state: nothing is blocked. Signals that the supervisor handles for
/// all are ignored, because Ctrl-C and a hangup reach every process of the terminal's group.
pub(crate) fn reset_for_child() -> io::Result<()> {
    for signal in Signal::iterator() {
        match signal {
            // Rust's handlers for these two report a stack overflow.
            Signal::SIGSEGV | Signal::SIGBUS => {}
            signal
                if signal != Signal::SIGCHLD
                    && (HANDLED.contains(&signal) || IGNORED.contains(&signal)) =>
            {
                set_disposition(signal, Disposition::Ignore);
            }
            other => set_disposition(other, Disposition::Default),
        }
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

const HANDLED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGCHLD,
];

/// XFSZ: a limit on the size of files (`ulimit -f`) then makes a write fail like a full disk
/// (EFBIG).
const IGNORED: [Signal; 3] = [Signal::SIGALRM, Signal::SIGPIPE, Signal::SIGXFSZ];
