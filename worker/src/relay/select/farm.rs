//! What a choice must know of the servers.

use pen_table::{Knows, ServerView};

/// How often a worker tries to move the cursor. Others that work move it between two tries now and
/// then, and one that is hostile always.
pub const CURSOR_TRIES: u32 = 64;

/// Why only this worker passes over a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hindrance {
    /// It has the maximum of pending connects.
    Pending,
    /// No local port was free towards it a short time ago.
    Ports,
}

/// The servers' state that a choice needs, by row of the shared table.
pub trait Farm {
    /// What traffic, the check and operators say of a server.
    fn server(&self, row: u32) -> ServerView;
    /// Connections to a server from all workers.
    fn connections(&self, row: u32) -> u32;
    /// The last server of the round-robin selection.
    fn cursor(&self) -> u32;
    /// Moves the cursor. False if another worker was faster.
    fn advance_cursor(&self, from: u32, to: u32) -> bool;
    /// The present time in monotonic milliseconds.
    fn now(&self) -> u64;
    /// When a server came back into service, in monotonic milliseconds; 0 = it was never out.
    fn returned(&self, row: u32) -> u64;
    /// Why this worker must pass over a server that is in use.
    fn hindrance(&self, row: u32) -> Option<Hindrance>;
    /// Whether failover can skip a server because it is blacklisted, down, or closed to the client
    /// by an operator.
    fn is_left_out(&self, row: u32, knows: Knows) -> bool;
}
