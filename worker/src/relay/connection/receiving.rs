//! What is known of the data that a peer sends to one end.
//!
//! Epoll is edge-triggered: an event reports data once, and the end is then read until the kernel
//! says that its queue is empty. A read(2) that returns less than asked has emptied the queue. A
//! short splice(2) may only have used up the buffers of its pipe, and no event tells of data left
//! then. So such an end counts as empty for now, and is checked again later
//! (`relay::transfer::splice_recheck`).

use crate::relay::connection::endpoint::{Endpoint, RecvState};

/// Data that comes at most this many milliseconds after the data before comes in quick succession.
const SOON: u32 = 3;

/// How many times the kernel is asked after a check has found data, and once more. That data may
/// also have come just then.
const WARY: u8 = 33;

impl Endpoint {
    /// Notes an event: data that a splice left is read with the new data.
    pub fn was_reported(&mut self) {
        if !self.recv.is_over() {
            self.recv = RecvState::Readable;
        }
    }

    /// Notes that a read has taken data.
    pub fn has_read(&mut self) {
        if self.recv == RecvState::Checking {
            self.check_found_data();
        }
    }

    /// Notes that the kernel found no data.
    pub fn found_empty(&mut self) {
        self.recv = RecvState::Empty;
        self.wary = self.wary.saturating_sub(1);
    }

    /// Notes that a splice(2) has taken data at this monotonic millisecond. `was_short`: it took
    /// less than asked, and it probably did not use up the pipe's buffers.
    pub fn has_spliced(&mut self, was_short: bool, now: u64) {
        let now = now as u32;
        let came_soon = now.wrapping_sub(self.spliced_at) <= SOON;
        self.spliced_at = now;
        if self.recv == RecvState::Checking {
            self.check_found_data();
        } else if self.wary == 0 && was_short && came_soon && !self.hung_up {
            // After a hang-up the end of file waits, and no event will tell of it again.
            self.recv = RecvState::AssumedEmpty;
        }
    }

    fn check_found_data(&mut self) {
        (self.recv, self.wary) = (RecvState::Readable, WARY);
    }

    /// Whether there is data to read. If that is not certain, the kernel is asked (FIONREAD,
    /// ioctl_tty(2)).
    pub fn has_unread(&self) -> bool {
        if !self.recv.is_unsure() {
            return self.recv == RecvState::Readable;
        }
        self.socket.as_ref().is_some_and(|socket| rustix::io::ioctl_fionread(socket) != Ok(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = (1 << 33) + 1000;

    fn busy() -> Endpoint {
        let mut end = Endpoint::default();
        end.recv = RecvState::Readable;
        end.has_spliced(true, NOW);
        assert_eq!(end.recv, RecvState::Readable, "nothing came before");
        end
    }

    fn is_believed(end: &mut Endpoint) -> bool {
        end.recv = RecvState::Readable;
        end.has_spliced(true, NOW);
        end.recv == RecvState::AssumedEmpty
    }

    #[test]
    fn a_short_splice_is_believed_where_bytes_come_soon() {
        let mut end = busy();
        assert!(is_believed(&mut end));
        end.was_reported();
        end.has_spliced(false, NOW);
        assert_eq!(end.recv, RecvState::Readable, "it was not short");
        end.has_spliced(true, NOW + u64::from(SOON) + 1);
        assert_eq!(end.recv, RecvState::Readable, "it came late");
        end.hung_up = true;
        end.has_spliced(true, NOW + u64::from(SOON) + 1);
        assert_eq!(end.recv, RecvState::Readable, "the end of file is behind it");
    }

    #[test]
    fn a_check_that_finds_data_has_the_kernel_asked_for_a_while() {
        for by_splice in [true, false] {
            let mut end = busy();
            assert!(is_believed(&mut end));
            end.recv = RecvState::Checking;
            if by_splice {
                end.has_spliced(true, NOW)
            } else {
                end.has_read()
            }
            assert_eq!(end.recv, RecvState::Readable, "there may be more");
            for _ in 1..WARY {
                end.found_empty();
                assert!(end.recv == RecvState::Empty && !is_believed(&mut end));
            }
            end.found_empty();
            assert!(is_believed(&mut end));
        }
    }

    #[test]
    fn a_check_that_finds_nothing_or_an_event_ends_the_uncertainty() {
        let mut end = busy();
        assert!(is_believed(&mut end));
        end.recv = RecvState::Checking;
        end.found_empty();
        assert_eq!(end.recv, RecvState::Empty);
        for unsure in [RecvState::AssumedEmpty, RecvState::CheckDue, RecvState::Checking] {
            end.recv = unsure;
            end.was_reported();
            assert_eq!(end.recv, RecvState::Readable);
        }
    }

    #[test]
    fn an_event_reports_no_data_after_the_end() {
        for over in [RecvState::Ended, RecvState::Failed] {
            let mut end = Endpoint::default();
            end.recv = over;
            end.was_reported();
            assert!(end.recv == over && !end.has_unread());
        }
    }
}
