//! Starts in the background, as an ordinary user, with the pid file and messages to syslog.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::harness::machine;
use crate::harness::{Backend, PATIENCE, Pen, Port, eventually, needs_root};
use rustix::process::Signal;

const ME: Ipv4Addr = Ipv4Addr::new(127, 12, 0, 1);

#[test]
fn the_command_returns_when_clients_are_served_and_leaves_the_terminal() {
    let server = Backend::named("a");
    let pen = Pen::builder().background().server(&server).start();
    // No waiting, because the command has returned.
    for worker in 0..3 {
        assert_eq!(pen.only(worker, || pen.ask(ME)).as_deref(), Some("a"));
    }
    let supervisor = pen.supervisor();
    let stat = fs::read_to_string(supervisor.proc("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // Field 3 is the session. In a container, the leader of this test's session may be outside, and
    // then its number is 0.
    assert_ne!(fields[3], "0", "a session that was begun here");
    assert_ne!(fields[3], session_of("self"), "a session of its own");
    assert_eq!(fields[4], "0", "no terminal");
    assert_eq!(fs::read_link(supervisor.proc("cwd")).unwrap(), Path::new("/"));
    for process in std::iter::once(supervisor).chain(&pen.workers()) {
        for (number, target) in process.descriptors().into_iter().filter(|(number, _)| *number < 3)
        {
            assert_eq!(target, "/dev/null", "{number}");
        }
    }
    let said = pen.said();
    let warnings: Vec<&str> =
        said.lines().filter(|line| !line.contains("without -u the workers are root")).collect();
    assert_eq!(warnings, [""; 0], "all is well");
}

/// The session of a process, according to proc_pid_stat(5).
fn session_of(process: &str) -> String {
    let stat = fs::read_to_string(Path::new("/proc").join(process).join("stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().into()
}

#[test]
fn the_command_fails_with_the_reason_when_the_port_is_taken() {
    let server = Backend::named("a");
    let port = Port::reserve();
    let taken = Backend::named_at(port.share(Ipv4Addr::LOCALHOST.into()), "somebody else");
    for background in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("pid");
        let builder = Pen::builder().listen(taken.operand()).pid_file(&pid_file).server(&server);
        let said = if background { builder.background().fails() } else { builder.fails() }.stderr;
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(&taken.operand()) && said.contains("in use"), "{said}");
        assert!(!pid_file.exists(), "nothing is left");
    }
}

#[test]
fn the_pid_file_names_the_supervisor_and_only_its_owner_may_write_it() {
    let server = Backend::named("a");
    let pen = Pen::builder()
        .through(["sh", "-c", "umask 0; exec \"$0\" \"$@\""])
        .background()
        .server(&server)
        .start();
    let path = pen.directory().join("pid");
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", pen.supervisor().pid()));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn a_pid_file_of_a_dead_process_is_replaced_whatever_it_holds() {
    for content in ["1\n", "999999999", "", "nonsense \u{1}", "-5\n"] {
        let server = Backend::named("a");
        let builder = Pen::builder().server(&server);
        fs::write(builder.directory().join("pid"), content).unwrap();
        let _pen = builder.start();
    }
}

#[test]
fn a_pid_file_of_a_running_pen_stops_the_start() {
    let server = Backend::named("a");
    let running = Pen::builder().server(&server).start();
    let pid_file = running.directory().join("pid");
    let second = Pen::builder().pid_file(&pid_file).server(&server);
    let said = String::from_utf8(second.fails().stderr).unwrap();
    assert!(said.contains(pid_file.to_str().unwrap()), "{said}");
    assert_eq!(
        fs::read_to_string(&pid_file).unwrap(),
        format!("{}\n", running.supervisor().pid()),
        "untouched"
    );
    assert_eq!(running.ask(ME).as_deref(), Some("a"));
}

#[test]
fn a_pid_file_that_is_a_symbolic_link_is_not_followed() {
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    let (victim, link) = (directory.path().join("victim"), directory.path().join("link"));
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &link).unwrap();
    Pen::builder().pid_file(&link).server(&server).fails();
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
}

#[test]
fn a_pid_file_that_cannot_be_written_stops_the_start() {
    let server = Backend::named("a");
    for path in ["/proc/pid", "/nowhere/at/all/pid"] {
        let said = String::from_utf8(Pen::builder().pid_file(path).server(&server).fails().stderr)
            .unwrap();
        assert!(said.contains(path), "{said}");
    }
}

#[test]
fn an_ordinary_user_can_run_it() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).by_nobody().start();
    for worker in 0..3 {
        assert_eq!(pen.only(worker, || pen.ask(ME)).as_deref(), Some("a"));
    }
    for worker in pen.workers() {
        assert_eq!(worker.status("NoNewPrivs"), "1");
        assert_eq!(worker.status("CapEff"), "0000000000000000");
    }
    pen.workers()[0].kill();
    eventually("the worker is replaced", || pen.workers().len() == 3);
    assert_eq!(pen.ask(ME).as_deref(), Some("a"));
}

#[test]
fn an_ordinary_user_can_have_neither_jail_nor_another_user_nor_a_privileged_port() {
    let server = Backend::named("a");
    let start_of_privileged: u16 =
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
            .map_or(1024, |text| text.trim().parse().unwrap());
    let jail = tempfile::tempdir().unwrap();
    let jail_path = jail.path().to_str().unwrap();
    let mut cases = vec![(["-j", jail_path], None), (["-u", "root"], None)];
    if start_of_privileged > 1 {
        cases.push((["-b", "30"], Some(format!("127.0.0.1:{}", start_of_privileged - 1))));
    }
    for (options, listen) in cases {
        let mut builder = Pen::builder().server(&server).options(options).by_nobody();
        if let Some(listen) = &listen {
            builder = builder.listen(listen);
        }
        let said = String::from_utf8(builder.fails().stderr).unwrap();
        assert!(
            said.contains("root") || said.contains("privilege") || said.contains("ermission"),
            "{options:?}: {said}"
        );
    }
}

#[test]
fn in_the_background_it_speaks_to_syslog_from_inside_the_jail_too() {
    if !needs_root() {
        return;
    }
    for jailed in [false, true] {
        let farm = [Backend::named("a"), Backend::down("b")];
        let builder = Pen::builder().background();
        // This pen sees its own /dev, in which the test is the log socket.
        let dev = machine::directory(builder.directory(), "dev", 0o755, 0);
        let syslog = UnixDatagram::bind(dev.join("log")).unwrap();
        syslog.set_read_timeout(Some(PATIENCE)).unwrap();
        let script = "set -e; for n in null zero random urandom; do touch $DEV/$n; mount --bind \
            /dev/$n $DEV/$n; done; \
                      mount --bind $DEV /dev; exec \"$0\" \"$@\"";
        let setting = format!("DEV={}", dev.display());
        let mut builder =
            builder.through(["env", &setting, "unshare", "--mount", "sh", "-c", script]);
        if jailed {
            let jail = machine::directory(builder.directory(), "jail", 0o755, 0);
            builder = builder.options(["-j", jail.to_str().unwrap(), "-u", "nobody"]);
        }
        let mut pen = builder.options(["-d"]).servers(&farm).start();
        assert_eq!(pen.ask(ME).as_deref(), Some("a"));
        let (mut said, mut priorities) = (String::new(), Vec::new());
        while !said.contains("blacklisting server 1") || !priorities.contains(&15) {
            let mut buffer = [0; 4096];
            let length = syslog.recv(&mut buffer).expect("debug lines and a warning");
            let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let (priority, rest) = line.strip_prefix('<').unwrap().split_once('>').unwrap();
            let priority: u8 = priority.parse().unwrap();
            assert_eq!(priority & !7, 8, "facility user: {line}");
            assert_eq!(&rest[15..16], " ", "a time of 15 characters: {line}");
            assert!(rest[16..].starts_with("pen: ") || rest[16..].starts_with("pen["), "{line}");
            if line.contains("blacklisting server 1") {
                assert!(priority & 7 <= 4, "a warning or more: {line}");
            }
            priorities.push(priority);
            said += rest;
        }
        pen.end_by(Signal::TERM);
    }
}

#[test]
fn without_a_syslog_daemon_it_runs_in_the_background_all_the_same() {
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Pen::builder().background().options(["-dd"]).servers(&farm).start();
    for _ in 0..20 {
        assert_eq!(pen.ask(ME).as_deref(), Some("a"));
    }
}
