//! The atomics that everything else is written with: the standard ones; a model checker's under
//! `cfg(loom)`; and in unit tests ones that count their stores, so that a test can let a worker die
//! after any of them.
//!
//! Also the futex, and the patience with which one waits for it.

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

/// A word that processes can wait for.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Futex {
    pub word: AtomicU32,
    #[cfg(loom)]
    sleepers: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

/// How long to wait: a deadline.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Instant,
}

impl Patience {
    pub fn new(duration: Duration) -> Patience {
        Patience { deadline: Instant::now() + duration }
    }

    /// What is left of it, if anything.
    pub fn left(&self) -> Option<Duration> {
        // Under a model checker time does not pass: whoever is never woken is a deadlock that it
        // finds.
        if cfg!(loom) {
            return Some(Duration::MAX);
        }
        self.deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

#[cfg(not(loom))]
impl Futex {
    /// Waits until somebody wakes this word, the time is up, or for no reason; not at all unless it
    /// holds `expected`.
    pub fn wait(&self, expected: u32, timeout: Duration) {
        use rustix::thread::{Timespec, futex};
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos().into() };
        // Not FUTEX_PRIVATE: the word is shared by processes. Any error means the same to the
        // caller: look again.
        let _ = futex::wait(as_std(&self.word), futex::Flags::empty(), expected, Some(&timeout));
    }

    /// Wakes one waiter.
    pub fn wake(&self) {
        use rustix::thread::futex;
        let _ = futex::wake(as_std(&self.word), futex::Flags::empty(), 1);
    }
}

/// What a futex does, for the model checker.
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

/// The standard atomic behind ours, for the system call.
#[cfg(all(not(loom), not(test)))]
fn as_std(word: &AtomicU32) -> &std::sync::atomic::AtomicU32 {
    word
}
