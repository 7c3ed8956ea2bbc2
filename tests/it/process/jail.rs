//! The privileges of a worker, as /proc shows them (pen(8), PRIVILEGE SEPARATION). Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::harness::machine;
use crate::harness::{Backend, Builder, Pen, Process, eventually, needs_root};
use rustix::process::Signal;

const ME: Ipv4Addr = Ipv4Addr::new(127, 13, 0, 1);

/// A pen that will be jailed in an empty directory as nobody.
fn jailed(server: &Backend) -> (Builder, PathBuf) {
    let builder = Pen::builder();
    let jail = machine::directory(builder.directory(), "jail", 0o755, 0);
    (builder.options(["-j", jail.to_str().unwrap(), "-u", "nobody"]).server(server), jail)
}

/// The user and primary group of `nobody` on this machine.
fn nobody() -> (String, String) {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> =
        passwd.lines().find(|line| line.starts_with("nobody:")).unwrap().split(':').collect();
    (fields[2].to_string(), fields[3].to_string())
}

/// Checks all restrictions of a worker.
#[track_caller]
fn assert_jailed(worker: &Process, jail: &Path) {
    let (user, group) = nobody();
    assert_eq!(
        worker.status("Uid"),
        [user.as_str(); 4].join(" "),
        "real, effective, saved and file system user"
    );
    assert_eq!(worker.status("Gid"), [group.as_str(); 4].join(" "));
    let groups = worker.status("Groups");
    assert!(groups.is_empty() || groups == group, "no group of root's: {groups}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(worker.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(worker.status("NoNewPrivs"), "1");
    assert_eq!(fs::read_link(worker.proc("root")).unwrap(), jail);
    assert_eq!(fs::read_link(worker.proc("cwd")).unwrap(), jail);
    assert_eq!(worker.status("Threads"), "1");
}

#[test]
fn every_worker_is_jailed_as_nobody_without_any_capability_and_still_serves() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let (builder, jail) = jailed(&server);
    let pen = builder.start();
    for (n, worker) in pen.workers().iter().enumerate() {
        assert_jailed(worker, &jail);
        assert_eq!(pen.only(n, || pen.ask(ME)).as_deref(), Some("a"));
    }
    assert_eq!(fs::read_dir(&jail).unwrap().count(), 0, "nothing is left in the jail");
}

#[test]
fn a_replacement_is_jailed_like_the_worker_it_replaces() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let (builder, jail) = jailed(&server);
    let pen = builder.workers(1).start();
    let old = pen.workers().remove(0);
    old.kill();
    assert_eq!(pen.ask(ME).as_deref(), Some("a"), "served by the replacement, which is ready then");
    let new = pen.workers().remove(0);
    assert_ne!(old.pid(), new.pid());
    assert_jailed(&new, &jail);
}

#[test]
fn the_supervisor_is_not_jailed_and_holds_its_files_outside() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let (builder, jail) = jailed(&server);
    let log = builder.directory().join("log");
    let mut pen = builder.options(["-l", log.to_str().unwrap()]).start();
    assert_eq!(pen.supervisor().status("Uid"), "0 0 0 0");
    assert_eq!(fs::read_link(pen.supervisor().proc("root")).unwrap(), Path::new("/"));
    pen.report();
    fs::rename(&log, log.with_extension("old")).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the log is made again, outside", || log.exists());
    let (client, _) = pen.hold(ME).unwrap();
    client.echoes("logged");
    eventually("a jailed worker writes to it", || {
        fs::read_to_string(&log).unwrap().ends_with("logged\n")
    });
    drop(client);
    assert_eq!(fs::read_dir(&jail).unwrap().count(), 0);
    pen.end_by(Signal::TERM);
}

#[test]
fn a_worker_has_only_the_descriptors_that_it_needs() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let (builder, _jail) = jailed(&server);
    let log = builder.directory().join("log");
    let pen = builder.options(["-l", log.to_str().unwrap()]).start();
    let mut channels = BTreeSet::new();
    let workers = pen.workers();
    for worker in &workers {
        let mut sockets = BTreeSet::new();
        for (number, target) in worker.descriptors() {
            if target.starts_with("socket:") {
                sockets.insert(target);
            } else {
                let known = ["/dev/null", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"];
                let stderr = pen.directory().join("stderr");
                let ours = [log.to_str().unwrap(), stderr.to_str().unwrap()];
                assert!(
                    known.contains(&target.as_str()) || ours.contains(&target.as_str()),
                    "{number} is {target}"
                );
            }
        }
        assert_eq!(sockets.len(), 2, "the listener and the channel: {sockets:?}");
        channels.extend(sockets);
    }
    assert_eq!(channels.len(), workers.len() + 1, "one listener for all, and a channel for each");
}

#[test]
fn a_replacement_has_no_more_descriptors_than_its_predecessor() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let (builder, _jail) = jailed(&server);
    let pen = builder.start();
    let count = |worker: &Process| worker.descriptors().len();
    let before: Vec<usize> = pen.workers().iter().map(count).collect();
    let supervisor = pen.supervisor().descriptors().len();
    pen.workers()[0].kill();
    eventually("the replacement is as the others", || {
        pen.workers().iter().map(count).collect::<Vec<_>>() == before
            && pen.supervisor().descriptors().len() == supervisor
    });
}

#[test]
fn a_user_without_a_jail_and_a_jail_without_a_user() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let pen = Pen::builder().options(["-u", "65534"]).server(&server).start();
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
    for worker in pen.workers() {
        assert_eq!(worker.status("Uid"), "65534 65534 65534 65534", "a number that has an account");
        assert_eq!(worker.status("CapEff"), "0000000000000000");
    }
    let builder = Pen::builder();
    let jail = machine::directory(builder.directory(), "jail", 0o755, 0);
    let pen = builder.options(["-j", jail.to_str().unwrap()]).server(&server).start();
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
    pen.hears("-u");
    for worker in pen.workers() {
        assert_eq!(fs::read_link(worker.proc("root")).unwrap(), jail);
        assert_eq!(worker.status("CapEff"), "0000000000000000", "root's number, without its power");
        assert_eq!(worker.status("NoNewPrivs"), "1");
    }
}

#[test]
fn a_jail_that_cannot_be_had_stops_the_start() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let file = tempfile::NamedTempFile::new().unwrap();
    for jail in ["/nowhere/at/all", file.path().to_str().unwrap()] {
        for background in [false, true] {
            let builder = Pen::builder().options(["-j", jail, "-u", "nobody"]).server(&server);
            let output = if background { builder.background().fails() } else { builder.fails() };
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(jail), "{said}");
        }
    }
    let said = String::from_utf8(
        Pen::builder().options(["-u", "no-such-user"]).server(&server).fails().stderr,
    )
    .unwrap();
    assert!(said.contains("no-such-user"), "{said}");
}

#[test]
fn unix_servers_outside_the_jail_cannot_be_reached_but_names_and_tcp_servers_can() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let builder = Pen::builder();
    let jail = machine::directory(builder.directory(), "jail", 0o755, 0);
    let name = format!("localhost:{}", server.address().port());
    let pen =
        builder.options(["-j", jail.to_str().unwrap(), "-u", "nobody"]).server_as(name).start();
    let address = pen.report().servers[0]["address"].clone();
    assert!(
        ["127.0.0.1", "::1"].contains(&address.as_str()),
        "resolved without resolver files in the jail: {address}"
    );
}

#[test]
fn jailed_workers_leave_when_the_supervisor_is_killed() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let (builder, _jail) = jailed(&server);
    let mut pen = builder.start();
    let workers = pen.workers();
    let (held, _) = pen.hold(ME).unwrap();
    pen.kill_supervisor();
    eventually("they are gone", || workers.iter().all(Process::gone));
    assert!(!held.read(1).is_ok_and(|bytes| !bytes.is_empty()));
}

#[test]
fn an_error_about_an_operators_file_names_the_jail() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let (builder, jail) = jailed(&server);
    let pen = builder.control().start();
    let place = format!("(in the jail {})", jail.display());
    for word in ["log", "status_file", "web_stats", "write"] {
        let why = format!("{word}: /no/such: no such file or directory {place}");
        assert_eq!(pen.refuses(&format!("{word} /no/such")), why);
    }
    for line in ["include /no/such", "listen /no/such"] {
        let why = pen.refuses(line);
        assert!(why.ends_with(&place), "{line}: {why}");
    }
}
