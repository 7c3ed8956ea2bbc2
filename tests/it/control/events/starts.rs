//! The event of a start, and what it tells of the pen before.

use serde_json::Value;

use rustix::process::Signal;

use crate::harness::events::{event, has};
use crate::harness::{Backend, Pen, Port, Process, Store, eventually};

/// The event of the last start.
fn started(pen: &Pen) -> Value {
    event(pen, "started", |_| true)
}

#[test]
fn a_start_tells_whether_the_pen_before_died_or_stopped() {
    let (store, port, server) = (Store::new(16), Port::reserve(), Backend::named("a"));
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(65534), None).ok();
    let control = directory.path().join("control");
    let start = || {
        let builder = Pen::builder().workers(2).listen(port.address().to_string());
        store.passes_to(builder).options(["-d"]).control_unix(&control).server(&server).start()
    };
    let kept = "the service manager kept: listener, control port, table";
    let mut pen = start();
    for before in [None, Some("died"), Some("stopped")] {
        let event = started(&pen);
        let expected = match before {
            None => format!("listening on {}", port.address()),
            Some("died") => format!("listening on {}; pen died before; {kept}", port.address()),
            Some(_) => format!("listening on {}; {kept}", port.address()),
        };
        assert_eq!(event["text"], *expected);
        let previous = before.map_or(Value::Null, Value::from);
        has(&pen, &event, &[("previous", previous), ("pid", pen.supervisor().pid().into())]);
        store.awaits(&["pen-control", "pen-listener", "pen-state", "pen-table"]);
        match before {
            None | Some("stopped") => {
                let children = pen.supervisor().children();
                pen.kill_supervisor();
                eventually("no child is left", || children.iter().all(Process::gone));
            }
            Some(_) => pen.end_by(Signal::TERM),
        }
        pen = start();
    }
}

#[test]
fn a_death_is_told_also_if_nothing_that_was_kept_is_used() {
    let (store, server) = (Store::new(16), Backend::named("a"));
    let (first, second) = (Port::reserve(), Port::reserve());
    let start = |port: &Port| {
        let builder = Pen::builder().workers(2).listen(port.address().to_string());
        store.passes_to(builder).server(&server).start()
    };
    let mut pen = start(&first);
    store.awaits(&["pen-listener", "pen-state", "pen-table"]);
    let children = pen.supervisor().children();
    pen.kill_supervisor();
    eventually("no child is left", || children.iter().all(Process::gone));
    store.remove("pen-table");
    let pen = start(&second);
    pen.hears(&format!("listening on {}; pen died before\n", second.address()));
    pen.hears(&format!("does not ask for it: listener at {}\n", first.address()));
}
