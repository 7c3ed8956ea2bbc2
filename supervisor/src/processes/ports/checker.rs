//! The checker as the supervisor sees it: it gets the servers to check, and sends results.
//!
//! It serves no port. Instead of one, each checker gets what is known of the servers at its start.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use pen_ipc::channel::Sent;
use pen_ipc::checks::{CheckFault, CheckResult, Seed};
use pen_ipc::message::{FromChecker, RESULTS_PER_MESSAGE, ToChecker};
use pen_ipc::start::CheckerStart;
use rustix::process::nice;

use crate::jail::sandbox::ProcessKind;
use crate::processes::peer::Peer;
use crate::processes::ports::kind::{AcceptOrder, Heard, Order, PortKind, PortStart, ProcessPort};
use crate::processes::ports::slot::Slot;
use crate::processes::spawn::SpawnContext;

/// The slot of the checker.
pub(crate) type Checker = Slot<CheckerKind>;

/// The checker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CheckerKind {}

/// What the next checker is told of the servers.
#[derive(Debug, Default)]
pub(crate) struct Seeds {
    /// What is known of the servers.
    pub(crate) servers: Vec<Seed>,
    /// The files of TLS towards servers.
    pub(crate) tls: Option<Rc<OwnedFd>>,
}

impl ProcessPort for Seeds {
    type Given = (Vec<Seed>, Option<OwnedFd>);

    fn give(&self) -> io::Result<(Vec<Seed>, Option<OwnedFd>)> {
        let tls = self.tls.as_ref().map(|files| files.try_clone()).transpose()?;
        Ok((self.servers.clone(), tls))
    }

    fn descriptor((_, tls): &(Vec<Seed>, Option<OwnedFd>)) -> Option<BorrowedFd<'_>> {
        tls.as_ref().map(AsFd::as_fd)
    }

    fn name(&self) -> &str {
        ""
    }
}

/// Files of TLS towards servers, for a checker.
#[derive(Debug)]
enum ServerFiles {
    /// These, before the settings by which they are used.
    These(Rc<OwnedFd>),
    /// None any more, after the settings that say so.
    Gone,
}

/// News of servers that the channel had no room for. At most one of each kind for each server.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Other files of TLS towards servers.
    tls: Option<ServerFiles>,
    /// Servers that fail in traffic.
    suspects: BTreeSet<i32>,
    /// Servers that have another address in use, and its position.
    addresses: BTreeMap<i32, u32>,
}

impl PortKind for CheckerKind {
    type Port = Seeds;
    type To = ToChecker;
    type From = FromChecker;
    type Request = Vec<CheckResult>;
    type Queued = News;
    type Outside = ();

    const NAME: &'static str = "the checker";
    const PORT: &'static str = "check";
    // Nobody connects to it, so nobody is refused.
    const ACL: &'static str = "check";
    const PROCESS: ProcessKind = ProcessKind::Checker;
    const TITLE: &'static str = "checker";

    fn before_jail(_: &str) {
        // Clients come before checks. If this fails, they only share.
        let _ = nice(NICE);
    }

    fn live(start: PortStart<CheckerKind>, (): (), context: &SpawnContext) -> i32 {
        let PortStart { channel, listener: (seeds, server_tls), begins } = start;
        let (settings, descriptor_limit) = (context.settings.clone(), context.descriptor_limit);
        let start = CheckerStart { channel, begins, settings, seeds, server_tls, descriptor_limit };
        (context.entries.checker)(start)
    }

    fn order(order: Order) -> ToChecker {
        match order {
            Order::Settings => ToChecker::Settings,
            Order::Accept(AcceptOrder::Begin) => ToChecker::Begin,
            Order::Accept(AcceptOrder::Pause) => ToChecker::Pause,
            Order::Stop => ToChecker::Stop,
            Order::Ping(serial) => ToChecker::Ping { serial },
        }
    }

    fn heard(message: FromChecker, _: Option<OwnedFd>) -> Heard<Vec<CheckResult>> {
        match message {
            FromChecker::Results(results) if are_proper(&results) => Heard::Request(results),
            FromChecker::Results(_) => Heard::Dishonest("it sends results that no checker has"),
            FromChecker::Applied { generation } => Heard::Applied(generation),
            FromChecker::Pong { serial } => Heard::Pong(serial),
        }
    }

    fn is_due(queued: &News) -> bool {
        queued.tls.is_some() || !queued.suspects.is_empty() || !queued.addresses.is_empty()
    }

    fn send_before_settings(queued: &mut News, peer: &Peer<ToChecker, FromChecker>) -> bool {
        if let Some(ServerFiles::These(files)) = &queued.tls {
            if peer.send(&ToChecker::ServerTls, Some(files.as_fd())) == Some(Sent::Full) {
                return false;
            }
            queued.tls = None;
        }
        true
    }

    fn send_after_settings(queued: &mut News, peer: &Peer<ToChecker, FromChecker>) {
        if let Some(ServerFiles::Gone) = queued.tls
            && peer.send(&ToChecker::NoServerTls, None) != Some(Sent::Full)
        {
            queued.tls = None;
        }
    }

    fn send(queued: &mut News, peer: &Peer<ToChecker, FromChecker>) {
        // Before the check that finds out whether it works.
        while let Some((server, position)) = queued.addresses.first_key_value() {
            let (server, position) = (*server, *position);
            if peer.send(&ToChecker::Address { server, position }, None) == Some(Sent::Full) {
                return;
            }
            queued.addresses.remove(&server);
        }
        while let Some(server) = queued.suspects.first().copied() {
            if peer.send(&ToChecker::Suspect { server }, None) == Some(Sent::Full) {
                return;
            }
            queued.suspects.remove(&server);
        }
    }
}

/// Whether a checker that works sends such results.
fn are_proper(results: &[CheckResult]) -> bool {
    (1..=RESULTS_PER_MESSAGE).contains(&results.len())
        && results.iter().all(|result| result.fault.as_ref().is_none_or(CheckFault::is_proper))
}

impl Checker {
    /// Has the checker ask a server at once, because traffic found out that it fails.
    pub(crate) fn suspect(&mut self, server: i32) {
        if let Some(queued) = self.queued_mut() {
            queued.suspects.insert(server);
        }
    }

    /// Queues other files of TLS towards servers, or that there are none. The next checker is told
    /// too.
    pub(crate) fn renew_server_tls(&mut self, files: Option<Rc<OwnedFd>>) {
        self.port_mut().tls = files.clone();
        if let Some(queued) = self.queued_mut() {
            queued.tls = Some(files.map_or(ServerFiles::Gone, ServerFiles::These));
        }
    }

    /// Tells it which address of a server is in use.
    pub(crate) fn address(&mut self, server: i32, position: u32) {
        if let Some(queued) = self.queued_mut() {
            queued.addresses.insert(server, position);
        }
    }
}

/// How much less of a busy machine it gets than the workers (nice(2)).
const NICE: i32 = 10;

#[cfg(test)]
mod tests {
    use pen_ipc::checks::{FaultClass, Verdict};

    use super::*;

    #[test]
    fn only_results_of_a_working_checker_are_heard() {
        let result = |fault| CheckResult {
            server: 1,
            generation: 1,
            began: 1,
            micros: 1,
            verdict: Verdict::default(),
            fault,
        };
        let fault = |text: &str| {
            Some(CheckFault { class: FaultClass::Other, number: 0, text: text.to_owned() })
        };
        assert!(are_proper(&vec![result(None); RESULTS_PER_MESSAGE]));
        assert!(are_proper(&[result(None), result(fault("refused"))]));
        for results in [
            vec![],
            vec![result(None); RESULTS_PER_MESSAGE + 1],
            vec![result(None), result(fault("two\nlines"))],
            vec![result(fault(""))],
        ] {
            assert!(!are_proper(&results));
        }
    }
}
