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

use crate::relay::Relay;
use crate::relay::connection::endpoint::Endpoint;
use crate::relay::connection::{ConnectionId, ConnectionState, Side};

/// Milliseconds between rounds of checks. A socket is checked in the second round after its last
/// data.
const PERIOD: u64 = 2;

/// Data that comes at most this many milliseconds after the data before comes in quick succession.
const SOON: u32 = 3;

/// How many times the kernel is asked after a check has found data. That data may also have come
/// just then.
const WARY: u8 = 32;

/// How certain it is that an end that is not `readable` has no data.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum DrainState {
    /// The kernel said so: certain.
    #[default]
    None,
    /// A short splice(2) said so, since the last round of checks.
    Fresh,
    /// A short splice(2) said so, before the last round of checks.
    Old,
    /// It is being checked.
    Looking,
    /// A short splice(2) was wrong: the kernel is asked this many times more.
    Wary(u8),
}

impl Endpoint {
    /// Notes that a splice(2) has taken data at this monotonic millisecond. `was_short`: it took
    /// less than asked, and it probably did not use up the pipe's buffers.
    pub fn has_spliced(&mut self, was_short: bool, now: u64) {
        let now = now as u32;
        let came_soon = now.wrapping_sub(self.spliced_at) <= SOON;
        self.spliced_at = now;
        self.doubt = match self.doubt {
            DrainState::Looking => DrainState::Wary(WARY),
            DrainState::Wary(times) => DrainState::Wary(times),
            // The end of file waits after this data, and no event will tell of it again.
            _ if !was_short || !came_soon || self.hung_up => DrainState::None,
            _ => {
                self.readable = false;
                DrainState::Fresh
            }
        };
    }

    /// Notes that a read has taken data.
    pub fn has_read(&mut self) {
        if self.doubt == DrainState::Looking {
            self.doubt = DrainState::Wary(WARY);
        }
    }

    /// Notes that the kernel found no data.
    pub fn found_empty(&mut self) {
        self.readable = false;
        self.doubt = match self.doubt {
            DrainState::Wary(times @ 1..) => DrainState::Wary(times - 1),
            _ => DrainState::None,
        };
    }

    /// Notes an event: data that a splice left is read with the new data.
    pub fn was_told(&mut self) {
        self.readable = true;
        if self.is_doubted() {
            self.doubt = DrainState::None;
        }
    }

    /// Whether it is believed, but not certain, to have no data.
    fn is_doubted(&self) -> bool {
        matches!(self.doubt, DrainState::Fresh | DrainState::Old | DrainState::Looking)
    }

    /// Whether there is data to read. If that is not certain, the kernel is asked (FIONREAD,
    /// ioctl_tty(2)).
    pub fn has_unread(&self) -> bool {
        let asked = || {
            self.socket.as_ref().is_some_and(|socket| rustix::io::ioctl_fionread(socket) != Ok(0))
        };
        if self.is_doubted() { asked() } else { self.readable }
    }

    /// Whether it must be put on the list of ends to check.
    pub fn is_unlisted_doubt(&self) -> bool {
        self.doubt == DrainState::Fresh && !self.listed
    }

    fn can_be_looked_at(&self) -> bool {
        !(self.readable || self.ended || self.failed) && self.socket.is_some()
    }
}

/// The ends to check.
#[derive(Debug, Default)]
pub struct SpliceRechecks {
    names: Vec<ConnectionId>,
    /// When the next round is, in monotonic milliseconds.
    due: Option<u64>,
}

impl SpliceRechecks {
    /// When the next round is due.
    pub fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Relay<'_> {
    /// Puts an end on the list.
    pub(in crate::relay) fn look_later(&mut self, slot: u32, side: Side) {
        let connection = &mut self.pool[slot];
        let name = ConnectionId { slot, generation: connection.generation, side };
        connection.end(side).listed = true;
        self.splice_rechecks.names.push(name);
        self.splice_rechecks.due.get_or_insert(self.now + PERIOD);
    }

    /// A round of checks: ends without data since the last round are read.
    pub(in crate::relay) fn recheck(&mut self) {
        let mut names = std::mem::take(&mut self.splice_rechecks.names);
        names.retain(|name| {
            let Some(connection) = self.pool.named(*name) else { return false };
            let is_open =
                matches!(connection.state, ConnectionState::Relaying | ConnectionState::Lingering);
            let end = connection.end(name.side);
            match end.doubt {
                DrainState::Fresh if is_open && end.can_be_looked_at() => {
                    end.doubt = DrainState::Old;
                    return true;
                }
                DrainState::Old if is_open && end.can_be_looked_at() => {
                    (end.doubt, end.readable, end.listed) = (DrainState::Looking, true, false);
                    self.come_back(name.slot, name.side);
                }
                DrainState::Wary(_) => end.listed = false,
                _ => (end.doubt, end.listed) = (DrainState::None, false),
            }
            false
        });
        self.splice_rechecks.due = (!names.is_empty()).then_some(self.now + PERIOD);
        self.splice_rechecks.names = names;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = (1 << 33) + 1000;

    fn busy() -> Endpoint {
        let mut end = Endpoint { readable: true, ..Endpoint::default() };
        end.has_spliced(true, NOW);
        assert!(end.readable && !end.is_unlisted_doubt(), "nothing came before");
        end
    }

    fn is_believed(end: &mut Endpoint) -> bool {
        end.readable = true;
        end.has_spliced(true, NOW);
        assert_eq!(end.is_unlisted_doubt(), !end.readable);
        !end.readable
    }

    #[test]
    fn a_short_splice_is_believed_where_bytes_come_soon() {
        let mut end = busy();
        assert!(is_believed(&mut end));
        end.was_told();
        end.has_spliced(false, NOW);
        assert!(end.readable, "it was not short");
        end.has_spliced(true, NOW + u64::from(SOON) + 1);
        assert!(end.readable, "it came late");
        end.hung_up = true;
        end.has_spliced(true, NOW + u64::from(SOON) + 1);
        assert!(end.readable, "the end of file is behind it");
    }

    #[test]
    fn a_look_that_finds_something_has_the_kernel_asked_for_a_while() {
        for by_splice in [true, false] {
            let mut end = busy();
            assert!(is_believed(&mut end));
            (end.doubt, end.readable) = (DrainState::Looking, true);
            if by_splice {
                end.has_spliced(true, NOW)
            } else {
                end.has_read()
            }
            assert!(end.readable, "there may be more");
            for _ in 0..WARY {
                end.found_empty();
                assert!(!end.readable && !is_believed(&mut end));
            }
            end.found_empty();
            assert!(is_believed(&mut end));
        }
    }

    #[test]
    fn a_look_that_finds_nothing_or_an_event_settles_the_doubt() {
        let mut end = busy();
        assert!(is_believed(&mut end));
        (end.doubt, end.readable) = (DrainState::Looking, true);
        end.found_empty();
        assert_eq!((end.doubt, end.readable), (DrainState::None, false));
        for doubt in [DrainState::Fresh, DrainState::Old, DrainState::Looking] {
            (end.doubt, end.readable) = (doubt, doubt == DrainState::Looking);
            end.was_told();
            assert_eq!((end.doubt, end.readable), (DrainState::None, true));
        }
    }
}
