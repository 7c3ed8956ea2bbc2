//! Atomics for unit tests. They count their stores, so that a test can let a worker die after the
//! n-th store of an operation.
//!
//! Dying is a panic that the test catches. Until [`survive`] is called, this thread stores nothing
//! more, as a dead worker does: the destructors that the panic runs do not change the memory.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{self, Ordering};

thread_local! {
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    static DEAD: Cell<bool> = const { Cell::new(false) };
}

/// The payload of such a panic.
struct Died;

/// Runs an operation that dies before its store number `steps`, counted from 0. `None`: it died;
/// otherwise it had fewer stores.
pub(crate) fn dying_after<R>(steps: u32, operation: impl FnOnce() -> R) -> Option<R> {
    LEFT.set(Some(steps));
    let outcome = catch_unwind(AssertUnwindSafe(operation));
    LEFT.set(None);
    DEAD.set(false);
    match outcome {
        Ok(result) => Some(result),
        Err(reason) if reason.is::<Died>() => None,
        Err(reason) => resume_unwind(reason),
    }
}

/// Whether the next store is carried out.
fn step() -> bool {
    if DEAD.get() {
        return false;
    }
    match LEFT.get() {
        None => true,
        Some(0) => {
            DEAD.set(true);
            resume_unwind(Box::new(Died));
        }
        Some(left) => {
            LEFT.set(Some(left - 1));
            true
        }
    }
}

pub(crate) fn as_std(word: &AtomicU32) -> &atomic::AtomicU32 {
    &word.0
}

macro_rules! counting {
    ($name:ident, $int:ty) => {
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub(crate) struct $name(atomic::$name);

        #[allow(dead_code)]
        impl $name {
            pub fn load(&self, order: Ordering) -> $int {
                self.0.load(order)
            }

            pub fn store(&self, value: $int, order: Ordering) {
                if step() {
                    self.0.store(value, order);
                }
            }

            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$int, $int> {
                let seen = self.0.load(Ordering::Relaxed);
                // A failed comparison stores nothing.
                if seen == current && !step() {
                    return Err(seen);
                }
                self.0.compare_exchange(current, new, success, failure)
            }

            pub fn swap(&self, value: $int, order: Ordering) -> $int {
                if step() { self.0.swap(value, order) } else { self.0.load(Ordering::Relaxed) }
            }

            pub fn fetch_add(&self, value: $int, order: Ordering) -> $int {
                if step() { self.0.fetch_add(value, order) } else { self.0.load(Ordering::Relaxed) }
            }

            pub fn fetch_and(&self, value: $int, order: Ordering) -> $int {
                if step() { self.0.fetch_and(value, order) } else { self.0.load(Ordering::Relaxed) }
            }

            pub fn fetch_or(&self, value: $int, order: Ordering) -> $int {
                if step() { self.0.fetch_or(value, order) } else { self.0.load(Ordering::Relaxed) }
            }

            pub fn fetch_max(&self, value: $int, order: Ordering) -> $int {
                if step() { self.0.fetch_max(value, order) } else { self.0.load(Ordering::Relaxed) }
            }

            pub fn fetch_min(&self, value: $int, order: Ordering) -> $int {
                if step() { self.0.fetch_min(value, order) } else { self.0.load(Ordering::Relaxed) }
            }
        }
    };
}

counting!(AtomicU32, u32);
counting!(AtomicU64, u64);
