//! The marks that servers had before their names got other addresses.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use pen_config::ids::Target;
use serde::{Deserialize, Serialize};

/// The marks that servers had before they moved. Workers of earlier programs, which get no
/// settings, know the servers by these.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct FormerMarks(BTreeMap<i32, VecDeque<u64>>);

impl FormerMarks {
    /// Forgets those of numbers that belong to another server now, and notes the marks that the
    /// same servers had until now ([`pen_config::settings::Server::mark`]).
    pub(crate) fn note(&mut self, others: &[Target], marks: &[(Target, u64)]) {
        others.iter().for_each(|target| drop(self.0.remove(&target.code())));
        for (target, mark) in marks {
            let marks = self.0.entry(target.code()).or_default();
            marks.retain(|known| known != mark);
            marks.push_back(*mark);
            if marks.len() > MOST_MARKS {
                marks.pop_front();
            }
        }
    }

    /// Those of a server.
    pub(crate) fn of(&self, target: Target) -> impl Iterator<Item = u64> {
        self.0.get(&target.code()).into_iter().flatten().copied()
    }
}

/// Most marks that are known of a server.
const MOST_MARKS: usize = 64;

#[cfg(test)]
mod tests {
    use pen_config::ids::ServerId;

    use super::*;

    #[test]
    fn the_marks_of_a_server_are_known_until_another_has_its_number() {
        let target = Target::Server(ServerId(0));
        let mut former = FormerMarks::default();
        for mark in [1, 2, 3, 1] {
            former.note(&[], &[(target, mark)]);
        }
        assert_eq!(former.of(target).collect::<Vec<_>>(), [2, 3, 1]);
        for mark in 0..255 {
            former.note(&[], &[(target, mark)]);
        }
        assert_eq!(former.of(target).count(), MOST_MARKS);
        former.note(&[target], &[]);
        assert_eq!(former.of(target).count(), 0);
    }
}
