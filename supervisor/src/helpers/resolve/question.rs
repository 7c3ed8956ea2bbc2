//! What a resolver is asked, its answers, and the check that an answer fits its question.

#![forbid(unsafe_code)]

use pen_config::address::HostAddress;
use pen_config::checks::Records;
use pen_config::followed::{MOST_RECORDS, NameRecord};
use serde::{Deserialize, Serialize};

/// Most addresses in an answer. Of one server, pen uses at most
/// [`pen_config::address::MOST_ADDRESSES`]; but an address in use that is one of many must be
/// found among them. So many fit into a message.
pub(crate) const MOST_FOUND: usize = 512;

/// A name to look up.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub(crate) enum Question {
    /// The address of a host.
    Host(String),
    /// The port of a service over TCP.
    TcpService(String),
    /// The port of a service over UDP.
    UdpService(String),
    /// All records of a name.
    Records(String, Records),
}

/// The answer of a child.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) enum ResolverAnswer {
    /// The addresses of a host, in the order in which to try them: at least one, at most
    /// [`MOST_FOUND`].
    Host(Vec<HostAddress>),
    /// A port.
    Service(u16),
    /// Some records of a name. More follow, because they do not fit into one message.
    Part(Vec<NameRecord>),
    /// The records of a name, or those that were in no part: with the parts at least one, and at
    /// most [`MOST_RECORDS`].
    Records(Vec<NameRecord>),
    /// Why a name that servers follow has no records now. Only the supervisor makes it.
    NoRecords(String),
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

/// A name without an answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("cannot resolve {}: {reason}", .question.word())]
pub(crate) struct Unresolved {
    /// The name.
    pub(crate) question: Question,
    /// Why.
    pub(crate) reason: String,
}

#[cfg(test)]
impl Unresolved {
    /// A name that does not exist.
    pub(crate) fn unknown(question: Question) -> Unresolved {
        Unresolved { question, reason: "unknown".into() }
    }
}

impl Question {
    /// The name.
    pub(crate) fn word(&self) -> &str {
        match self {
            Question::Host(name)
            | Question::TcpService(name)
            | Question::UdpService(name)
            | Question::Records(name, _) => name,
        }
    }

    /// Accepts an answer only if its type fits the question.
    pub(super) fn check(&self, answer: ResolverAnswer) -> Result<ResolverAnswer, RefusedAnswer> {
        let reason = match (self, answer) {
            (Question::Host(_), ResolverAnswer::Host(found))
                if (1..=MOST_FOUND).contains(&found.len()) =>
            {
                return Ok(ResolverAnswer::Host(found));
            }
            (
                Question::TcpService(_) | Question::UdpService(_),
                answer @ ResolverAnswer::Service(1..),
            ) => {
                return Ok(answer);
            }
            (Question::Records(_, records), ResolverAnswer::Records(found))
                if (1..=MOST_RECORDS).contains(&found.len())
                    && found
                        .iter()
                        .all(|record| record.service.is_some() == (*records == Records::Srv)) =>
            {
                return Ok(ResolverAnswer::Records(found));
            }
            (Question::Host(name), ResolverAnswer::Failed(ResolveFailure::Unknown))
                if name.contains('%') =>
            {
                "no such interface"
            }
            (
                Question::Host(_) | Question::Records(_, Records::Addresses),
                ResolverAnswer::Failed(ResolveFailure::Unknown),
            ) => "no such host",
            (
                Question::Records(_, Records::Srv),
                ResolverAnswer::Failed(ResolveFailure::Unknown),
            ) => "no such service (srv)",
            // Services have no dot: a host without its port was meant, or a socket.
            (Question::TcpService(name), ResolverAnswer::Failed(ResolveFailure::Unknown))
                if name.contains('.') =>
            {
                "no such service (tcp); a host needs a port, and a Unix socket a path with '/'"
            }
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
                | ResolverAnswer::Service(_)
                | ResolverAnswer::Part(_)
                | ResolverAnswer::Records(_)
                | ResolverAnswer::NoRecords(_),
            ) => "the resolver failed",
        };
        Err(RefusedAnswer { reason, is_last: false })
    }
}

/// The reason why a name has no answer, and whether the child can go on.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct RefusedAnswer {
    pub(super) reason: &'static str,
    pub(super) is_last: bool,
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use pen_config::followed::SrvFields;

    use super::*;

    #[test]
    fn an_answer_must_fit_its_question() {
        let (host, service) = (Question::Host("www1".into()), Question::TcpService("http".into()));
        let ip = ResolverAnswer::Host(vec![localhost()]);
        assert!(host.check(ResolverAnswer::Host(Vec::new())).is_err());
        assert!(host.check(ResolverAnswer::Host(vec![localhost(); MOST_FOUND + 1])).is_err());
        assert_eq!(host.check(ip.clone()).unwrap(), ip);
        assert!(host.check(ResolverAnswer::Service(80)).is_err());
        assert!(service.check(ResolverAnswer::Service(0)).is_err());
        assert!(service.check(ip).is_err());
        let unknown = host.check(ResolverAnswer::Failed(ResolveFailure::Unknown)).unwrap_err();
        assert_eq!(unknown, RefusedAnswer { reason: "no such host", is_last: false });
        let reason = |word: &str| {
            let failed = ResolverAnswer::Failed(ResolveFailure::Unknown);
            Question::TcpService(word.into()).check(failed).unwrap_err().reason
        };
        assert_eq!(reason("http"), "no such service (tcp)");
        assert!(reason("pen.sock").contains("; a host needs a port, and a Unix socket"));
        assert!(
            host.check(ResolverAnswer::Failed(ResolveFailure::Confinement)).unwrap_err().is_last
        );
        let plain = NameRecord { address: localhost(), service: None };
        let srv = SrvFields { port: 80, weight: 1, priority: 0 };
        let srv = NameRecord { service: Some(srv), ..plain };
        let records = |records, found: Vec<NameRecord>| {
            let question = Question::Records("www1".into(), records);
            question.check(ResolverAnswer::Records(found)).is_ok()
        };
        assert!(records(Records::Addresses, vec![plain; MOST_RECORDS]));
        assert!(!records(Records::Addresses, vec![plain; MOST_RECORDS + 1]));
        assert!(!records(Records::Addresses, Vec::new()));
        assert!(!records(Records::Addresses, vec![plain, srv]));
        assert!(!records(Records::Srv, vec![plain, srv]) && records(Records::Srv, vec![srv]));
        assert!(host.check(ResolverAnswer::Records(vec![plain])).is_err());
        assert!(host.check(ResolverAnswer::Part(vec![plain])).is_err());
    }

    fn localhost() -> HostAddress {
        IpAddr::from([127, 0, 0, 1]).into()
    }
}
