//! Checks sockets again that a short splice(2) is believed to have emptied.
//!
//! A read(2) that returns less than asked has emptied the socket. A short splice(2) may also have
//! used up the buffers of the pipe, and edge-triggered epoll(7) never tells of data left then.
//! Asking the kernel each time would be one more call for each answer.
//!
//! So if data comes in quick succession, a short splice is believed, provided that it hardly can
//! have used up the buffers. Such a socket is checked when no data came from it for a few
//! milliseconds. If the check finds data, the kernel is asked each time for a while. If data comes
//! seldom, asking is cheaper than a timer.

use crate::relay::connection::connections::Connections;
use crate::relay::connection::endpoint::RecvState;
use crate::relay::connection::pool::Pool;
use crate::relay::connection::{ConnectionId, Side};

/// Milliseconds between rounds of checks. A socket is checked in the second round after its last
/// data.
const PERIOD: u64 = 2;

/// The ends to check.
#[derive(Debug, Default)]
pub struct SpliceRechecks {
    ends: Vec<ConnectionId>,
    /// When the next round is, in monotonic milliseconds.
    due: Option<u64>,
}

impl SpliceRechecks {
    /// When the next round is due.
    pub fn due(&self) -> Option<u64> {
        self.due
    }

    /// Puts an end on the list.
    pub fn add(&mut self, pool: &mut Pool, slot: u32, side: Side, now: u64) {
        pool[slot].end(side).listed = true;
        self.ends.push(pool.id(slot, side));
        self.due.get_or_insert(now + PERIOD);
    }

    /// A round of checks: ends without data since the last round are read.
    pub fn run(&mut self, connections: &mut Connections, now: u64) {
        self.ends.retain(|id| {
            let Some(connection) = connections.pool.named(*id) else { return false };
            let end = connection.end(id.side);
            match end.recv {
                // The end may have been closed meanwhile.
                RecvState::AssumedEmpty if end.socket.is_some() => {
                    end.recv = RecvState::CheckDue;
                    return true;
                }
                RecvState::CheckDue if end.socket.is_some() => {
                    (end.recv, end.listed) = (RecvState::Checking, false);
                    connections.come_back(id.slot, id.side);
                }
                RecvState::AssumedEmpty
                | RecvState::CheckDue
                | RecvState::Checking
                | RecvState::Empty
                | RecvState::Readable
                | RecvState::Ended
                | RecvState::Failed => end.listed = false,
            }
            false
        });
        self.due = (!self.ends.is_empty()).then_some(now + PERIOD);
    }
}
