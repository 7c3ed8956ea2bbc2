//! The channel to the supervisor. Operators' commands wait here in order while the channel is full.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use pen_config::command::Command;
use pen_config::ids::ClientKey;
use pen_ipc::channel::{Channel, ChannelError, Received, Sent};
use pen_ipc::message::{FromControl, Operator, ToControl};

/// Least time between two messages about refused operators: anyone who can reach the port can cause
/// them.
const REFUSED_EVERY: Duration = Duration::from_secs(1);

/// This end of the channel, with everything that waits to be sent.
#[derive(Debug)]
pub struct SupervisorLink {
    channel: Channel<FromControl, ToControl>,
    /// At most one per operator.
    commands: VecDeque<QueuedRequest>,
    /// The newest generation of settings in force, until the supervisor was told.
    applied: Option<u64>,
    /// The last ping without an answer.
    pong: Option<u32>,
    refused_at: Option<Instant>,
    /// Which events are wanted from now on, until the supervisor was told.
    watching: Option<Option<u64>>,
}

/// A command that waits to be sent.
#[derive(Debug)]
struct QueuedRequest {
    ticket: u64,
    by: Operator,
    command: Command,
    file: Option<OwnedFd>,
}

impl SupervisorLink {
    /// The link over a channel whose start messages are done.
    pub fn new(channel: Channel<FromControl, ToControl>) -> SupervisorLink {
        SupervisorLink {
            channel,
            commands: VecDeque::new(),
            applied: None,
            pong: None,
            refused_at: None,
            watching: None,
        }
    }

    /// The next message of the supervisor.
    ///
    /// # Errors
    /// The bytes are not a message: this process must leave.
    pub fn receive(&self) -> Result<Received<ToControl>, ChannelError> {
        self.channel.receive()
    }

    /// Queues a command with the file that it names.
    pub fn queue(&mut self, ticket: u64, by: Operator, command: Command, file: Option<OwnedFd>) {
        self.commands.push_back(QueuedRequest { ticket, by, command, file });
    }

    /// Queues the message that settings are in force.
    pub fn applied(&mut self, generation: u64) {
        self.applied = Some(generation);
    }

    /// Queues the answer to a ping.
    pub fn pong(&mut self, serial: u32) {
        self.pong = Some(serial);
    }

    /// Queues the message which events are wanted from now on.
    pub fn watching(&mut self, from: Option<u64>) {
        self.watching = Some(from);
    }

    /// Reports a refused operator, at a limited rate and only if the channel has room.
    pub fn refused(&mut self, operator: ClientKey, now: Instant) {
        if self.refused_at.is_none_or(|last| now >= last + REFUSED_EVERY) {
            self.refused_at = Some(now);
            // That the supervisor has gone is noticed where the channel is read.
            let _ = self.channel.send(&FromControl::Refused { client: operator.bytes() }, None);
        }
    }

    /// Whether something waits to be sent.
    pub fn has_queued(&self) -> bool {
        !self.commands.is_empty()
            || self.applied.is_some()
            || self.pong.is_some()
            || self.watching.is_some()
    }

    /// Sends what waits, as far as the channel has room. A command is dropped if `there` says that
    /// its operator has left.
    ///
    /// # Errors
    /// The supervisor has gone.
    pub fn send_queued(&mut self, there: impl Fn(u64) -> bool) -> Result<(), ChannelError> {
        self.commands.retain(|asked| there(asked.ticket));
        if let Some(generation) = self.applied {
            match self.channel.send(&FromControl::Applied { generation }, None)? {
                Sent::Queued => self.applied = None,
                Sent::Full => return Ok(()),
            }
        }
        if let Some(serial) = self.pong {
            match self.channel.send(&FromControl::Pong { serial }, None)? {
                Sent::Queued => self.pong = None,
                Sent::Full => return Ok(()),
            }
        }
        if let Some(from) = self.watching {
            match self.channel.send(&FromControl::Watching { from }, None)? {
                Sent::Queued => self.watching = None,
                Sent::Full => return Ok(()),
            }
        }
        while let Some(QueuedRequest { ticket, by, command, file }) = self.commands.pop_front() {
            let with_file = file.is_some();
            let message = FromControl::Command { ticket, command, by, with_file };
            match self.channel.send(&message, file.as_ref().map(AsFd::as_fd))? {
                Sent::Queued => {}
                Sent::Full => {
                    if let FromControl::Command { ticket, command, .. } = message {
                        self.commands.push_front(QueuedRequest { ticket, by, command, file });
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use pen_config::command::{Action, Query};

    use super::*;

    const NOBODY: Operator = Operator::Local(None);

    fn link() -> (SupervisorLink, Channel<ToControl, FromControl>) {
        let (ours, theirs) = Channel::pair().unwrap();
        (SupervisorLink::new(ours), theirs)
    }

    #[test]
    fn commands_wait_in_order_for_a_supervisor_that_takes_none() {
        let (mut link, theirs) = link();
        let mut asked = 0;
        while !link.has_queued() {
            link.queue(asked, NOBODY, Command::Query(Query::Pid), None);
            asked += 1;
            link.send_queued(|_| true).unwrap();
        }
        // The last command waits; one more whose operator leaves is never sent.
        let file = std::fs::File::open("/dev/null").unwrap();
        link.queue(asked, NOBODY, Command::Action(Action::Include("x".into())), Some(file.into()));
        link.queue(asked + 1, NOBODY, Command::Action(Action::Exit), None);
        let mut seen = Vec::new();
        loop {
            link.send_queued(|ticket| ticket != asked + 1).unwrap();
            match theirs.receive().unwrap() {
                Received::Message(FromControl::Command { ticket, with_file, .. }, file) => {
                    assert_eq!((with_file, file.is_some()), (ticket == asked, ticket == asked));
                    seen.push(ticket);
                }
                Received::Empty => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, (0..=asked).collect::<Vec<u64>>());
    }

    #[test]
    fn refusals_come_once_a_second() {
        let (mut link, theirs) = link();
        let (start, peer) = (Instant::now(), ClientKey::from_ip("127.0.0.9".parse().unwrap()));
        for after in [0, 1, 999, 1000, 1001] {
            link.refused(peer, start + Duration::from_millis(after));
        }
        for _ in 0..2 {
            let Received::Message(FromControl::Refused { client }, None) =
                theirs.receive().unwrap()
            else {
                panic!()
            };
            assert_eq!(client, peer.bytes());
        }
        assert!(matches!(theirs.receive().unwrap(), Received::Empty));
    }

    #[test]
    fn a_supervisor_that_is_gone_is_an_error() {
        let (mut link, theirs) = link();
        drop(theirs);
        link.applied(7);
        assert!(link.send_queued(|_| true).is_err());
    }
}
