//! A program that fails while it takes over: the one before goes on at once, and says so once.

use std::fs;

use rustix::process::Signal;

use super::super::OLD;
use super::Failing;
use crate::harness::events::watch;
use crate::harness::eventually;

/// How it fails, and what is said of that.
const FAILURES: [(&str, &str); 5] = [
    ("panics", "it panicked at tests/it/upgrade/other_pen/main.rs:"),
    ("crashes", "it crashed (signal 11)"),
    ("aborts", "it crashed (signal 06)"),
    ("exits", "it ended by itself"),
    ("hangs", "it was not ready in time"),
];

#[test]
fn a_takeover_that_fails_is_undone_with_one_message() {
    for (how, reason) in FAILURES {
        let mut failing = Failing::start();
        let pen = &failing.pen;
        let (go, operator) = (pen.directory().join("go"), watch(pen));
        pen.install(&format!("0.2.0 adoption waits {} {how}", go.display()));
        let asked = pen.begin_to_ask();
        eventually("it takes over", || go.with_extension("waiting").exists());
        let said = pen.said().len();
        fs::write(&go, "").unwrap();
        if how == "hangs" {
            // The end of its time comes at once.
            pen.supervisor().signal(Signal::ALARM);
        }
        let asked = asked.wait_with_output().unwrap();
        let line = String::from_utf8(asked.stderr.clone()).unwrap();
        let line = line.trim_end().strip_prefix("pen: ").expect("an error");
        let begin = format!("upgrade failed: the new program gave up: {reason}");
        let end = format!("; pen {OLD} goes on");
        assert!(line.starts_with(&begin) && line.ends_with(&end), "{how}: {asked:?}");
        assert_eq!((asked.status.code(), asked.stdout.len()), (Some(1), 0), "{asked:?}");
        failing.failures = 1;
        failing.is_as_before(how);
        // The log has this line and no other, whoever may have written it.
        let log = failing.pen.said()[said..].to_string();
        assert!(log.lines().count() == 1 && log.trim_end().ends_with(line), "{how}: {log}");
        let failed = operator.next();
        assert_eq!(failed["kind"], "upgrade_failed", "{how}");
        failing.pen.tells("prio", "");
        assert_eq!(operator.next()["kind"], "setting", "{how}: there is one event");
        failing.succeeds();
    }
}
