//! The channel to the supervisor. Results wait in it until there is room: of each server only the
//! latest, which has the whole verdict.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pen_ipc::channel::{Channel, ChannelError, Received, Sent};
use pen_ipc::checks::CheckResult;
use pen_ipc::message::{FromChecker, RESULTS_PER_MESSAGE, ToChecker};

/// How long a result that changes nothing may wait for others.
const GATHER: Duration = Duration::from_millis(50);

/// How long to wait before a message is sent again that the supervisor's queue had no room for.
const RETRY: Duration = Duration::from_millis(20);

/// This end of the channel, with everything that waits to be sent.
#[derive(Debug)]
pub(super) struct SupervisorLink {
    channel: Channel<FromChecker, ToChecker>,
    results: BTreeMap<i32, CheckResult>,
    /// When the results are sent; none if there are none.
    flush: Option<Instant>,
    /// The newest generation of settings in force, until the supervisor was told.
    applied: Option<u64>,
    /// The last ping without an answer.
    pong: Option<u32>,
}

/// Whether a result has to be known at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Haste {
    /// It does.
    AtOnce,
    /// It can wait a little.
    Soon,
}

impl SupervisorLink {
    /// The link over a channel whose start messages are done.
    pub(super) fn new(channel: Channel<FromChecker, ToChecker>) -> SupervisorLink {
        SupervisorLink { channel, results: BTreeMap::new(), flush: None, applied: None, pong: None }
    }

    /// The next message of the supervisor.
    ///
    /// # Errors
    /// The bytes are not a message: this process must leave.
    pub(super) fn receive(&self) -> Result<Received<ToChecker>, ChannelError> {
        self.channel.receive()
    }

    /// Queues a result.
    pub(super) fn result(&mut self, result: CheckResult, haste: Haste, now: Instant) {
        let at = match haste {
            Haste::AtOnce => now,
            Haste::Soon => now + GATHER,
        };
        self.flush = Some(self.flush.map_or(at, |flush| flush.min(at)));
        self.results.insert(result.server, result);
    }

    /// Queues the message that settings are in force.
    pub(super) fn applied(&mut self, generation: u64) {
        self.applied = Some(generation);
    }

    /// Queues the answer to a ping.
    pub(super) fn pong(&mut self, serial: u32) {
        self.pong = Some(serial);
    }

    /// When to send.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let waits = self.applied.is_some() || self.pong.is_some();
        // What is overdue found no room.
        let flush = self.flush.map(|flush| if flush <= now { now + RETRY } else { flush });
        flush.into_iter().chain(waits.then(|| now + RETRY)).min()
    }

    /// Sends what is due, as far as the channel has room.
    ///
    /// # Errors
    /// The supervisor has gone.
    pub(super) fn send_due(&mut self, now: Instant) -> Result<(), ChannelError> {
        if self.flush.is_some_and(|flush| flush <= now) {
            while !self.results.is_empty() {
                let some: Vec<CheckResult> =
                    self.results.values().take(RESULTS_PER_MESSAGE).cloned().collect();
                let servers: Vec<i32> = some.iter().map(|result| result.server).collect();
                if self.channel.send(&FromChecker::Results(some), None)? == Sent::Full {
                    break;
                }
                servers.iter().for_each(|server| drop(self.results.remove(server)));
            }
            if self.results.is_empty() {
                self.flush = None;
            }
        }
        if let Some(generation) = self.applied
            && self.channel.send(&FromChecker::Applied { generation }, None)? == Sent::Queued
        {
            self.applied = None;
        }
        if let Some(serial) = self.pong
            && self.channel.send(&FromChecker::Pong { serial }, None)? == Sent::Queued
        {
            self.pong = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pen_ipc::checks::{CheckState, Verdict};

    use super::*;

    fn result(server: i32, state: CheckState) -> CheckResult {
        let verdict = Verdict { state, streak: 0 };
        CheckResult { server, generation: 1, began: 1, micros: 1, verdict, fault: None }
    }

    #[test]
    fn the_latest_of_each_server_comes_when_it_is_due() {
        let (own, supervisor) = Channel::<FromChecker, ToChecker>::pair().unwrap();
        let (mut link, now) = (SupervisorLink::new(own), Instant::now());
        link.result(result(1, CheckState::Up), Haste::Soon, now);
        link.send_due(now).unwrap();
        assert!(matches!(supervisor.receive(), Ok(Received::Empty)));
        assert_eq!(link.due(now), Some(now + GATHER));
        link.result(result(2, CheckState::Up), Haste::Soon, now);
        link.result(result(1, CheckState::Down), Haste::AtOnce, now);
        link.applied(3);
        link.send_due(now).unwrap();
        let expected = [result(1, CheckState::Down), result(2, CheckState::Up)];
        match supervisor.receive() {
            Ok(Received::Message(FromChecker::Results(results), None)) => {
                assert_eq!(results, expected);
            }
            other => panic!("{other:?}"),
        }
        let applied = supervisor.receive();
        assert!(matches!(
            applied,
            Ok(Received::Message(FromChecker::Applied { generation: 3 }, None))
        ));
        assert_eq!(link.due(now), None);
    }

    #[test]
    fn no_server_is_lost_while_the_supervisor_does_not_read() {
        let (own, supervisor) = Channel::<FromChecker, ToChecker>::pair().unwrap();
        let (mut link, now) = (SupervisorLink::new(own), Instant::now());
        // More than any queue holds.
        for round in 0..100 {
            let state = if round == 99 { CheckState::Down } else { CheckState::Up };
            for server in 0..1000 {
                link.result(result(server, state), Haste::AtOnce, now);
            }
            link.send_due(now).unwrap();
        }
        assert!(link.due(now).is_some(), "the queue is full");
        let mut last = BTreeMap::new();
        loop {
            match supervisor.receive().unwrap() {
                Received::Message(FromChecker::Results(results), _) => {
                    assert!(results.len() <= RESULTS_PER_MESSAGE);
                    last.extend(results.iter().map(|result| (result.server, result.verdict.state)));
                }
                Received::Empty if link.due(now).is_some() => link.send_due(now).unwrap(),
                Received::Empty => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(last.len(), 1000);
        assert!(last.values().all(|state| *state == CheckState::Down));
    }
}
