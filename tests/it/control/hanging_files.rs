//! HUP with files on a file system that hangs: only a helper process hangs for a while.

use std::fs;
use std::path::Path;

use crate::harness::hanging::Hanging;
use crate::harness::machine::in_own_network;
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Pen, eventually};
use rustix::process::Signal;

/// The supervisor works: it replaces a worker that dies.
fn replaces_a_worker(pen: &Pen) {
    let before = pen.workers();
    before[0].signal(Signal::KILL);
    eventually("the worker is replaced", || {
        let now = pen.workers();
        now.len() == before.len() && now.iter().all(|worker| worker.pid() != before[0].pid())
    });
}

#[test]
fn a_configuration_file_that_cannot_be_read_leaves_the_settings_and_keeps_nobody() {
    const NAME: &str =
        "a_configuration_file_that_cannot_be_read_leaves_the_settings_and_keeps_nobody";
    if !in_own_network(NAME, &["mount -t tmpfs none /mnt".into()]) {
        return;
    }
    let (server, path) = (Backend::named("a"), Path::new("/mnt/pen.cfg"));
    fs::write(path, "blacklist 1\n").unwrap();
    let pen = Pen::builder().server(&server).options(["-F", "/mnt/pen.cfg"]).control().start();
    let (held, _) = pen.hold([127, 0, 0, 1]).unwrap();
    let Some(hanging) = Hanging::over(Path::new("/mnt")) else { return };
    pen.supervisor().signal(Signal::HUP);
    replaces_a_worker(&pen);
    assert_eq!(pen.ask([127, 0, 0, 2]).as_deref(), Some("a"));
    pen.hears("/mnt/pen.cfg: not read within 5 s: its file system does not answer");
    pen.hears("the configuration file is not used: the settings stay as they were");
    pen.tells("blacklist", "1");
    drop(hanging);
    fs::write(path, "blacklist 2\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is read again", || pen.tell("blacklist") == "2\n");
    drop(held);
    eventually("only workers and the control process are left", || {
        pen.supervisor().children().len() == pen.workers().len() + 1
    });
}

#[test]
fn a_file_that_is_read_after_all_while_pen_stops_costs_no_time() {
    const NAME: &str = "a_file_that_is_read_after_all_while_pen_stops_costs_no_time";
    if !in_own_network(NAME, &["mount -t tmpfs none /mnt".into()]) {
        return;
    }
    let server = Backend::named("a");
    fs::write("/mnt/pen.cfg", "blacklist 1\n").unwrap();
    let mut pen = Pen::builder().workers(2).server(&server).options(["-F", "/mnt/pen.cfg"]).start();
    let [held, other] = pen.workers().try_into().unwrap();
    let Some(hanging) = Hanging::over(Path::new("/mnt")) else { return };
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is being read", || pen.supervisor().children().len() == 3);
    held.stop();
    let mut used = 0;
    pen.ends_when(|pen| {
        let before = pen.supervisor().ticks();
        pen.supervisor().signal(Signal::TERM);
        eventually("the other worker stops", || other.gone());
        drop(hanging);
        eventually("it waits for the worker no longer", || pen.supervisor().gone());
        used = pen.supervisor().ticks() - before;
    });
    assert!(used < 50, "it waits asleep, and used {used} ticks");
}

#[test]
fn files_of_tls_that_cannot_be_read_leave_those_that_were_and_keep_nobody() {
    const NAME: &str = "files_of_tls_that_cannot_be_read_leave_those_that_were_and_keep_nobody";
    if !in_own_network(NAME, &["mount -t tmpfs none /mnt".into()]) {
        return;
    }
    let root = Authority::root("root");
    let identity = root.issue(&["localhost"]);
    write(Path::new("/mnt"), "pem", format!("{}{}", identity.key, identity.chain));
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).options(["-E", "/mnt/pem"]).control().start();
    let Some(hanging) = Hanging::over(Path::new("/mnt")) else { return };
    pen.supervisor().signal(Signal::HUP);
    eventually("a child waits for the file", || {
        pen.supervisor().children().len() > pen.workers().len() + 1
    });
    replaces_a_worker(&pen);
    // Processes that wait in the file system get an error when it is gone.
    drop(hanging);
    pen.hears("/mnt/pem: ");
    pen.hears("the files of TLS are not used: it goes on with those that it had");
    pen.supervisor().signal(Signal::HUP);
    pen.tells("pid", &pen.supervisor().pid().to_string());
}
