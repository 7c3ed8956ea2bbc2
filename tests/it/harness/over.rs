//! The end of a test's own threads, however the test ends.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// Sets a flag when it is dropped. The threads of a `std::thread::scope` look at the flag, and end.
///
/// The scope waits for its threads also if the test's own thread panics in it. Without this guard
/// in the scope, a failed assertion there would leave the threads running, and the test would hang.
#[must_use = "dropped at once, it ends the threads at once"]
pub struct SetOnDrop<'a>(pub &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn threads_end_when_the_test_fails_in_their_scope() {
    let over = AtomicBool::new(false);
    let scope = || {
        std::thread::scope(|scope| {
            let _ends = SetOnDrop(&over);
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    std::thread::yield_now();
                }
            });
            panic!("as an assertion that fails does");
        });
    };
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(scope));
    assert!(failed.is_err() && over.load(SeqCst));
}
