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

mod child;
mod question;
mod srv;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use pen_config::followed::{MOST_RECORDS, NameRecord};
use pen_ipc::text::error_text;

use crate::StartError;
use crate::helpers::helper;
use crate::helpers::helper::{Helper, HelperFailure};
use crate::helpers::resolve::question::RefusedAnswer;
pub(crate) use crate::helpers::resolve::question::{Question, ResolverAnswer, Unresolved};
use crate::jail::Jail;
use crate::launch::interrupt::Interrupts;
use crate::processes::child::Child;

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

/// What became of a question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Answered {
    /// The answer; never [`ResolverAnswer::Failed`].
    Found(ResolverAnswer),
    /// There is no answer, for this reason.
    Failed(String),
    /// The time for all questions was over before there was an answer.
    NotReached,
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
    let asking = Asking::begin(questions, jail, patience);
    let mut asking = asking.map_err(|unasked| StartError(unasked.to_string()))?;
    let answers = loop {
        if let Some(answers) = asking.read(Instant::now()) {
            break answers;
        }
        if let Err(error) = helper::wait(asking.descriptors(), asking.deadline(), interrupts) {
            asking.end();
            return Err(error.into());
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
    outcomes: Vec<Option<Answered>>,
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
    helper: Helper<ResolverAnswer, Question>,
    question: usize,
    /// The records that it has sent in parts of its answer.
    parts: Vec<NameRecord>,
}

impl Asking {
    /// Starts the lookups. There is at least one name.
    ///
    /// # Errors
    /// No child can be forked now: the first name, and why.
    pub(crate) fn begin(
        questions: Vec<Question>,
        jail: &Jail,
        patience: ResolvePatience,
    ) -> Result<Asking, Unresolved> {
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
                let first = asking.questions.first().cloned();
                let question = first.unwrap_or(Question::Host(String::new()));
                Err(Unresolved { question, reason: error_text(&error) })
            }
            // Fewer children take longer, but are enough.
            Ok(()) | Err(_) => Ok(asking),
        }
    }

    /// Forks children while there are questions, up to the limit.
    fn spawn(&mut self, now: Instant) -> io::Result<()> {
        while self.asked < self.questions.len() && self.resolvers.len() < MOST_AT_ONCE {
            let jail = &self.jail;
            let helper = Helper::begin(jail.identity.uid, now, |channel, supervisor| {
                child::serve(jail, supervisor, channel)
            })?;
            let mut resolver = ResolverProcess { helper, question: 0, parts: Vec::new() };
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
        let each = self.resolvers.iter().map(|resolver| resolver.helper.deadline());
        each.fold(self.deadline, Instant::min)
    }

    /// The answers in the order of the questions, once all are known; none is
    /// [`ResolverAnswer::Failed`]. On failure: the names that are known to have no answer when the
    /// time is over.
    pub(crate) fn read(
        &mut self,
        now: Instant,
    ) -> Option<Result<Vec<ResolverAnswer>, Vec<Unresolved>>> {
        let all = self.patience.all(self.questions.len());
        let (mut answers, mut unresolved) = (Vec::new(), Vec::new());
        for (question, answered) in self.each(now)? {
            let reason = match answered {
                Answered::Found(answer) => {
                    answers.push(answer);
                    continue;
                }
                // What that means is for those to say who follow the name.
                Answered::Failed(reason) if matches!(question, Question::Records(_, _)) => {
                    answers.push(ResolverAnswer::NoRecords(reason));
                    continue;
                }
                Answered::Failed(reason) => reason,
                Answered::NotReached => format!("not within {} s", all.as_secs()),
            };
            unresolved.push(Unresolved { question, reason });
        }
        Some(if unresolved.is_empty() { Ok(answers) } else { Err(unresolved) })
    }

    /// All questions in their order with what became of them, once that is known of all or the time
    /// is over.
    pub(crate) fn each(&mut self, now: Instant) -> Option<Vec<(Question, Answered)>> {
        let Asking { questions, outcomes, asked, patience, .. } = self;
        let mut unfit = None;
        self.resolvers.retain_mut(|resolver| {
            loop {
                let Some((outcome, state)) = resolver.read(questions, *patience, now) else {
                    return true;
                };
                if let (ResolverState::Unfit, Answered::Failed(reason)) = (state, &outcome) {
                    unfit = Some(reason.clone());
                }
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
        let missing = match unfit {
            Some(reason) => Answered::Failed(reason),
            // A new child replaces one that had to end, for the names that are left.
            None => match self.spawn(now) {
                Err(error) if self.resolvers.is_empty() => {
                    Answered::Failed(format!("not asked: {}", error_text(&error)))
                }
                Ok(()) | Err(_) if now >= self.deadline => Answered::NotReached,
                Ok(()) | Err(_) if self.outcomes.iter().all(Option::is_some) => {
                    Answered::NotReached
                }
                Ok(()) | Err(_) => return None,
            },
        };
        self.resolvers.clear();
        let outcomes = std::mem::take(&mut self.outcomes).into_iter();
        let outcomes = outcomes.map(|outcome| outcome.unwrap_or_else(|| missing.clone()));
        Some(std::mem::take(&mut self.questions).into_iter().zip(outcomes).collect())
    }

    /// Kills and reaps the children.
    pub(crate) fn end(self) {
        self.kill().for_each(Child::end);
    }

    /// Kills the children, and returns them.
    pub(crate) fn kill(self) -> impl Iterator<Item = Child> {
        self.resolvers.into_iter().map(|resolver| resolver.helper.kill())
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
        if !self.helper.ask(question, deadline) {
            return false;
        }
        self.question = *asked;
        self.parts.clear();
        *asked += 1;
        true
    }

    /// Whether a part of an answer can be one of a whole.
    fn has_room_for(&self, records: &[NameRecord]) -> bool {
        self.parts.len() + records.len() <= MOST_RECORDS
    }

    /// Receives the outcome of the question, once it is known.
    fn read(
        &mut self,
        questions: &[Question],
        patience: ResolvePatience,
        now: Instant,
    ) -> Option<(Answered, ResolverState)> {
        let question = questions.get(self.question)?;
        let failed = |reason: &str, state| (Answered::Failed(reason.into()), state);
        let outcome = loop {
            match self.helper.read(now)? {
                Ok((ResolverAnswer::Part(records), _)) if self.has_room_for(&records) => {
                    self.parts.extend(records);
                }
                Ok((ResolverAnswer::Records(records), _)) => {
                    self.parts.extend(records);
                    break Ok(ResolverAnswer::Records(std::mem::take(&mut self.parts)));
                }
                Ok((answer, _)) => break Ok(answer),
                Err(failure) => break Err(failure),
            }
        };
        Some(match outcome {
            Ok(answer) => match question.check(answer) {
                Ok(answer) => (Answered::Found(answer), ResolverState::Idle),
                Err(RefusedAnswer { reason, is_last: true }) => {
                    failed(reason, ResolverState::Unfit)
                }
                Err(RefusedAnswer { reason, is_last: false }) => {
                    failed(reason, ResolverState::Idle)
                }
            },
            Err(HelperFailure::Late) => {
                let reason = format!("no answer within {} s", patience.each.as_secs());
                failed(&reason, ResolverState::Gone)
            }
            Err(HelperFailure::Ended) => {
                failed("the resolver ended without an answer", ResolverState::Gone)
            }
        })
    }
}

/// Most names that are looked up at the same time.
const MOST_AT_ONCE: usize = 16;

/// Most turns to wait for: four times the time limit of one name.
const MOST_TURNS: usize = 4;

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use nix::poll::{PollFd, PollFlags, poll};
    use nix::unistd::{Gid, Uid};
    use pen_config::address::HostAddress;

    use super::*;
    use crate::helpers::resolve::question::ResolveFailure;
    use crate::jail::sandbox::Sandbox;
    use crate::jail::user::Identity;
    use crate::poll::until;

    fn localhost() -> HostAddress {
        IpAddr::from([127, 0, 0, 1]).into()
    }

    /// The result of lookups with children that each send these answers and end.
    fn result(
        questions: &[&str],
        sent: &[&[ResolverAnswer]],
    ) -> Result<Vec<ResolverAnswer>, Vec<Unresolved>> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let resolvers = sent.iter().enumerate().map(|(question, sent)| {
            let helper = Helper::begin(Uid::current(), deadline, |channel, _| {
                i32::from(!sent.iter().all(|answer| child::send(channel, answer)))
            });
            ResolverProcess { helper: helper.unwrap(), question, parts: Vec::new() }
        });
        let identity = Identity { uid: Uid::current(), gid: Gid::current(), groups: Vec::new() };
        let mut asking = Asking {
            questions: questions.iter().map(|name| Question::Host((*name).into())).collect(),
            outcomes: vec![None; questions.len()],
            asked: questions.len(),
            resolvers: resolvers.collect(),
            jail: Jail { root: None, identity, sandbox: Sandbox::none() },
            patience: ResolvePatience { each: Duration::ZERO },
            deadline,
        };
        loop {
            if let Some(result) = asking.read(Instant::now()) {
                return result;
            }
            let mut polled: Vec<_> =
                asking.descriptors().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            poll(&mut polled, until(deadline)).unwrap();
        }
    }

    #[test]
    fn every_name_without_an_answer_is_told() {
        let (found, unknown) = (
            ResolverAnswer::Host(vec![localhost()]),
            ResolverAnswer::Failed(ResolveFailure::Unknown),
        );
        let words = |unresolved: Vec<Unresolved>| {
            unresolved.iter().map(Unresolved::to_string).collect::<Vec<_>>()
        };
        let sent: [&[ResolverAnswer]; 3] = [
            std::slice::from_ref(&unknown),
            std::slice::from_ref(&found),
            std::slice::from_ref(&unknown),
        ];
        let all = words(result(&["a", "b", "c"], &sent).unwrap_err());
        assert_eq!(all, ["cannot resolve a: no such host", "cannot resolve c: no such host"]);
        let ended = words(result(&["a", "b"], &[sent[0], &[]]).unwrap_err());
        assert_eq!(
            ended,
            [
                "cannot resolve a: no such host",
                "cannot resolve b: the resolver ended without an answer"
            ]
        );
        let unconfined = words(
            result(&["a", "b"], &[&[ResolverAnswer::Failed(ResolveFailure::Confinement)]])
                .unwrap_err(),
        );
        assert_eq!(
            unconfined,
            [
                "cannot resolve a: the resolver process could not be confined",
                "cannot resolve b: the resolver process could not be confined"
            ]
        );
        assert_eq!(result(&["a"], &[std::slice::from_ref(&found)]), Ok(vec![found]));
    }

    #[test]
    fn many_names_have_more_time_but_not_for_ever() {
        let all = |names| ResolvePatience { each: Duration::from_secs(30) }.all(names).as_secs();
        assert_eq!([1, 16, 17, 64, 65, 4096].map(all), [30, 30, 60, 120, 120, 120]);
    }
}
