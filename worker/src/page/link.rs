//! The channel to the supervisor.

use std::time::{Duration, Instant};

use pen_config::ids::ClientKey;
use pen_ipc::channel::{Channel, ChannelError, Received, Sent};
use pen_ipc::message::{FromPage, ToPage};

/// Least time between two messages about refused readers: anyone who can reach the port can cause
/// them.
const REFUSED_EVERY: Duration = Duration::from_secs(1);

/// This end of the channel, with everything that waits to be sent.
#[derive(Debug)]
pub struct SupervisorLink {
    channel: Channel<FromPage, ToPage>,
    /// The newest generation of settings in force, until the supervisor was told.
    applied: Option<u64>,
    /// The last ping without an answer.
    pong: Option<u32>,
    refused_at: Option<Instant>,
}

impl SupervisorLink {
    /// The link over a channel whose start messages are done.
    pub fn new(channel: Channel<FromPage, ToPage>) -> SupervisorLink {
        SupervisorLink { channel, applied: None, pong: None, refused_at: None }
    }

    /// The next message of the supervisor.
    ///
    /// # Errors
    /// The bytes are not a message: this process must leave.
    pub fn receive(&self) -> Result<Received<ToPage>, ChannelError> {
        self.channel.receive()
    }

    /// Asks what pen is doing. If the channel has no room, the answer does not come, as from a
    /// supervisor that does not answer.
    ///
    /// # Errors
    /// The supervisor has gone.
    pub fn ask(&self, serial: u32) -> Result<Sent, ChannelError> {
        self.channel.send(&FromPage::Ask { serial }, None)
    }

    /// Queues the message that settings are in force.
    pub fn applied(&mut self, generation: u64) {
        self.applied = Some(generation);
    }

    /// Queues the answer to a ping.
    pub fn pong(&mut self, serial: u32) {
        self.pong = Some(serial);
    }

    /// Reports a refused reader, at a limited rate and only if the channel has room.
    pub fn refused(&mut self, reader: ClientKey, now: Instant) {
        if self.refused_at.is_none_or(|last| now >= last + REFUSED_EVERY) {
            self.refused_at = Some(now);
            // That the supervisor has gone is noticed where the channel is read.
            let _ = self.channel.send(&FromPage::Refused { client: reader.bytes() }, None);
        }
    }

    /// Whether something waits to be sent.
    pub fn has_queued(&self) -> bool {
        self.applied.is_some() || self.pong.is_some()
    }

    /// Sends what waits, as far as the channel has room.
    ///
    /// # Errors
    /// The supervisor has gone.
    pub fn send_queued(&mut self) -> Result<(), ChannelError> {
        if let Some(generation) = self.applied
            && self.channel.send(&FromPage::Applied { generation }, None)? == Sent::Queued
        {
            self.applied = None;
        }
        if let Some(serial) = self.pong
            && self.channel.send(&FromPage::Pong { serial }, None)? == Sent::Queued
        {
            self.pong = None;
        }
        Ok(())
    }
}
