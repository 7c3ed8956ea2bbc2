//! Each worker's fair share of the clients: a worker with clearly more open connections than
//! another leaves the next clients to it.
//!
//! The kernel wakes the first waiting worker in the listener's queue, which at a low rate is always
//! the same one. Short connections do not suffer, but long ones would gather in that worker. So a
//! worker that is ahead stops watching the listener and looks again a little later.
//!
//! If clients wait by then, the other workers cannot keep up, and this one takes some. It takes few
//! while the worker with the fewest connections still gets more, and ever more otherwise: that
//! worker may hang. So no client waits long for the sake of a fair share. If no client waits, the
//! worker rests until one comes, so that a lead costs nothing while no clients come. Connections
//! that last less than a second are not shared: they even out by themselves.
//!
//! Pure: the connections of the others come from the table, and time is an argument.

/// How far a worker may be ahead of the one with the fewest connections: `LEAD` connections, plus
/// the fewest divided by `PART`.
const LEAD: u32 = 16;
const PART: u32 = 16;

/// Milliseconds that a worker leaves clients to others before it looks again. It is `SHORT_PAUSE`
/// within [`WATCHFUL`] ms of a look that found clients left.
const PAUSE: u64 = 10;
const SHORT_PAUSE: u64 = 1;
const WATCHFUL: u64 = 1000;

/// Clients that a worker which is ahead takes at a time: at first, and at most.
const FEW: u32 = 4;
const MANY: u32 = 32;

/// Most clients that one of several workers takes at a time, so that none gets far ahead before it
/// compares.
pub const BATCH: u32 = 32;

/// Length in milliseconds of the windows in which closed connections are counted: the present one
/// and the one before.
const WINDOW: u64 = 1000;

/// Milliseconds in which the worker with the fewest connections must get more.
const PATIENCE: u64 = 100;

/// The other workers' connections at the last looks.
#[derive(Debug, Default)]
pub struct Share {
    compared: u64,
    /// When the window began, the number of closed connections at that time, and the number closed
    /// in the window before.
    window: u64,
    closed: u64,
    closed_before: u64,
    /// The connections of the worker with the fewest at the last look, and when that number last
    /// grew.
    fewest: u32,
    rose_at: u64,
    few: u32,
    watchful_until: u64,
}

/// What follows a pause.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// The worker takes clients again.
    Resume,
    /// It takes at most this many clients, then pauses until this monotonic millisecond.
    Pause(u32, u64),
    /// A further pause, which begins when a client comes.
    Rest,
}

impl Share {
    /// Whether to compare now, given this worker's open connections and the number it has closed
    /// since its start. Reading other workers' rows has a cost, so once a millisecond is enough.
    pub fn is_due(&mut self, open: u32, closed: u64, now: u64) -> bool {
        let in_window = closed.saturating_sub(self.closed);
        let are_short = self.closed_before + in_window >= u64::from(open);
        if now >= self.window + WINDOW {
            self.closed_before = if now < self.window + 2 * WINDOW { in_window } else { 0 };
            (self.window, self.closed) = (now, closed);
        }
        let is_due = open > LEAD && !are_short && now != self.compared;
        if is_due {
            self.compared = now;
        }
        is_due
    }

    /// The end of this worker's pause, if it is ahead of the worker with the fewest connections.
    pub fn pause(&mut self, open: u32, fewest: Option<u32>, now: u64) -> Option<u64> {
        (self.fewest, self.rose_at, self.few) = (fewest.unwrap_or(0), now, FEW);
        is_ahead(open, fewest).then_some(self.rest_ends(now))
    }

    /// What follows a pause that is over, given the fewest connections now and whether clients
    /// wait.
    pub fn next(&mut self, open: u32, fewest: Option<u32>, is_awaited: bool, now: u64) -> Next {
        let before = std::mem::replace(&mut self.fewest, fewest.unwrap_or(0));
        if self.fewest > before {
            self.rose_at = now;
        }
        if !is_ahead(open, fewest) {
            return Next::Resume;
        }
        if !is_awaited {
            return Next::Rest;
        }
        self.watchful_until = now + WATCHFUL;
        self.few = if now < self.rose_at + PATIENCE { FEW } else { (self.few * 2).min(MANY) };
        Next::Pause(self.few, now + SHORT_PAUSE)
    }

    /// Until when a client that comes while this worker rests is left to the others.
    pub fn rest_ends(&self, now: u64) -> u64 {
        now + if now < self.watchful_until { SHORT_PAUSE } else { PAUSE }
    }
}

/// Whether a worker with `open` connections is ahead of the one with the fewest.
pub fn is_ahead(open: u32, fewest: Option<u32>) -> bool {
    fewest.is_some_and(|fewest| open > fewest.saturating_add(LEAD + fewest / PART))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lead_is_some_connections_and_a_part() {
        assert!(!is_ahead(u32::MAX, None) && !is_ahead(16, Some(0)) && is_ahead(17, Some(0)));
        assert!(!is_ahead(1266 + 78, Some(1250)) && is_ahead(1267 + 78, Some(1250)));
        assert!(!is_ahead(u32::MAX, Some(u32::MAX)));
    }

    #[test]
    fn eight_workers_stay_within_a_fifth() {
        // The kernel gives each client to the first worker that watches. A worker compares after
        // every batch.
        let mut open = [0u32; 8];
        for _ in 0..10_000 / BATCH {
            let takes = |n: &usize| {
                let others = open.iter().enumerate().filter(|(other, _)| other != n);
                !is_ahead(open[*n], others.map(|(_, open)| *open).min())
            };
            let first = (0..8).find(takes).expect("the one with the fewest is not ahead");
            open[first] += BATCH;
        }
        let (most, fewest) = (open.iter().max().unwrap(), open.iter().min().unwrap());
        assert!(f64::from(*most) / f64::from(*fewest) < 1.15, "{open:?}");
    }

    #[test]
    fn comparing_is_rare() {
        let mut share = Share::default();
        assert!(
            !share.is_due(16, 0, 5)
                && share.is_due(17, 0, 5)
                && !share.is_due(17, 0, 5)
                && share.is_due(17, 0, 6)
        );
    }

    #[test]
    fn short_connections_are_not_shared_out() {
        let mut share = Share::default();
        // Some last, and none has ended.
        assert!(share.is_due(100, 0, 10_000));
        // Then short ones beside them, 200 in a second.
        let due =
            (10_001..13_000).filter(|now| share.is_due(100, (now - 10_000) / 5, *now)).count();
        assert!(due <= 500, "compared in {due} of 2999 ms");
        assert!(!share.is_due(100, 600, 13_001), "in the midst of them");
        // When those are over, soon again.
        assert!((13_002..15_500).any(|now| share.is_due(100, 600, now)));
        assert!(share.is_due(100, 600, 99_999));
    }

    #[test]
    fn who_is_ahead_leaves_clients_to_others_and_takes_few_of_those_that_they_leave() {
        let mut share = Share::default();
        assert_eq!(share.pause(50, Some(40), 100), None);
        assert_eq!(share.pause(99, Some(40), 100), Some(110));
        assert_eq!((share.next(99, Some(50), false, 110), share.rest_ends(110)), (Next::Rest, 120));
        for now in 120..1000 {
            assert_eq!(
                share.next(999, Some(now as u32 / 10), true, now),
                Next::Pause(FEW, now + 1)
            );
        }
        assert_eq!(
            (share.next(999, Some(100), false, 1001), share.rest_ends(1001)),
            (Next::Rest, 1002),
            "soon, for some time"
        );
        assert_eq!(
            (share.next(999, Some(100), false, 2000), share.rest_ends(2000)),
            (Next::Rest, 2010)
        );
        assert_eq!(share.next(99, Some(90), true, 2010), Next::Resume);
        assert_eq!(share.next(99, None, false, 2010), Next::Resume, "there are no others");
    }

    #[test]
    fn a_worker_that_gets_no_more_stops_nobody_else() {
        let mut share = Share::default();
        let mut now = share.pause(999, Some(7), 100).unwrap();
        while now < 200 {
            assert_eq!(share.next(999, Some(7), true, now), Next::Pause(FEW, now + 1));
            now += 1;
        }
        let few: Vec<Next> = (200..205).map(|now| share.next(999, Some(7), true, now)).collect();
        let expected = [8, 16, 32, 32, 32].into_iter().zip(201..);
        assert_eq!(few, expected.map(|(few, end)| Next::Pause(few, end)).collect::<Vec<Next>>());
        assert_eq!(share.next(999, Some(8), true, 205), Next::Pause(FEW, 206));
    }
}
