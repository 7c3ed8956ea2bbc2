//! poll(2): descriptors with the sources that they stand for, and timeouts for deadlines.

#![forbid(unsafe_code)]

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The descriptors to wait for, each with its source.
#[derive(Debug)]
pub(crate) struct PollSet<'fd, Source> {
    sources: Vec<Source>,
    /// One for each source.
    polled: Vec<PollFd<'fd>>,
}

impl<'fd, Source> PollSet<'fd, Source> {
    pub(crate) fn new() -> Self {
        PollSet { sources: Vec::new(), polled: Vec::new() }
    }

    /// Adds a descriptor to wait for these events. Its end and its errors are always waited for.
    pub(crate) fn add(&mut self, source: Source, fd: BorrowedFd<'fd>, events: PollFlags) {
        self.sources.push(source);
        self.polled.push(PollFd::new(fd, events));
    }

    /// Waits for an event, at most until the deadline. Returns the sources that can be read or have
    /// ended. One that can only be written to ends the wait and is not returned.
    pub(crate) fn wait(mut self, deadline: Option<Instant>) -> Vec<Source> {
        let result = poll(&mut self.polled, deadline.map_or(PollTimeout::NONE, until));
        let is_ready = |polled: &PollFd<'_>| match result {
            Ok(_) => polled.revents().is_some_and(|events| events.intersects(!PollFlags::POLLOUT)),
            Err(Errno::EINTR) => false,
            // poll(2) fails at once if memory is short. Reading from every source works as well.
            Err(_) => polled.events().contains(PollFlags::POLLIN),
        };
        let all = self.sources.into_iter().zip(&self.polled);
        all.filter(|(_, polled)| is_ready(polled)).map(|(source, _)| source).collect()
    }
}

/// The time from now to a deadline, rounded up. Rounded down, the loop would spin during the last
/// millisecond.
pub(crate) fn until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    let rounded = left.saturating_add(Duration::from_nanos(999_999));
    PollTimeout::try_from(rounded.as_millis()).unwrap_or(PollTimeout::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn ready_sources_are_returned_and_those_that_can_only_be_written_to_are_not() {
        let (readable, mut writer) = io::pipe().unwrap();
        let (ended, _) = io::pipe().unwrap();
        let (idle, writable) = io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        let mut set = PollSet::new();
        set.add("writable", writable.as_fd(), PollFlags::POLLOUT);
        set.add("readable", readable.as_fd(), PollFlags::POLLIN);
        set.add("idle", idle.as_fd(), PollFlags::POLLIN);
        set.add("ended", ended.as_fd(), PollFlags::empty());
        assert_eq!(set.wait(None), ["readable", "ended"]);
        let mut set = PollSet::new();
        set.add("idle", idle.as_fd(), PollFlags::POLLIN);
        assert!(set.wait(Some(Instant::now())).is_empty());
    }

    #[test]
    fn a_deadline_is_never_met_early() {
        assert_eq!(until(Instant::now()), PollTimeout::ZERO);
        assert_eq!(until(Instant::now() + Duration::from_secs(1 << 40)), PollTimeout::MAX);
        let left = until(Instant::now() + Duration::from_secs(100)).as_millis().unwrap();
        assert!((50_000..=100_000).contains(&left));
    }
}
