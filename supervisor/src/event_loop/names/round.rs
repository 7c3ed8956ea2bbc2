//! A round of lookups under way, and its answers until they are put in force.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use pen_config::address::HostAddress;
use pen_config::names::Names;

use crate::helpers::resolve::{
    Answered, Asking, Question, ResolvePatience, ResolverAnswer, Unresolved,
};
use crate::jail::Jail;

/// A round of lookups. The drop kills its children.
#[derive(Debug)]
pub(in crate::event_loop) struct Round {
    pub(in crate::event_loop::names) asking: Asking,
    pub(in crate::event_loop::names) began: Instant,
    /// Names that a command or the file has looked up since then: those answers are newer.
    superseded: BTreeSet<Question>,
}

/// The answers of a round.
#[derive(Debug, Default)]
pub(in crate::event_loop) struct Answers {
    names: Names,
}

impl Round {
    /// Begins a round. There is at least one question.
    ///
    /// # Errors
    /// No child can be forked now: the reason.
    pub(in crate::event_loop::names) fn begin(
        questions: Vec<Question>,
        resolver: &Jail,
        now: Instant,
    ) -> Result<Round, String> {
        let asking = Asking::begin(questions, resolver, PATIENCE);
        let asking = asking.map_err(|Unresolved { reason, .. }| reason)?;
        Ok(Round { asking, began: now, superseded: BTreeSet::new() })
    }

    /// Leaves out the answers for these names.
    pub(in crate::event_loop::names) fn supersede(&mut self, names: &Names) {
        let hosts = names.hosts.keys().map(|name| Question::Host(name.clone()));
        let records = names.records.keys();
        let records = records.map(|(name, records)| Question::Records(name.clone(), *records));
        self.superseded.extend(hosts.chain(records));
    }

    /// What became of the questions, once the round is over, without what is known better by now.
    pub(in crate::event_loop::names) fn read(
        &mut self,
        now: Instant,
    ) -> Option<Vec<(Question, Answered)>> {
        let mut outcomes = self.asking.each(now)?;
        outcomes.retain(|(question, _)| !self.superseded.contains(question));
        Some(outcomes)
    }
}

impl Answers {
    /// Adds an answer, which fits its question.
    pub(in crate::event_loop::names) fn add(&mut self, question: Question, answer: ResolverAnswer) {
        match (question, answer) {
            (Question::Host(name), ResolverAnswer::Host(found)) => {
                self.names.hosts.insert(name, found);
            }
            (Question::TcpService(name), ResolverAnswer::Service(port)) => {
                self.names.services.insert(name, port);
            }
            (Question::Records(name, records), ResolverAnswer::Records(found)) => {
                self.names.records.insert((name, records), Ok(found));
            }
            // No server has a port by UDP.
            (
                Question::Host(_)
                | Question::TcpService(_)
                | Question::UdpService(_)
                | Question::Records(_, _),
                ResolverAnswer::Host(_)
                | ResolverAnswer::Service(_)
                | ResolverAnswer::Part(_)
                | ResolverAnswer::Records(_)
                | ResolverAnswer::NoRecords(_)
                | ResolverAnswer::Failed(_),
            ) => {}
        }
    }

    /// Whether there is none.
    pub(in crate::event_loop::names) fn is_empty(&self) -> bool {
        self.names.hosts.is_empty() && self.names.records.is_empty()
    }

    /// All answers.
    pub(in crate::event_loop::names) fn names(&self) -> &Names {
        &self.names
    }

    /// The addresses of a host.
    pub(in crate::event_loop::names) fn host(&self, name: &str) -> Option<&[HostAddress]> {
        self.names.hosts.get(name).map(Vec::as_slice)
    }

    /// Drops the answers for these names.
    pub(in crate::event_loop::names) fn supersede(&mut self, names: &Names) {
        names.hosts.keys().for_each(|name| drop(self.names.hosts.remove(name)));
        names.records.keys().for_each(|name| drop(self.names.records.remove(name)));
    }
}

/// How long a name may take.
const PATIENCE: ResolvePatience = ResolvePatience { each: Duration::from_secs(20) };
