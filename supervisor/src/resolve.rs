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
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getpid};
use pen_contract::channel::{Channel, Received, Sent};
use serde::{Deserialize, Serialize};

use crate::StartError;
use crate::child::Child;
use crate::interrupt::Interrupts;
use crate::jail::Jail;
use crate::patience::until;
use crate::sandbox::Kind;
use crate::signals;
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

/// A name without an answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot resolve {}: {reason}", .question.word())]
pub(crate) struct Unresolved {
    /// The name.
    pub(crate) question: Question,
    reason: String,
}

#[cfg(test)]
impl Unresolved {
    /// A name that is not found.
    pub(crate) fn unknown(question: Question) -> Unresolved {
        Unresolved { question, reason: "unknown".into() }
    }
}

/// Why a start has no answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// These names have none.
    #[error("{}", .0.iter().map(Unresolved::to_string).collect::<Vec<_>>().join("\n"))]
    Names(Vec<Unresolved>),
    /// They cannot be asked for, or the start is interrupted.
    #[error("{0}")]
    Start(#[from] StartError),
}

/// Resolves names, waiting for the answers, which are in the order of the questions; none is [`Answer::Failed`].
///
/// # Errors
/// Names have no answer in time, or the start is interrupted.
pub(crate) fn resolve(
    questions: Vec<Question>,
    jail: &Jail,
    patience: Duration,
    interrupts: &mut Interrupts,
) -> Result<Vec<Answer>, ResolveError> {
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
                    return Err(error.into());
                }
            }
        }
    };
    asking.end();
    answers.map_err(ResolveError::Names)
}

/// Names that are being looked up.
#[derive(Debug)]
pub(crate) struct Asking {
    questions: Vec<Question>,
    answers: Vec<Answer>,
    unresolved: Vec<Unresolved>,
    channel: Channel<Nothing, Answer>,
    /// None once it was waited for: then the pid can be somebody else's.
    child: Option<Child>,
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
        let child =
            Child::fork(jail.identity.uid, || answer_all(&questions, jail, supervisor, &theirs)).map_err(cannot)?;
        let deadline = Instant::now() + patience;
        let (answers, unresolved, channel) = (Vec::new(), Vec::new(), ours);
        Ok(Asking { questions, answers, unresolved, channel, child: Some(child), patience, deadline })
    }

    /// To be polled for reading.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// When it is to be read at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The answers, in the order of the questions, once all are there; none of them is [`Answer::Failed`]. Or else every name that has no
    /// answer, as far as it is known within the time.
    pub(crate) fn read(&mut self, now: Instant) -> Option<Result<Vec<Answer>, Vec<Unresolved>>> {
        while let Some(question) = self.questions.get(self.answers.len() + self.unresolved.len()) {
            let (reason, is_last) = match self.channel.receive() {
                Ok(Received::Message(answer, _)) => match question.check(answer) {
                    Ok(answer) => {
                        self.answers.push(answer);
                        continue;
                    }
                    Err(Refused { reason, is_last }) => (reason.into(), is_last),
                },
                Ok(Received::Empty) if now >= self.deadline => {
                    (format!("no answer within {} s", self.patience.as_secs()), true)
                }
                Ok(Received::Empty) => return None,
                Ok(Received::Closed) | Err(_) => ("the resolver ended without an answer".into(), true),
            };
            self.unresolved.push(Unresolved { question: question.clone(), reason });
            if is_last {
                break;
            }
        }
        let (answers, unresolved) = (std::mem::take(&mut self.answers), std::mem::take(&mut self.unresolved));
        Some(if unresolved.is_empty() { Ok(answers) } else { Err(unresolved) })
    }

    /// Whether this child was the one; it has been waited for.
    pub(crate) fn reaped(&mut self, child: Pid) -> bool {
        self.child.take_if(|own| own.pid == child).is_some()
    }

    /// Ends and reaps the child, which takes no time that matters unless a device keeps it.
    pub(crate) fn end(mut self) {
        if let Some(child) = self.child.take() {
            child.kill();
            let _ = waitpid(child.pid, None);
        }
    }
}

/// The child is killed; whoever waits for this process's children reaps it.
impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(child) = self.child {
            child.kill();
        }
    }
}

impl Question {
    fn word(&self) -> &str {
        match self {
            Question::Host(name) | Question::TcpService(name) | Question::UdpService(name) => name,
        }
    }

    /// Passes an answer that fits.
    fn check(&self, answer: Answer) -> Result<Answer, Refused> {
        let reason = match (self, answer) {
            (Question::Host(_), answer @ Answer::Host(_)) => return Ok(answer),
            (Question::TcpService(_) | Question::UdpService(_), answer @ Answer::Service(1..)) => return Ok(answer),
            (Question::Host(_), Answer::Failed(Failure::Unknown)) => "no such host",
            (Question::TcpService(_), Answer::Failed(Failure::Unknown)) => "no such service (tcp)",
            (Question::UdpService(_), Answer::Failed(Failure::Unknown)) => "no such service (udp or tcp)",
            (_, Answer::Failed(Failure::Unavailable)) => "the name server does not answer",
            (_, Answer::Failed(Failure::Confinement)) => {
                return Err(Refused { reason: "the resolver process could not be confined", is_last: true });
            }
            (_, Answer::Failed(Failure::Resolver) | Answer::Host(_) | Answer::Service(_)) => "the resolver failed",
        };
        Err(Refused { reason, is_last: false })
    }
}

/// Why a name has no answer, and whether no further answers come.
#[derive(Debug, Eq, PartialEq)]
struct Refused {
    reason: &'static str,
    is_last: bool,
}

// From here on: in the child.

fn answer_all(questions: &[Question], jail: &Jail, supervisor: Pid, channel: &ToSupervisor) -> i32 {
    if confine(jail, supervisor, channel).is_err() {
        let _ = channel.send(&Answer::Failed(Failure::Confinement), None);
        return 1;
    }
    // Every name that is not found is worth hearing of, not only the first.
    let told = questions.iter().all(|question| say(channel, &answer(question).unwrap_or_else(Answer::Failed)));
    i32::from(!told)
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
        assert_eq!(unknown, Refused { reason: "no such host", is_last: false });
        assert!(host.check(Answer::Failed(Failure::Confinement)).unwrap_err().is_last);
    }

    /// Names that were asked of a child which says this and ends.
    fn asked(questions: &[&str], said: &[Answer]) -> Asking {
        let (channel, child): (Channel<Nothing, Answer>, ToSupervisor) = Channel::pair().unwrap();
        said.iter().for_each(|answer| assert!(say(&child, answer)));
        let questions = questions.iter().map(|name| Question::Host((*name).into())).collect();
        let (answers, unresolved, patience) = (Vec::new(), Vec::new(), Duration::ZERO);
        Asking { questions, answers, unresolved, channel, child: None, patience, deadline: Instant::now() }
    }

    #[test]
    fn every_name_without_an_answer_is_told() {
        let (found, unknown) = (Answer::Host([127, 0, 0, 1].into()), Answer::Failed(Failure::Unknown));
        let read = |mut asking: Asking| asking.read(Instant::now()).unwrap();
        let words = |unresolved: Vec<Unresolved>| unresolved.iter().map(Unresolved::to_string).collect::<Vec<_>>();
        let said = [unknown.clone(), found.clone(), unknown];
        let all = words(read(asked(&["a", "b", "c"], &said)).unwrap_err());
        assert_eq!(all, ["cannot resolve a: no such host", "cannot resolve c: no such host"]);
        let ended = words(read(asked(&["a", "b", "c"], &said[..1])).unwrap_err());
        assert_eq!(ended, ["cannot resolve a: no such host", "cannot resolve b: the resolver ended without an answer"]);
        let unconfined = words(read(asked(&["a", "b"], &[Answer::Failed(Failure::Confinement)])).unwrap_err());
        assert_eq!(unconfined, ["cannot resolve a: the resolver process could not be confined"]);
        assert_eq!(read(asked(&["a"], std::slice::from_ref(&found))), Ok(vec![found]));
    }
}
