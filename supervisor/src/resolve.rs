//! Names become addresses in a one-shot child, because getaddrinfo(3) reads what strangers on the network answer.
//!
//! The child has the workers' identity (or `nobody`), no capabilities, and no descriptor but its channel. It keeps the root
//! directory, where the resolver's own files are. It can answer with an address or a port and nothing else.

#![forbid(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, getaddrinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};
use pen_contract::channel::{Channel, Received, Sent};
use serde::{Deserialize, Serialize};

use crate::StartError;
use crate::interrupt::Interrupts;
use crate::jail::Jail;
use crate::patience::until;
use crate::signals;
use crate::sys;
use crate::why::why;

/// One name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Question {
    /// The address of a host.
    Host(String),
    /// The port of a service over TCP.
    TcpService(String),
    /// The port of a service over UDP.
    UdpService(String),
}

/// What became of it, from the child to the supervisor, in the order of the questions.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The first address of a host.
    Host(IpAddr),
    /// A port.
    Service(u16),
    /// Why there is none.
    Failed(Failure),
}

/// Why a name has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// There is no such name.
    Unknown,
    /// The name servers do not answer now.
    Unavailable,
    /// The resolver failed otherwise.
    Resolver,
    /// The child could not be confined.
    Confinement,
}

/// The supervisor says nothing to the child, which was born with its questions.
#[derive(Debug, Serialize, Deserialize)]
enum Nothing {}

type ToSupervisor = Channel<Answer, Nothing>;

/// Resolves names; the answers are in the order of the questions and none is [`Answer::Failed`].
///
/// # Errors
/// A name has no answer in time, or the start is interrupted; the error names the word.
pub(crate) fn resolve(
    questions: &[Question],
    jail: &Jail,
    patience: Duration,
    interrupts: &mut Interrupts,
) -> Result<Vec<Answer>, StartError> {
    let Some(first) = questions.first() else { return Ok(Vec::new()) };
    let cannot = |error| StartError(format!("cannot resolve {}: {}", first.word(), why(&error)));
    let (ours, theirs): (Channel<Nothing, Answer>, ToSupervisor) = Channel::pair().map_err(cannot)?;
    let supervisor = getpid();
    let child = sys::fork(|| answer_all(questions, jail, supervisor, &theirs)).map_err(cannot)?;
    drop(theirs);
    let mut resolver = Resolver { child: Some(child) };
    let deadline = Instant::now() + patience;
    let mut answers = Vec::with_capacity(questions.len());
    while let Some(question) = questions.get(answers.len()) {
        match ours.receive() {
            Ok(Received::Message(answer, _)) => answers.push(question.check(answer)?),
            Ok(Received::Empty) if Instant::now() >= deadline => {
                return Err(question.failed(&format!("no answer within {} s", patience.as_secs())));
            }
            Ok(Received::Empty) => {
                wait(&ours, interrupts, until(deadline));
                interrupts.check()?;
            }
            Ok(Received::Closed) | Err(_) => return Err(question.failed(&resolver.end())),
        }
    }
    Ok(answers)
}

/// The child, killed and reaped at the latest when this is dropped.
#[derive(Debug)]
struct Resolver {
    child: Option<Pid>,
}

impl Resolver {
    /// How it ended, for one that said too little.
    fn end(&mut self) -> String {
        match self.child.take().map(|child| (kill(child, Signal::SIGKILL), waitpid(child, None))) {
            Some((_, Ok(WaitStatus::Signaled(_, signal, _)))) => format!("the resolver was killed by {signal}"),
            _ => "the resolver ended without an answer".into(),
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.end();
        }
    }
}

fn wait(channel: &Channel<Nothing, Answer>, interrupts: &Interrupts, timeout: PollTimeout) {
    let descriptors = interrupts.descriptors().chain([channel.as_fd()]);
    let mut polled: Vec<PollFd<'_>> = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    // Interrupted or not: the caller looks at everything again.
    let _ = poll(&mut polled, timeout);
}

impl Question {
    fn word(&self) -> &str {
        match self {
            Question::Host(name) | Question::TcpService(name) | Question::UdpService(name) => name,
        }
    }

    fn failed(&self, reason: &str) -> StartError {
        StartError(format!("cannot resolve {}: {reason}", self.word()))
    }

    /// Passes an answer that fits.
    fn check(&self, answer: Answer) -> Result<Answer, StartError> {
        let reason = match (self, answer) {
            (Question::Host(_), answer @ Answer::Host(_)) => return Ok(answer),
            (Question::TcpService(_) | Question::UdpService(_), answer @ Answer::Service(1..)) => return Ok(answer),
            (Question::Host(_), Answer::Failed(Failure::Unknown)) => "no such host",
            (Question::TcpService(_), Answer::Failed(Failure::Unknown)) => "no such service (tcp)",
            (Question::UdpService(_), Answer::Failed(Failure::Unknown)) => "no such service (udp or tcp)",
            (_, Answer::Failed(Failure::Unavailable)) => "the name server does not answer",
            (_, Answer::Failed(Failure::Confinement)) => "the resolver process could not be confined",
            (_, Answer::Failed(Failure::Resolver) | Answer::Host(_) | Answer::Service(_)) => "the resolver failed",
        };
        Err(self.failed(reason))
    }
}

// From here on: in the child.

fn answer_all(questions: &[Question], jail: &Jail, supervisor: Pid, channel: &ToSupervisor) -> i32 {
    if confine(jail, supervisor, channel).is_err() {
        let _ = channel.send(&Answer::Failed(Failure::Confinement), None);
        return 1;
    }
    let answered = questions.iter().all(|question| {
        let answer = answer(question).unwrap_or_else(Answer::Failed);
        say(channel, &answer) && !matches!(answer, Answer::Failed(_))
    });
    i32::from(!answered)
}

fn confine(jail: &Jail, supervisor: Pid, channel: &ToSupervisor) -> io::Result<()> {
    signals::settle_child()?;
    sys::close_all_but(&[channel.as_fd()])?;
    jail.enter(supervisor).map_err(io::Error::other)
}

/// The child has nothing else to do, so it may wait for room.
fn say(channel: &ToSupervisor, answer: &Answer) -> bool {
    loop {
        match channel.send(answer, None) {
            Ok(Sent::Queued) => return true,
            Ok(Sent::Full) => {
                let _ = poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE);
            }
            Err(_) => return false,
        }
    }
}

fn answer(question: &Question) -> Result<Answer, Failure> {
    match (question, look_up(question)) {
        // Many a services database knows a service for TCP alone, though its number is registered for both.
        (Question::UdpService(name), Err(Failure::Unknown)) => look_up(&Question::TcpService(name.clone())),
        (_, answer) => answer,
    }
}

fn look_up(question: &Question) -> Result<Answer, Failure> {
    // No AI_ADDRCONFIG: an address counts whatever families this machine's interfaces have.
    let hints = |socktype| AddrInfoHints { socktype, ..AddrInfoHints::default() };
    let (host, service, socktype) = match question {
        Question::Host(name) => (Some(name.as_str()), None, libc::SOCK_STREAM),
        Question::TcpService(name) => (None, Some(name.as_str()), libc::SOCK_STREAM),
        Question::UdpService(name) => (None, Some(name.as_str()), libc::SOCK_DGRAM),
    };
    let mut found = getaddrinfo(host, service, Some(hints(socktype))).map_err(failure)?;
    let first = found.next().ok_or(Failure::Unknown)?.map_err(|_| Failure::Resolver)?;
    Ok(match question {
        Question::Host(_) => Answer::Host(first.sockaddr.ip()),
        Question::TcpService(_) | Question::UdpService(_) => Answer::Service(first.sockaddr.port()),
    })
}

fn failure(error: LookupError) -> Failure {
    match error.kind() {
        LookupErrorKind::NoName | LookupErrorKind::NoData | LookupErrorKind::Service => Failure::Unknown,
        LookupErrorKind::Again => Failure::Unavailable,
        _ => Failure::Resolver,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_local_databases_are_found() {
        let localhost = answer(&Question::Host("localhost".into())).unwrap();
        assert!(matches!(localhost, Answer::Host(ip) if ip.is_loopback()));
        assert_eq!(answer(&Question::TcpService("0".into())), Ok(Answer::Service(0)));
        assert_eq!(answer(&Question::TcpService("no-such-service".into())), Err(Failure::Unknown));
    }

    #[test]
    fn an_answer_must_fit_its_question() {
        let (host, service) = (Question::Host("www1".into()), Question::TcpService("http".into()));
        let ip = Answer::Host([127, 0, 0, 1].into());
        assert_eq!(host.check(ip.clone()).unwrap(), ip);
        assert!(host.check(Answer::Service(80)).is_err());
        assert!(service.check(Answer::Service(0)).is_err());
        assert!(service.check(ip).is_err());
        let unknown = host.check(Answer::Failed(Failure::Unknown)).unwrap_err();
        assert_eq!(unknown.to_string(), "cannot resolve www1: no such host");
    }
}
