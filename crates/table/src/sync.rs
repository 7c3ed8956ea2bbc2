//! The atomics that the other modules use: the standard ones; a model checker's under `cfg(loom)`;
//! and in unit tests ones that count their stores, so that a test can let a worker die after any of
//! them.
//!
//! Also the futex, and the deadline of a wait for it.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(all(not(loom), not(test)))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{Ordering, fence};

#[cfg(all(not(loom), test))]
use crate::steps::as_std;
#[cfg(all(not(loom), test))]
pub(crate) use crate::steps::{AtomicU32, AtomicU64};

use std::time::{Duration, Instant};

/// A word on which processes can wait.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Futex {
    pub word: AtomicU32,
    #[cfg(loom)]
    sleepers: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

/// The deadline of a wait.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Instant,
}

impl Patience {
    pub fn new(duration: Duration) -> Patience {
        Patience { deadline: Instant::now() + duration }
    }

    /// The remaining time; `None` if it is over.
    pub fn left(&self) -> Option<Duration> {
        // Under a model checker no time passes: a worker that is never woken is a deadlock, which
        // the checker finds.
        if cfg!(loom) {
            return Some(Duration::MAX);
        }
        self.deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

#[cfg(not(loom))]
impl Futex {
    /// Waits until another worker wakes this word, the time is up, or spuriously. It does not wait
    /// if the word does not hold `expected`.
    pub fn wait(&self, expected: u32, timeout: Duration) {
        use rustix::thread::{Timespec, futex};
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos().into() };
        // Not FUTEX_PRIVATE, because processes share the word. The caller treats every error the
        // same: it looks again.
        let _ = futex::wait(as_std(&self.word), futex::Flags::empty(), expected, Some(&timeout));
    }

    /// Wakes one waiter.
    pub fn wake(&self) {
        use rustix::thread::futex;
        let _ = futex::wake(as_std(&self.word), futex::Flags::empty(), 1);
    }
}

/// The behaviour of a futex, for the model checker.
#[cfg(loom)]
impl Futex {
    pub fn wait(&self, expected: u32, _timeout: Duration) {
        let guard = self.sleepers.0.lock().expect("no model panics with it");
        if self.word.load(Ordering::Relaxed) == expected {
            drop(self.sleepers.1.wait(guard));
        }
    }

    pub fn wake(&self) {
        let _guard = self.sleepers.0.lock().expect("no model panics with it");
        self.sleepers.1.notify_one();
    }
}

/// The standard atomic inside ours, for the system call.
#[cfg(all(not(loom), not(test)))]
fn as_std(word: &AtomicU32) -> &std::sync::atomic::AtomicU32 {
    word
}
