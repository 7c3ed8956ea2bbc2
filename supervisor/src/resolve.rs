//! Names become addresses in a one-shot child, because getaddrinfo(3) reads what strangers on the network answer.
//!
//! The child has the workers' identity (or `nobody`), no capabilities, and no descriptor but its channel. It keeps the root
//! directory, where the resolver's own files are. It can answer with an address or a port and nothing else.

#![forbid(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, getaddrinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid};
use pen_contract::channel::{Channel, Received, Sent};
use serde::{Deserialize, Serialize};

use crate::StartError;
use crate::interrupt::Interrupts;
use crate::jail::Jail;
use crate::patience::until;
use crate::sandbox::Kind;
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

/// Resolves names, waiting for the answers, which are in the order of the questions; none is [`Answer::Failed`].
///
/// # Errors
/// A name has no answer in time, or the start is interrupted; the error names the word.
pub(crate) fn resolve(
    questions: Vec<Question>,
    jail: &Jail,
    patience: Duration,
    interrupts: &mut Interrupts,
) -> Result<Vec<Answer>, StartError> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let mut asking = Asking::begin(questions, jail, patience).map_err(StartError)?;
    let answers = loop {
        match asking.read(Instant::now()) {
            Some(answers) => break answers,
            None => {
                let descriptors = interrupts.descriptors().chain([asking.descriptor()]);
                let mut polled: Vec<PollFd<'_>> = descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
                // Interrupted or not: everything is looked at again.
                let _ = poll(&mut polled, until(asking.deadline()));
                drop(polled);
                if let Err(error) = interrupts.check() {
                    asking.end();
                    return Err(error);
                }
            }
        }
    };
    asking.end();
    answers.map_err(StartError)
}

/// Names that are being looked up.
#[derive(Debug)]
pub(crate) struct Asking {
    questions: Vec<Question>,
    answers: Vec<Answer>,
    channel: Channel<Nothing, Answer>,
    /// None once it was waited for: then the pid can be somebody else's.
    child: Option<Pid>,
    patience: Duration,
    deadline: Instant,
}

impl Asking {
    /// Has a child look names up.
    ///
    /// # Errors
    /// There can be no child now.
    pub(crate) fn begin(questions: Vec<Question>, jail: &Jail, patience: Duration) -> Result<Asking, String> {
        let first = questions.first().map_or(String::new(), |question| question.word().into());
        let cannot = |error| format!("cannot resolve {first}: {}", why(&error));
        let (ours, theirs): (Channel<Nothing, Answer>, ToSupervisor) = Channel::pair().map_err(cannot)?;
        let supervisor = getpid();
        let child = sys::fork(|| answer_all(&questions, jail, supervisor, &theirs)).map_err(cannot)?;
        let deadline = Instant::now() + patience;
        Ok(Asking { questions, answers: Vec::new(), channel: ours, child: Some(child), patience, deadline })
    }

    /// To be polled for reading.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// When it is to be read at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The answers, in the order of the questions, once all are there; none of them is [`Answer::Failed`]. The error names the word that
    /// has no answer.
    pub(crate) fn read(&mut self, now: Instant) -> Option<Result<Vec<Answer>, String>> {
        while let Some(question) = self.questions.get(self.answers.len()) {
            match self.channel.receive() {
                Ok(Received::Message(answer, _)) => match question.check(answer) {
                    Ok(answer) => self.answers.push(answer),
                    Err(why) => return Some(Err(why)),
                },
                Ok(Received::Empty) if now >= self.deadline => {
                    return Some(Err(question.failed(&format!("no answer within {} s", self.patience.as_secs()))));
                }
                Ok(Received::Empty) => return None,
                Ok(Received::Closed) | Err(_) => {
                    return Some(Err(question.failed("the resolver ended without an answer")));
                }
            }
        }
        Some(Ok(std::mem::take(&mut self.answers)))
    }

    /// Whether this child was the one; it has been waited for.
    pub(crate) fn reaped(&mut self, child: Pid) -> bool {
        self.child.take_if(|own| *own == child).is_some()
    }

    /// Ends and reaps the child, which takes no time that matters unless a device keeps it.
    pub(crate) fn end(mut self) {
        if let Some(child) = self.child.take() {
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
    }
}

/// The child is killed; whoever waits for this process's children reaps it.
impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(child) = self.child {
            let _ = kill(child, Signal::SIGKILL);
        }
    }
}

impl Question {
    fn word(&self) -> &str {
        match self {
            Question::Host(name) | Question::TcpService(name) | Question::UdpService(name) => name,
        }
    }

    fn failed(&self, reason: &str) -> String {
        format!("cannot resolve {}: {reason}", self.word())
    }

    /// Passes an answer that fits.
    fn check(&self, answer: Answer) -> Result<Answer, String> {
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
    jail.enter(Kind::Resolver, supervisor, &[channel.as_fd()]).map_err(io::Error::other)
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
        assert_eq!(unknown, "cannot resolve www1: no such host");
    }
}
