//! The resolver: children that look up names. The supervisor does not, because getaddrinfo(3)
//! parses untrusted answers from the network.
//!
//! Several names are looked up at once, each by a child and with its own time limit. So a name
//! server that does not answer costs five seconds (resolv.conf(5)) for all names together, not for
//! each. A child that has answered gets the next name; a child that is late is killed. It has the
//! workers' identity (or `nobody`), no capabilities, and no descriptor but its channel. It keeps
//! the root directory, where the configuration files of the resolver library are. It can only
//! answer with addresses or a port.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, getaddrinfo};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use pen_config::address::{HostAddress, MOST_ADDRESSES};
use pen_ipc::channel::{Channel, Received, Sent};
use serde::{Deserialize, Serialize};

use crate::StartError;
use crate::helpers::helper::Helper;
use crate::jail::Jail;
use crate::jail::sandbox::ProcessKind;
use crate::launch::interrupt::Interrupts;
use crate::log::errno::why;
use crate::patience::until;
use crate::signals;

/// A name to look up.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// The address of a host.
    Host(String),
    /// The port of a service over TCP.
    TcpService(String),
    /// The port of a service over UDP.
    UdpService(String),
}

/// The answer of a child.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum ResolverAnswer {
    /// The addresses of a host, in the order in which to try them: at least one, at most
    /// [`MOST_ADDRESSES`].
    Host(Vec<HostAddress>),
    /// A port.
    Service(u16),
    /// The reason why there is no answer.
    Failed(ResolveFailure),
}

/// The reason why a name has no answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum ResolveFailure {
    /// The name does not exist.
    Unknown,
    /// The name servers do not answer now.
    Unavailable,
    /// The resolver failed for another reason.
    Resolver,
    /// The child could not be confined.
    Confinement,
}

type ToSupervisor = Channel<ResolverAnswer, Question>;

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
    /// A name that does not exist.
    pub(crate) fn unknown(question: Question) -> Unresolved {
        Unresolved { question, reason: "unknown".into() }
    }
}

/// The reason why a start has no answers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// These names have no answer.
    #[error("{}", .0.iter().map(Unresolved::to_string).collect::<Vec<_>>().join("\n"))]
    Names(Vec<Unresolved>),
    /// The names cannot be looked up, or the start is interrupted.
    #[error("{0}")]
    Start(#[from] StartError),
}

/// Time limits for lookups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResolvePatience {
    /// The limit for each name.
    pub(crate) each: Duration,
}

impl ResolvePatience {
    /// The limit for so many names together: as long as they take one after another, but at most
    /// [`MOST_TURNS`] turns.
    fn all(self, names: usize) -> Duration {
        let turns = names.div_ceil(MOST_AT_ONCE).clamp(1, MOST_TURNS);
        // Below MOST_TURNS.
        self.each * turns as u32
    }
}

/// Looks up names, and waits. The answers are in the order of the questions; none is
/// [`ResolverAnswer::Failed`].
///
/// # Errors
/// Names have no answer in time, or the start is interrupted.
pub(crate) fn resolve(
    questions: Vec<Question>,
    jail: &Jail,
    patience: ResolvePatience,
    interrupts: &mut Interrupts,
) -> Result<Vec<ResolverAnswer>, ResolveError> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let mut asking = Asking::begin(questions, jail, patience).map_err(StartError)?;
    let answers = loop {
        match asking.read(Instant::now()) {
            Some(answers) => break answers,
            None => {
                let descriptors = interrupts.descriptors().chain(asking.descriptors());
                let mut polled: Vec<PollFd<'_>> =
                    descriptors.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
                // After an interruption, too, everything is checked again.
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

/// Lookups under way.
#[derive(Debug)]
pub(crate) struct Asking {
    questions: Vec<Question>,
    /// The outcomes in the order of the questions; none = not known yet.
    outcomes: Vec<Option<Result<ResolverAnswer, String>>>,
    /// The number of questions that were sent.
    asked: usize,
    resolvers: Vec<ResolverProcess>,
    jail: Jail,
    patience: ResolvePatience,
    deadline: Instant,
}

/// A child, with its last question.
#[derive(Debug)]
struct ResolverProcess {
    helper: Helper<Question, ResolverAnswer>,
    question: usize,
    deadline: Instant,
}

impl Asking {
    /// Starts the lookups. There is at least one name.
    ///
    /// # Errors
    /// No child can be forked now.
    pub(crate) fn begin(
        questions: Vec<Question>,
        jail: &Jail,
        patience: ResolvePatience,
    ) -> Result<Asking, String> {
        let (now, count) = (Instant::now(), questions.len());
        let mut asking = Asking {
            outcomes: questions.iter().map(|_| None).collect(),
            questions,
            asked: 0,
            resolvers: Vec::new(),
            jail: jail.clone(),
            patience,
            deadline: now + patience.all(count),
        };
        match asking.spawn(now) {
            Err(error) if asking.resolvers.is_empty() => {
                let first = asking.questions.first().map_or("", Question::word);
                Err(format!("cannot resolve {first}: {}", why(&error)))
            }
            // Fewer children take longer, but are enough.
            Ok(()) | Err(_) => Ok(asking),
        }
    }

    /// Forks children while there are questions, up to the limit.
    fn spawn(&mut self, now: Instant) -> io::Result<()> {
        while self.asked < self.questions.len() && self.resolvers.len() < MOST_AT_ONCE {
            let jail = &self.jail;
            let helper = Helper::begin(jail.identity.uid, |channel, supervisor| {
                serve(jail, supervisor, channel)
            })?;
            let mut resolver = ResolverProcess { helper, question: 0, deadline: now };
            if !resolver.ask(&self.questions, &mut self.asked, now + self.patience.each) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.resolvers.push(resolver);
        }
        Ok(())
    }

    /// The descriptors to poll for reading.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.resolvers.iter().map(|resolver| resolver.helper.descriptor())
    }

    /// When to call [`Asking::read`] at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.resolvers.iter().map(|resolver| resolver.deadline).fold(self.deadline, Instant::min)
    }

    /// The answers in the order of the questions, once all are known; none is [`ResolverAnswer::Failed`].
    /// On failure: the names that are known to have no answer when the time is over.
    pub(crate) fn read(
        &mut self,
        now: Instant,
    ) -> Option<Result<Vec<ResolverAnswer>, Vec<Unresolved>>> {
        let Asking { questions, outcomes, asked, patience, .. } = self;
        let mut is_last = false;
        self.resolvers.retain_mut(|resolver| {
            loop {
                let Some((outcome, state)) = resolver.hear(questions, *patience, now) else {
                    return true;
                };
                is_last |= state == ResolverState::Unfit;
                if let Some(open) = outcomes.get_mut(resolver.question) {
                    *open = Some(outcome);
                }
                if state != ResolverState::Idle
                    || !resolver.ask(questions, asked, now + patience.each)
                {
                    return false;
                }
            }
        });
        // A new child replaces one that had to end, for the names that are left.
        let hired = if is_last { Ok(()) } else { self.spawn(now) };
        let reason = match hired {
            _ if is_last => None,
            Err(error) if self.resolvers.is_empty() => Some(format!("not asked: {}", why(&error))),
            _ if now >= self.deadline => {
                Some(format!("not within {} s", self.patience.all(self.questions.len()).as_secs()))
            }
            _ if self.outcomes.iter().all(Option::is_some) => None,
            _ => return None,
        };
        self.resolvers.clear();
        Some(self.outcome(reason.as_deref()))
    }

    /// All answers, or all names without one. Names whose outcome is unknown get the reason
    /// `missing`, or are left out.
    fn outcome(&mut self, missing: Option<&str>) -> Result<Vec<ResolverAnswer>, Vec<Unresolved>> {
        let (mut answers, mut unresolved) = (Vec::new(), Vec::new());
        for (question, outcome) in self.questions.iter().zip(std::mem::take(&mut self.outcomes)) {
            let reason = match (outcome, missing) {
                (Some(Ok(answer)), _) => {
                    answers.push(answer);
                    continue;
                }
                (Some(Err(reason)), _) => reason,
                (None, Some(reason)) => reason.into(),
                (None, None) => continue,
            };
            unresolved.push(Unresolved { question: question.clone(), reason });
        }
        if unresolved.is_empty() && answers.len() == self.questions.len() {
            Ok(answers)
        } else {
            Err(unresolved)
        }
    }

    /// Whether this reaped child was one of the resolvers.
    pub(crate) fn reaped(&mut self, child: Pid) -> bool {
        self.resolvers.iter_mut().any(|resolver| resolver.helper.reaped(child))
    }

    /// Kills and reaps the children.
    pub(crate) fn end(self) {
        self.resolvers.into_iter().for_each(|resolver| resolver.helper.end());
    }
}

/// The state of a child after an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ResolverState {
    /// Ready for the next question.
    Idle,
    /// Unusable: the child has ended or does not answer.
    Gone,
    /// Unusable, like any other child would be: children cannot be confined.
    Unfit,
}

impl ResolverProcess {
    /// Sends the next question. Returns false if there is none, or if it cannot be sent.
    fn ask(&mut self, questions: &[Question], asked: &mut usize, deadline: Instant) -> bool {
        let Some(question) = questions.get(*asked) else { return false };
        if !self.helper.ask(question) {
            return false;
        }
        (self.question, self.deadline) = (*asked, deadline);
        *asked += 1;
        true
    }

    /// Receives the outcome of the question, once it is known.
    fn hear(
        &self,
        questions: &[Question],
        patience: ResolvePatience,
        now: Instant,
    ) -> Option<(Result<ResolverAnswer, String>, ResolverState)> {
        let question = questions.get(self.question)?;
        Some(match self.helper.receive() {
            Ok(Received::Message(answer, _)) => match question.check(answer) {
                Ok(answer) => (Ok(answer), ResolverState::Idle),
                Err(RefusedAnswer { reason, is_last }) => (
                    Err(reason.into()),
                    if is_last { ResolverState::Unfit } else { ResolverState::Idle },
                ),
            },
            Ok(Received::Empty) if now < self.deadline => return None,
            Ok(Received::Empty) => (
                Err(format!("no answer within {} s", patience.each.as_secs())),
                ResolverState::Gone,
            ),
            Ok(Received::Closed) | Err(_) => {
                (Err("the resolver ended without an answer".into()), ResolverState::Gone)
            }
        })
    }
}

impl Question {
    fn word(&self) -> &str {
        match self {
            Question::Host(name) | Question::TcpService(name) | Question::UdpService(name) => name,
        }
    }

    /// Accepts an answer only if its type fits the question.
    fn check(&self, answer: ResolverAnswer) -> Result<ResolverAnswer, RefusedAnswer> {
        let reason = match (self, answer) {
            (Question::Host(_), ResolverAnswer::Host(found))
                if (1..=MOST_ADDRESSES).contains(&found.len()) =>
            {
                return Ok(ResolverAnswer::Host(found));
            }
            (
                Question::TcpService(_) | Question::UdpService(_),
                answer @ ResolverAnswer::Service(1..),
            ) => {
                return Ok(answer);
            }
            (Question::Host(name), ResolverAnswer::Failed(ResolveFailure::Unknown))
                if name.contains('%') =>
            {
                "no such interface"
            }
            (Question::Host(_), ResolverAnswer::Failed(ResolveFailure::Unknown)) => "no such host",
            (Question::TcpService(_), ResolverAnswer::Failed(ResolveFailure::Unknown)) => {
                "no such service (tcp)"
            }
            (Question::UdpService(_), ResolverAnswer::Failed(ResolveFailure::Unknown)) => {
                "no such service (udp or tcp)"
            }
            (_, ResolverAnswer::Failed(ResolveFailure::Unavailable)) => {
                "the name server does not answer"
            }
            (_, ResolverAnswer::Failed(ResolveFailure::Confinement)) => {
                return Err(RefusedAnswer {
                    reason: "the resolver process could not be confined",
                    is_last: true,
                });
            }
            (
                _,
                ResolverAnswer::Failed(ResolveFailure::Resolver)
                | ResolverAnswer::Host(_)
                | ResolverAnswer::Service(_),
            ) => "the resolver failed",
        };
        Err(RefusedAnswer { reason, is_last: false })
    }
}

/// The reason why a name has no answer, and whether the child can go on.
#[derive(Debug, Eq, PartialEq)]
struct RefusedAnswer {
    reason: &'static str,
    is_last: bool,
}

// The code from here on runs in the child.

/// Answers questions until the supervisor closes the channel.
fn serve(jail: &Jail, supervisor: Pid, channel: &ToSupervisor) -> i32 {
    if confine(jail, supervisor, channel).is_err() {
        let _ = channel.send(&ResolverAnswer::Failed(ResolveFailure::Confinement), None);
        return 1;
    }
    loop {
        let told = match channel.receive() {
            Ok(Received::Message(question, _)) => {
                say(channel, &answer(&question).unwrap_or_else(ResolverAnswer::Failed))
            }
            Ok(Received::Empty) => {
                let _ =
                    poll(&mut [PollFd::new(channel.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
                true
            }
            Ok(Received::Closed) | Err(_) => false,
        };
        if !told {
            return 0;
        }
    }
}

fn confine(jail: &Jail, supervisor: Pid, channel: &ToSupervisor) -> io::Result<()> {
    signals::settle_child()?;
    jail.enter(ProcessKind::Resolver, supervisor, &[channel.as_fd()]).map_err(io::Error::other)
}

/// Sends an answer. The child has nothing else to do, so it may wait for room in the channel.
fn say(channel: &ToSupervisor, answer: &ResolverAnswer) -> bool {
    loop {
        match channel.send(answer, None) {
            Ok(Sent::Queued) => return true,
            Ok(Sent::Full) => {
                let _ = poll(
                    &mut [PollFd::new(channel.as_fd(), PollFlags::POLLOUT)],
                    PollTimeout::NONE,
                );
            }
            Err(_) => return false,
        }
    }
}

fn answer(question: &Question) -> Result<ResolverAnswer, ResolveFailure> {
    match (question, look_up(question)) {
        // Many services databases list a service for TCP only, although its number is registered
        // for both protocols.
        (Question::UdpService(name), Err(ResolveFailure::Unknown)) => {
            look_up(&Question::TcpService(name.clone()))
        }
        (_, answer) => answer,
    }
}

fn look_up(question: &Question) -> Result<ResolverAnswer, ResolveFailure> {
    // Without AI_ADDRCONFIG: the address families of this machine's interfaces do not matter.
    let hints = |socktype| AddrInfoHints { socktype, ..AddrInfoHints::default() };
    let (host, service, socktype) = match question {
        Question::Host(name) => (Some(name.as_str()), None, libc::SOCK_STREAM),
        Question::TcpService(name) => (None, Some(name.as_str()), libc::SOCK_STREAM),
        Question::UdpService(name) => (None, Some(name.as_str()), libc::SOCK_DGRAM),
    };
    let mut found = Vec::new();
    for each in getaddrinfo(host, service, Some(hints(socktype))).map_err(failure)? {
        let address = each.map_err(|_| ResolveFailure::Resolver)?.sockaddr;
        if !found.contains(&address) && found.len() < MOST_ADDRESSES {
            found.push(address);
        }
    }
    let first = found.first().ok_or(ResolveFailure::Unknown)?;
    Ok(match question {
        Question::TcpService(_) | Question::UdpService(_) => ResolverAnswer::Service(first.port()),
        Question::Host(_) => {
            ResolverAnswer::Host(found.into_iter().map(HostAddress::from).collect())
        }
    })
}

fn failure(error: LookupError) -> ResolveFailure {
    match error.kind() {
        LookupErrorKind::NoName | LookupErrorKind::NoData | LookupErrorKind::Service => {
            ResolveFailure::Unknown
        }
        LookupErrorKind::Again => ResolveFailure::Unavailable,
        _ => ResolveFailure::Resolver,
    }
}

/// Most names that are looked up at the same time.
const MOST_AT_ONCE: usize = 16;

/// Most turns to wait for: four times the time limit of one name.
const MOST_TURNS: usize = 4;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn names_of_the_local_databases_are_found() {
        let localhost = answer(&Question::Host("localhost".into())).unwrap();
        assert!(
            matches!(localhost, ResolverAnswer::Host(found) if !found.is_empty() && found.iter().all(|one| one.ip.is_loopback()))
        );
        let Ok(ResolverAnswer::Host(zoned)) = answer(&Question::Host("fe80::1%lo".into())) else {
            panic!("lo is everywhere")
        };
        assert_eq!(zoned, [HostAddress { ip: "fe80::1".parse().unwrap(), scope: 1 }]);
        assert_eq!(
            answer(&Question::Host("fe80::1%no-such-one".into())),
            Err(ResolveFailure::Unknown)
        );
        assert_eq!(answer(&Question::TcpService("0".into())), Ok(ResolverAnswer::Service(0)));
        assert_eq!(
            answer(&Question::TcpService("no-such-service".into())),
            Err(ResolveFailure::Unknown)
        );
    }

    #[test]
    fn an_answer_must_fit_its_question() {
        let (host, service) = (Question::Host("www1".into()), Question::TcpService("http".into()));
        let ip = ResolverAnswer::Host(vec![localhost()]);
        assert!(host.check(ResolverAnswer::Host(Vec::new())).is_err());
        assert!(host.check(ResolverAnswer::Host(vec![localhost(); MOST_ADDRESSES + 1])).is_err());
        assert_eq!(host.check(ip.clone()).unwrap(), ip);
        assert!(host.check(ResolverAnswer::Service(80)).is_err());
        assert!(service.check(ResolverAnswer::Service(0)).is_err());
        assert!(service.check(ip).is_err());
        let unknown = host.check(ResolverAnswer::Failed(ResolveFailure::Unknown)).unwrap_err();
        assert_eq!(unknown, RefusedAnswer { reason: "no such host", is_last: false });
        assert!(
            host.check(ResolverAnswer::Failed(ResolveFailure::Confinement)).unwrap_err().is_last
        );
    }

    fn localhost() -> HostAddress {
        IpAddr::from([127, 0, 0, 1]).into()
    }

    /// Lookups with children that each send these answers and end.
    fn asked(questions: &[&str], said: &[&[ResolverAnswer]]) -> Asking {
        let now = Instant::now();
        let resolvers = said.iter().enumerate().map(|(question, said)| {
            let (channel, child): (Channel<Question, ResolverAnswer>, ToSupervisor) =
                Channel::pair().unwrap();
            said.iter().for_each(|answer| assert!(say(&child, answer)));
            ResolverProcess { helper: Helper::without_child(channel), question, deadline: now }
        });
        let identity = crate::jail::user::Identity {
            uid: nix::unistd::getuid(),
            gid: nix::unistd::getgid(),
            groups: Vec::new(),
        };
        Asking {
            questions: questions.iter().map(|name| Question::Host((*name).into())).collect(),
            outcomes: vec![None; questions.len()],
            asked: questions.len(),
            resolvers: resolvers.collect(),
            jail: Jail { root: None, identity, sandbox: crate::jail::sandbox::Sandbox::none() },
            patience: ResolvePatience { each: Duration::ZERO },
            deadline: now,
        }
    }

    #[test]
    fn every_name_without_an_answer_is_told() {
        let (found, unknown) = (
            ResolverAnswer::Host(vec![localhost()]),
            ResolverAnswer::Failed(ResolveFailure::Unknown),
        );
        let read = |mut asking: Asking| asking.read(Instant::now()).unwrap();
        let words = |unresolved: Vec<Unresolved>| {
            unresolved.iter().map(Unresolved::to_string).collect::<Vec<_>>()
        };
        let said: [&[ResolverAnswer]; 3] = [
            std::slice::from_ref(&unknown),
            std::slice::from_ref(&found),
            std::slice::from_ref(&unknown),
        ];
        let all = words(read(asked(&["a", "b", "c"], &said)).unwrap_err());
        assert_eq!(all, ["cannot resolve a: no such host", "cannot resolve c: no such host"]);
        let ended = words(read(asked(&["a", "b"], &[said[0], &[]])).unwrap_err());
        assert_eq!(
            ended,
            [
                "cannot resolve a: no such host",
                "cannot resolve b: the resolver ended without an answer"
            ]
        );
        let unconfined = words(
            read(asked(&["a", "b"], &[&[ResolverAnswer::Failed(ResolveFailure::Confinement)]]))
                .unwrap_err(),
        );
        assert_eq!(unconfined, ["cannot resolve a: the resolver process could not be confined"]);
        assert_eq!(read(asked(&["a"], &[std::slice::from_ref(&found)])), Ok(vec![found]));
    }

    #[test]
    fn many_names_have_more_time_but_not_for_ever() {
        let all = |names| ResolvePatience { each: Duration::from_secs(30) }.all(names).as_secs();
        assert_eq!([1, 16, 17, 64, 65, 4096].map(all), [30, 30, 60, 120, 120, 120]);
    }
}
