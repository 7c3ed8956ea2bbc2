//! The packages' promises about the program: the systemd unit leaves pen the privileges that it
//! needs, and no others. Needs root.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::harness::machine::{self, NOBODY};
use crate::harness::{Backend, Builder, Pen, ask, eventually};
use rustix::process::Signal;

/// The client of these tests.
const ME: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

/// A port that requires a privilege.
const LISTEN: &str = "127.0.0.1:80";

/// The control socket.
const CONTROL: &str = "control";

/// The capabilities that the unit leaves, as named by setpriv(1).
fn capabilities() -> Vec<String> {
    let unit =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd/pen.service"))
            .unwrap();
    let mut lines = unit.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let set = lines.next().unwrap();
    assert_eq!(lines.next(), None);
    set.split(' ').map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase()).collect()
}

/// A pen started as by the unit, with these capabilities available, and a directory for its socket
/// in which this group may make files.
fn with_only(capabilities: &[String], server: &Backend, group: u32) -> Builder {
    let set: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let builder = Pen::builder();
    let jail = machine::directory(builder.directory(), "jail", 0o755, 0);
    let log = builder.directory().join("log");
    // The directory has the mode that tmpfiles.d gives /run/pen.
    let run = machine::directory(builder.directory(), "run", 0o1775, 0);
    chown(&run, None, Some(group)).unwrap();
    fs::set_permissions(builder.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    builder
        .through(["setpriv", "--no-new-privs", "--bounding-set", &format!("-all{set}")])
        .options(["-j", jail.to_str().unwrap(), "-l", log.to_str().unwrap()])
        .listen(LISTEN)
        .control_unix(&run.join(CONTROL))
        .server(server)
}

#[test]
fn the_unit_leaves_the_capabilities_that_pen_needs() {
    if !machine::in_own_network("the_unit_leaves_the_capabilities_that_pen_needs", &["true".into()])
    {
        return;
    }
    let server = Backend::named("a");
    let pen = with_only(&capabilities(), &server, NOBODY).start();
    let listen = LISTEN.parse().unwrap();
    assert_eq!(ask(listen, ME.into()).as_deref(), Some("a"));
    // The user of -u owns the socket, although pen cannot change owners.
    let socket = fs::symlink_metadata(pen.directory().join("run").join(CONTROL)).unwrap();
    assert_eq!((socket.uid(), socket.gid(), socket.mode() & 0o777), (NOBODY, NOBODY, 0o600));
    // pen kills another user's process: this one is stopped, so it does not end by itself.
    let victim = &pen.workers()[0];
    victim.stop();
    eventually("the worker is replaced", || victim.gone() && pen.workers().len() == 3);
    // pen opens log and listener again.
    let log = pen.directory().join("log");
    fs::rename(&log, pen.directory().join("log.1")).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("the log is opened anew", || log.exists());
    pen.tells("listen 127.0.0.2:80", "127.0.0.2:80");
    assert_eq!(ask("127.0.0.2:80".parse().unwrap(), ME.into()).as_deref(), Some("a"));
    // pen kills a hanging worker at the end; the harness waits for it.
    pen.workers().first().unwrap().stop();
}

#[test]
fn the_unit_leaves_no_capability_that_pen_does_not_need() {
    if !machine::in_own_network(
        "the_unit_leaves_no_capability_that_pen_does_not_need",
        &["true".into()],
    ) {
        return;
    }
    let server = Backend::named("a");
    let all = capabilities();
    for left_out in &all {
        let rest: Vec<String> = all.iter().filter(|name| *name != left_out).cloned().collect();
        let builder = with_only(&rest, &server, NOBODY);
        match left_out.as_str() {
            // Not fatal: workers could regain privileges only by executing a program that has them,
            // and no_new_privs forbids that too.
            "setpcap" => {
                let pen = builder.start();
                assert_ne!(pen.workers()[0].status("CapBnd"), "0000000000000000");
            }
            _ => {
                let said = String::from_utf8(builder.fails().stderr).unwrap();
                assert!(said.to_lowercase().contains("permi"), "{left_out}: {said}");
            }
        }
    }
}

#[test]
fn a_control_socket_that_its_user_cannot_make_is_told_of() {
    if !machine::in_own_network(
        "a_control_socket_that_its_user_cannot_make_is_told_of",
        &["true".into()],
    ) {
        return;
    }
    let said = with_only(&capabilities(), &Backend::named("a"), 0).fails().stderr;
    let said = String::from_utf8(said).unwrap();
    assert!(
        said.contains("permission denied (without CAP_CHOWN the user of -u has to be allowed to"),
        "{said}"
    );
}
