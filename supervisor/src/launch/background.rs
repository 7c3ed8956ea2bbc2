//! Start without `-f`: the command forks the supervisor and waits until it is ready or has failed.
//! The supervisor leaves the terminal.
//!
//! A starting supervisor talks to the caller of pen only through the start channel. Its own
//! standard streams are /dev/null from the beginning. So neither it nor a worker keeps the caller's
//! pipe or terminal open.

#![forbid(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use pen_ipc::channel::{Channel, Received};
use pen_ipc::text::error_text;
use serde::{Deserialize, Serialize};

use crate::StartError;

/// A message from the supervisor to the command that started it.
#[derive(Debug, Serialize, Deserialize)]
enum StartReport {
    /// A line for standard error; the start goes on.
    Notice(String),
    /// The port is open, the workers are ready. The command ends with status 0.
    Ready,
    /// The reason why the start failed. The command ends with status 1.
    Failed(String),
}

/// The command sends no messages.
#[derive(Debug, Serialize, Deserialize)]
enum NoMessage {}

/// The supervisor's end of the start channel.
#[derive(Debug)]
pub(crate) struct StartLink(Channel<StartReport, NoMessage>);

/// The command's end of the start channel.
#[derive(Debug)]
pub(crate) struct StartWatch(Channel<NoMessage, StartReport>);

/// Makes the start channel.
///
/// # Errors
/// No descriptors left.
pub(crate) fn start_channel() -> io::Result<(StartLink, StartWatch)> {
    Channel::pair().map(|(supervisor, command)| (StartLink(supervisor), StartWatch(command)))
}

/// Leaves the terminal, the working directory and the standard streams.
///
/// # Errors
/// One line that names the failed step.
pub(crate) fn detach() -> Result<(), StartError> {
    let at = |step: &'static str| {
        move |errno: Errno| {
            StartError(format!(
                "cannot go to the background: {step}: {}",
                error_text(&errno.into())
            ))
        }
    };
    // A new child is no leader of a process group, so the usual failure of setsid(2) cannot happen.
    setsid().map_err(at("setsid"))?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| {
        StartError(format!("cannot go to the background: /dev/null: {}", error_text(&error)))
    })?;
    dup2_stdin(&null).map_err(at("standard input"))?;
    dup2_stdout(&null).map_err(at("standard output"))?;
    dup2_stderr(&null).map_err(at("standard error"))?;
    chdir("/").map_err(at("chdir"))
}

impl StartLink {
    /// Sends a line for the caller's standard error.
    pub(crate) fn notice(&self, text: &str) {
        self.send(&StartReport::Notice(text.into()));
    }

    /// Reports that the service is ready: the command may end.
    pub(crate) fn ready(self) {
        self.send(&StartReport::Ready);
    }

    /// Reports that the start failed.
    pub(crate) fn failed(&self, why: &StartError) {
        // The errors of a configuration file can be many long lines, but must fit into one message.
        let end = why
            .0
            .char_indices()
            .map(|(at, _)| at)
            .take_while(|at| *at <= LONGEST_FAILURE)
            .last()
            .unwrap_or(0);
        let text = if why.0.len() <= LONGEST_FAILURE {
            why.0.clone()
        } else {
            format!("{}...", &why.0[..end])
        };
        self.send(&StartReport::Failed(text));
    }

    /// Whether the command still waits. If it was interrupted, the start must stop.
    pub(crate) fn is_watched(&self) -> bool {
        !matches!(self.0.receive(), Ok(Received::Closed) | Err(_))
    }

    /// Sends a message. Without the command, nobody needs it. The messages of a start fit into the
    /// queue of the channel.
    fn send(&self, report: &StartReport) {
        let _ = self.0.send(report, None);
    }
}

impl AsFd for StartLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl StartWatch {
    /// Waits until the supervisor is ready, and passes on its notices.
    ///
    /// # Errors
    /// The reason why the start failed.
    pub(crate) fn wait(
        self,
        supervisor: Pid,
        mut notice: impl FnMut(&str),
    ) -> Result<(), StartError> {
        loop {
            match self.0.receive() {
                Ok(Received::Message(StartReport::Notice(text), _)) => notice(&text),
                Ok(Received::Message(StartReport::Ready, _)) => return Ok(()),
                Ok(Received::Message(StartReport::Failed(why), _)) => {
                    // Waits for the end of the supervisor: when the command reports the failure, no
                    // process is left.
                    let _ = waitpid(supervisor, None);
                    return Err(StartError(why));
                }
                Ok(Received::Empty) => {
                    let _ = poll(
                        &mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)],
                        PollTimeout::NONE,
                    );
                }
                Ok(Received::Closed) | Err(_) => return Err(StartError(ended(supervisor))),
            }
        }
    }
}

/// The text for the end of a supervisor that sent no reason.
fn ended(supervisor: Pid) -> String {
    match waitpid(supervisor, None) {
        Ok(WaitStatus::Signaled(_, signal, _)) => {
            format!("the start was ended by signal {}", signal as i32)
        }
        Ok(WaitStatus::Exited(_, status)) => {
            format!("the start ended without a reason, with status {status}")
        }
        _ => "the start ended without a reason".into(),
    }
}

/// The maximum length of a failure in bytes: within the limit of a message.
const LONGEST_FAILURE: usize = 60_000;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn wait(watch: StartWatch) -> (Vec<String>, Result<(), StartError>) {
        let mut notices = Vec::new();
        // Not a child of this process: waitpid(2) returns at once.
        let result = watch.wait(Pid::from_raw(i32::MAX), |text| notices.push(text.into()));
        (notices, result)
    }

    #[test]
    fn the_command_hears_notices_and_the_end_of_the_start() {
        let (link, watch) = start_channel().unwrap();
        link.notice("first");
        link.notice("second");
        assert!(link.is_watched());
        link.ready();
        let (notices, result) = wait(watch);
        assert_eq!(notices, ["first", "second"]);
        assert!(result.is_ok());
    }

    #[test]
    fn a_failure_is_handed_over_once_and_a_silent_end_is_one_too() {
        let (link, watch) = start_channel().unwrap();
        link.failed(&StartError("cannot listen".into()));
        assert_eq!(wait(watch).1.unwrap_err().to_string(), "cannot listen");
        // A child that another test forks meanwhile holds a copy of the other end for a moment.
        let deadline = Instant::now() + Duration::from_secs(5);
        while link.is_watched() {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let (link, watch) = start_channel().unwrap();
        link.failed(&StartError("ö".repeat(100_000)));
        let told = wait(watch).1.unwrap_err().to_string();
        assert!(told.starts_with("öö") && told.ends_with("ö...") && told.len() > 59_000);
        let (link, watch) = start_channel().unwrap();
        drop(link);
        assert!(wait(watch).1.unwrap_err().to_string().contains("without a reason"));
    }
}
