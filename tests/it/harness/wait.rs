//! Bounded waits for conditions. The bounds are only limits; they measure nothing.

use std::time::{Duration, Instant};

/// How long a test waits for something that should happen at once. It is long, because the machine
/// may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds; panics with `what` if it does not hold within [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(PATIENCE, condition), "waited in vain until {what}");
}

/// Waits until `look` returns a value and returns it; panics with `what` if there is none within
/// [`PATIENCE`].
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, || {
        found = look();
        found.is_some()
    });
    found.unwrap()
}

/// Waits until `condition` holds; returns whether it did within the time.
pub fn within(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + bound;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
