//! Second looks at sockets that a short splice(2) is taken to have emptied.
//!
//! A read(2) that gives less than asked has emptied the socket. A splice(2) that does may also have used up the places of the pipe,
//! and epoll(7), edge-triggered, never tells of what is left then. Asking the kernel every time would be a call for each answer. So a splice
//! that hardly can have used up the places is taken to have emptied the socket, and the socket is looked at again if
//! nothing comes from it for a few milliseconds. A socket where something was found is asked every time from then on.

use super::Relay;
use super::connection::{Name, Side, State};
use super::end::End;

/// Milliseconds between rounds of looks: a socket is looked at in the second round after its last bytes.
const PERIOD: u64 = 2;

/// How far an end that is not `readable` is known to have nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Doubt {
    /// The kernel said so.
    #[default]
    None,
    /// A short splice(2) said so, since the last round of looks.
    Fresh,
    /// A short splice(2) said so, before that.
    Old,
    /// It is being looked at.
    Looking,
    /// A short splice(2) was once wrong: this end's are not relied on any more.
    Confirmed,
}

impl End {
    /// A splice(2) has taken bytes; `was_short` if it took less than asked and did not use up the pipe's places, as far as one can tell.
    pub fn has_spliced(&mut self, was_short: bool) {
        self.doubt = match self.doubt {
            Doubt::Looking | Doubt::Confirmed => Doubt::Confirmed,
            // Behind these bytes the end of file waits, of which no event will tell again.
            _ if !was_short || self.hung_up => Doubt::None,
            _ => {
                self.readable = false;
                Doubt::Fresh
            }
        };
    }

    /// The kernel said that there is nothing.
    pub fn found_empty(&mut self) {
        self.readable = false;
        if self.doubt != Doubt::Confirmed {
            self.doubt = Doubt::None;
        }
    }

    /// Whether there may be something to read, by the kernel's word or by doubt.
    pub fn may_have_more(&self) -> bool {
        self.readable || matches!(self.doubt, Doubt::Fresh | Doubt::Old | Doubt::Looking)
    }

    /// Whether it has to be put on the list of those that are looked at.
    pub fn is_unlisted_doubt(&self) -> bool {
        self.doubt == Doubt::Fresh && !self.listed
    }
}

/// The ends that are to be looked at.
#[derive(Debug, Default)]
pub struct SecondLooks {
    names: Vec<Name>,
    /// When the next round is, in monotonic milliseconds.
    due: Option<u64>,
}

impl SecondLooks {
    /// When there is something to be done.
    pub fn due(&self) -> Option<u64> {
        self.due
    }
}

impl Relay<'_> {
    /// Puts an end on the list.
    pub(super) fn look_later(&mut self, place: u32, side: Side) {
        let connection = &mut self.pool[place];
        let name = Name { place, generation: connection.generation, side };
        connection.end(side).listed = true;
        self.second_looks.names.push(name);
        self.second_looks.due.get_or_insert(self.now + PERIOD);
    }

    /// A round of looks: those that were silent since the last one get a turn.
    pub(super) fn look_again(&mut self) {
        let mut names = std::mem::take(&mut self.second_looks.names);
        names.retain(|name| {
            let Some(connection) = self.pool.named(*name) else { return false };
            let can_look = matches!(connection.state, State::Relaying | State::Lingering);
            let end = connection.end(name.side);
            match end.doubt {
                Doubt::Fresh if can_look && !end.readable => {
                    end.doubt = Doubt::Old;
                    return true;
                }
                Doubt::Old if can_look && !end.readable => {
                    end.doubt = Doubt::Looking;
                    end.readable = true;
                    end.listed = false;
                    self.come_back(name.place, name.side);
                }
                Doubt::Confirmed => end.listed = false,
                // Something has come, which is read as usual.
                _ => (end.doubt, end.listed) = (Doubt::None, false),
            }
            false
        });
        self.second_looks.due = (!names.is_empty()).then_some(self.now + PERIOD);
        self.second_looks.names = names;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_splice_is_believed_until_one_was_wrong() {
        let mut end = End { readable: true, ..End::default() };
        end.has_spliced(false);
        assert!(end.readable && !end.is_unlisted_doubt());
        end.has_spliced(true);
        assert!(!end.readable && end.may_have_more() && end.is_unlisted_doubt());
        // Looked at, and nothing was there.
        (end.doubt, end.readable) = (Doubt::Looking, true);
        end.found_empty();
        assert!(!end.readable && !end.may_have_more());
        end.readable = true;
        end.has_spliced(true);
        // Looked at, and something was there: it is asked until the kernel says that there is nothing, now and from now on.
        for _ in 0..2 {
            (end.doubt, end.readable) = (if end.doubt == Doubt::Fresh { Doubt::Looking } else { end.doubt }, true);
            end.has_spliced(true);
            assert!(end.readable && !end.is_unlisted_doubt());
            end.found_empty();
            assert!(!end.readable && !end.may_have_more());
        }
    }

    #[test]
    fn the_end_of_file_behind_a_short_splice_is_asked_for_at_once() {
        let mut end = End { readable: true, hung_up: true, ..End::default() };
        end.has_spliced(true);
        assert!(end.readable && !end.is_unlisted_doubt());
    }
}
