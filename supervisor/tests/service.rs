//! Tests of the supervisor from outside: start and failed start, death and replacement, signals,
//! jail.

#![allow(
    clippy::unwrap_used,
    reason = "clippy.toml exempts functions marked as tests; ours are called by a harness of our \
        own"
)]

#[path = "service/control.rs"]
mod control;
#[path = "service/harness.rs"]
mod harness;
#[path = "service/hostile.rs"]
mod hostile;
#[path = "service/sandbox.rs"]
mod sandbox;
#[path = "service/steering.rs"]
mod steering;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

use harness::{Daemon, Pen, Running, children, descriptors, field, is_alive, is_root, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn())),*] };
}
pub(crate) use tests;

/// A test harness of our own: the process under test is this program again and must have a single
/// thread, but libtest's tests run in threads. Arguments are parts of test names, as with libtest.
fn main() -> ExitCode {
    if let Some(status) = harness::host() {
        std::process::exit(status);
    }
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut failures = 0;
    for (name, test) in
        TESTS.iter().chain(steering::TESTS).chain(sandbox::TESTS).chain(hostile::TESTS)
    {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part)) {
            let passed = std::panic::catch_unwind(test).is_ok();
            println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
            failures += u32::from(!passed);
        }
    }
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const TESTS: &[(&str, fn())] = tests![
    without_f_the_command_returns_when_the_service_is_ready,
    a_failed_start_is_one_line_and_leaves_nothing,
    a_start_can_be_interrupted,
    a_killed_worker_is_replaced_and_nothing_leaks,
    a_worker_that_lived_is_replaced_at_once,
    a_broken_worker_is_killed_and_the_supervisor_lives,
    a_worker_that_reports_too_much_is_killed,
    workers_that_boast_make_large_sums_and_no_panic,
    a_worker_that_jams_the_shared_eventfd_holds_up_no_supervisor,
    a_worker_that_spins_is_killed_and_the_other_is_not,
    a_replacement_that_is_not_ready_in_time_is_replaced,
    what_a_service_manager_says_is_for_the_supervisor_alone,
    a_stopped_worker_delays_neither_a_report_nor_the_end,
    reports_go_to_the_file_or_to_standard_error,
    a_child_that_reports_holds_nothing_of_the_supervisors,
    a_hangup_reopens_the_log_in_every_worker,
    inherited_signal_states_and_descriptors_change_nothing,
    workers_do_not_outlive_their_supervisor,
    one_pid_file_is_for_one_pen,
    a_jailed_worker_has_nothing_left,
    root_without_a_user_keeps_no_capability,
    a_missing_jail_is_named,
    an_ordinary_user_needs_no_privilege_and_gets_none,
];

fn without_f_the_command_returns_when_the_service_is_ready() {
    let pen = Pen::new("works").with("workers", 3);
    let output = pen.background();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    // A pen that root starts without -u logs that.
    assert!(said.lines().all(|line| line.ends_with("add -u USER")), "{said}");
    let pid = Pid::from_raw(pen.read("pen.pid").trim_end().parse().unwrap());
    let _daemon = Daemon(pid);
    let workers = children(pid);
    assert_eq!(workers.len(), 3);
    std::os::unix::net::UnixStream::connect(pen.path("front.sock")).unwrap();
    for process in workers.iter().chain([&pid]) {
        let streams: Vec<_> =
            descriptors(*process).into_iter().filter(|(number, _)| *number < 3).collect();
        assert!(streams.iter().all(|(_, target)| target == "/dev/null"), "{streams:?}");
    }
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(), Some("/"));
    kill(pid, Signal::SIGTERM).unwrap();
    wait_for("the end", || !is_alive(pid) && workers.iter().all(|worker| !is_alive(*worker)));
    assert!(!pen.path("pen.pid").exists() && !pen.path("front.sock").exists());
    assert_eq!(pen.read("pen.log").matches("stopped\n").count(), 3);
}

fn a_failed_start_is_one_line_and_leaves_nothing() {
    let cases = [("dies at once", "pen: worker "), ("fails", "pen: worker cannot.start\n")];
    for (worker, expected) in cases {
        for foreground in [false, true] {
            let pen = Pen::new(worker);
            let pen = if foreground { pen.with("foreground", "yes") } else { pen };
            let output = pen.background();
            let errors = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{errors}");
            assert!(errors.starts_with(expected) && errors.lines().count() == 1, "{errors}");
            assert!(!pen.path("pen.pid").exists() && !pen.path("front.sock").exists());
        }
    }
}

fn a_start_can_be_interrupted() {
    let pen = Pen::new("is never ready").with("foreground", "yes").without("pid");
    let mut command = pen.shell("true");
    let child = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id() as i32);
    wait_for("workers", || children(pid).len() == 2);
    let workers = children(pid);
    // Signals that can wait do wait.
    kill(pid, Signal::SIGHUP).unwrap();
    kill(pid, Signal::SIGUSR1).unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "pen: the start was ended by signal SIGTERM\n"
    );
    assert!(workers.iter().all(|worker| !is_alive(*worker)) && !pen.path("front.sock").exists());
}

fn a_killed_worker_is_replaced_and_nothing_leaks() {
    let mut pen = Pen::new("works").foreground();
    let before = descriptors(pen.pid()).len();
    for round in 1..=6 {
        let victim = pen.workers()[0];
        kill(victim, Signal::SIGKILL).unwrap();
        wait_for("a replacement", || pen.workers().len() == 2 && !pen.workers().contains(&victim));
        let line = format!("(pid {victim}) was killed by signal 9");
        wait_for("a message", || pen.errors().contains(&line));
        wait_for("its start", || pen.pen.read("pen.log").matches("started\n").count() == 2 + round);
    }
    wait_for("the old number of descriptors", || descriptors(pen.pid()).len() == before);
    pen.signal(Signal::SIGINT);
    assert_eq!(pen.wait(), Some(0));
}

fn a_worker_that_lived_is_replaced_at_once() {
    let mut pen = Pen::new("works").foreground();
    let victim = pen.workers()[0];
    let seen = std::time::Instant::now();
    wait_for("an age at which nobody dies of the start", || seen.elapsed().as_millis() > 1100);
    kill(victim, Signal::SIGKILL).unwrap();
    wait_for("a message", || {
        pen.errors().contains(&format!("(pid {victim}) was killed by signal 9; replaced\n"))
    });
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn a_broken_worker_is_killed_and_the_supervisor_lives() {
    let cases = [
        ("talks nonsense", "cannot decode a message"),
        ("panics", "ended with status 101"),
        ("floods", "it floods its channel"),
    ];
    for (worker, expected) in cases {
        let mut pen = Pen::new(worker).foreground();
        // The worker waits for a report before it misbehaves.
        pen.signal(Signal::SIGUSR1);
        wait_for(expected, || pen.errors().contains(expected));
        // Only some events of a flood are logged.
        assert!(pen.errors().matches("the client table is locked").count() < 500);
        pen.signal(Signal::SIGTERM);
        assert_eq!(pen.wait(), Some(0), "{worker}");
        assert!(!pen.pen.path("pen.pid").exists());
    }
}

fn a_worker_that_reports_too_much_is_killed() {
    let mut pen = Pen::new("reports too much").foreground();
    let expected = "more connections than there can be";
    pen.signal(Signal::SIGUSR1);
    wait_for(expected, || pen.errors().contains(expected));
    wait_for("the page", || pen.pen.path("status.html").exists());
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn workers_that_boast_make_large_sums_and_no_panic() {
    let pen = Pen::new("boasts").with("foreground", "yes");
    let manager = std::os::unix::net::UnixDatagram::bind(pen.path("manager")).unwrap();
    manager.set_nonblocking(true).unwrap();
    let mut command = pen.shell(&format!("export NOTIFY_SOCKET={}", pen.path("manager").display()));
    let mut pen = Running::start(pen, &mut command);
    let expected = format!("2 workers, {0} connections, {0} clients accepted", u64::MAX);
    wait_for("the sums", || {
        let mut message = [0; 4096];
        let length = manager.recv(&mut message).unwrap_or(0);
        String::from_utf8_lossy(&message[..length]).contains(&expected)
    });
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0), "{}", pen.errors());
}

fn a_worker_that_jams_the_shared_eventfd_holds_up_no_supervisor() {
    let mut pen = Pen::new("jams and dies").foreground();
    // The sibling still learns of the dead worker's free slots, and is asked to republish its own.
    wait_for("the news", || {
        ["freed\n", "restated\n"].iter().all(|line| pen.pen.read("pen.log").contains(line))
    });
    wait_for("a message", || pen.errors().contains("worker 0 (pid "));
    wait_for("a replacement", || {
        pen.workers().len() == 2 && pen.pen.read("pen.log").matches("started\n").count() == 2
    });
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
    assert_eq!(pen.pen.read("pen.log").matches("stopped\n").count(), 2);
}

fn a_worker_that_spins_is_killed_and_the_other_is_not() {
    let mut pen = Pen::new("spins").foreground();
    let workers = pen.workers();
    wait_for("a message", || {
        pen.errors().contains(&format!("(pid {}) was killed by signal 9: it hung", workers[0]))
    });
    wait_for("a replacement", || pen.workers().len() == 2 && !pen.workers().contains(&workers[0]));
    assert!(pen.workers().contains(&workers[1]), "{}", pen.errors());
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn a_replacement_that_is_not_ready_in_time_is_replaced() {
    let mut pen = Pen::new("oversleeps").foreground();
    let workers = pen.workers();
    kill(workers[0], Signal::SIGKILL).unwrap();
    wait_for("a message", || {
        pen.errors().contains("was killed by signal 9: it was not ready in time; replaced")
    });
    wait_for("the start of the next one", || {
        pen.pen.read("pen.log").matches("started\n").count() == 3
    });
    assert!(pen.workers().contains(&workers[1]), "{}", pen.errors());
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn what_a_service_manager_says_is_for_the_supervisor_alone() {
    let variables = "export NOTIFY_SOCKET=@nobody WATCHDOG_USEC=9000000 WATCHDOG_PID=$$ \
        LISTEN_PID=$$ LISTEN_FDS=0 \
                     LISTEN_FDNAMES=";
    let pen = Pen::new("looks for a service manager").with("foreground", "yes");
    let mut command = pen.shell(variables);
    let mut pen = Running::start(pen, &mut command);
    wait_for("what they found", || pen.pen.read("pen.log").matches("no manager\n").count() == 2);
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn a_stopped_worker_delays_neither_a_report_nor_the_end() {
    let mut pen = Pen::new("works").foreground();
    kill(pen.workers()[0], Signal::SIGSTOP).unwrap();
    pen.signal(Signal::SIGUSR1);
    wait_for("the page", || pen.pen.read("status.html").ends_with("</html>\n"));
    assert!(pen.pen.read("status.html").contains("did not answer"));
    let other = pen.workers()[1];
    kill(other, Signal::SIGKILL).unwrap();
    wait_for("a replacement", || pen.workers().len() == 2 && !pen.workers().contains(&other));
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
    assert!(pen.errors().contains("did not stop in time"));
}

fn reports_go_to_the_file_or_to_standard_error() {
    let mut pen = Pen::new("works").foreground();
    pen.signal(Signal::SIGUSR1);
    wait_for("the page", || pen.pen.read("status.html").ends_with("</html>\n"));
    let page = fs::metadata(pen.pen.path("status.html")).unwrap();
    assert_eq!(page.mode() & 0o7777, 0o644);
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
    assert!(!pen.errors().contains("Active clients"));

    let mut pen = Pen::new("works").without("status").foreground();
    pen.signal(Signal::SIGUSR1);
    wait_for("the text", || pen.errors().contains("Active connections:\n"));
    assert!(pen.errors().contains("Server 0 status:\naddress 127.0.0.1\n0\nport 1\n"));
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn a_child_that_reports_holds_nothing_of_the_supervisors() {
    let pen = Pen::new("works").without("status").with("foreground", "yes");
    // Nobody reads standard error, so the report takes its time.
    let (_reader, writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    while rustix::io::write(&writer, b"x").is_ok() {}
    let child =
        pen.shell("true").stdout(std::process::Stdio::null()).stderr(writer).spawn().unwrap();
    let mut running = Running { pen, child };
    wait_for("the pid file", || running.pen.read("pen.pid").ends_with('\n'));
    let workers = running.workers();
    running.signal(Signal::SIGUSR1);
    let reporter = || running.workers().into_iter().find(|child| !workers.contains(child));
    wait_for("the report", || reporter().is_some());
    let reporter = reporter().unwrap();
    let held =
        || descriptors(reporter).into_iter().filter(|(number, _)| *number > 2).collect::<Vec<_>>();
    // Its only own descriptor leads to standard error. Above all, it must not keep a listener open
    // after a move.
    wait_for("the others to be closed", || held().len() <= 1);
    assert!(
        is_alive(reporter) && held().iter().all(|(_, target)| target.starts_with("pipe:")),
        "{:?}",
        held()
    );
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait(), Some(0));
}

fn a_hangup_reopens_the_log_in_every_worker() {
    let mut pen = Pen::new("works").foreground();
    let log = pen.pen.path("pen.log");
    wait_for("both workers", || pen.pen.read("pen.log") == "started\nstarted\n");
    fs::rename(&log, pen.pen.path("old.log")).unwrap();
    pen.signal(Signal::SIGHUP);
    wait_for("the new log", || pen.pen.read("pen.log") == "reopened\nreopened\n");
    // A replacement gets the new log too.
    kill(pen.workers()[0], Signal::SIGKILL).unwrap();
    wait_for("a replacement's line", || pen.pen.read("pen.log").contains("started\n"));
    // A log that cannot be reopened is kept.
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    pen.signal(Signal::SIGHUP);
    wait_for("a message", || {
        pen.errors().contains("lines still go to the file that was opened before")
    });
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
    assert_eq!(pen.pen.read("old.log"), "started\nstarted\n");
}

fn inherited_signal_states_and_descriptors_change_nothing() {
    let pen = Pen::new("works").with("foreground", "yes");
    let mut command = pen.shell("trap '' HUP INT QUIT USR1 TERM CHLD USR2; exec 7</dev/zero");
    let mut pen = Running::start(pen, &mut command);
    for process in pen.workers().into_iter().chain([pen.pid()]) {
        assert!(descriptors(process).iter().all(|(_, target)| target != "/dev/zero"));
    }
    for ignored in [Signal::SIGUSR2, Signal::SIGALRM, Signal::SIGPIPE] {
        pen.signal(ignored);
    }
    // The terminal's signals reach the workers too, and have no effect on them.
    for worker in pen.workers() {
        for signal in
            [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1]
        {
            kill(worker, signal).unwrap();
        }
        assert_eq!(field(worker, "SigBlk").unwrap(), "0000000000000000");
    }
    let victim = pen.workers()[0];
    kill(victim, Signal::SIGKILL).unwrap();
    wait_for("a replacement", || pen.workers().len() == 2 && !pen.workers().contains(&victim));
    assert_eq!(pen.errors().matches("was killed").count(), 1);
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn workers_do_not_outlive_their_supervisor() {
    let mut pen = Pen::new("works").foreground();
    let workers = pen.workers();
    pen.child.kill().unwrap();
    wait_for("the workers' end", || workers.iter().all(|worker| !is_alive(*worker)));
}

fn one_pid_file_is_for_one_pen() {
    let mut first = Pen::new("works").foreground();
    let second = Pen::new("works").with("pid", first.pen.path("pen.pid").display());
    let output = second.background();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let pid = first.pid();
    assert!(errors.contains(&format!("a running pen (pid {pid}) holds it")), "{errors}");
    assert_eq!(first.pen.read("pen.pid"), format!("{pid}\n"));
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait(), Some(0));
}

fn a_jailed_worker_has_nothing_left() {
    if !is_root() {
        return;
    }
    let pen = Pen::new("works").with("user", "nobody");
    let jail = pen.path("jail");
    fs::create_dir(&jail).unwrap();
    let mut pen = pen.with("jail", jail.display()).foreground();
    let jail = fs::canonicalize(jail).unwrap();
    for worker in pen.workers() {
        let nobody = harness::NOBODY.to_string();
        for name in ["Uid", "Gid"] {
            let ids = field(worker, name).unwrap();
            assert!(
                ids.split_whitespace().count() == 4
                    && ids.split_whitespace().all(|id| id == nobody),
                "{ids}"
            );
        }
        assert!(!field(worker, "Groups").unwrap().split_whitespace().any(|group| group == "0"));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(worker, set).unwrap(), "0000000000000000", "{set}");
        }
        assert_eq!(field(worker, "NoNewPrivs").unwrap(), "1");
        for link in ["root", "cwd"] {
            assert_eq!(fs::read_link(format!("/proc/{worker}/{link}")).unwrap(), jail);
        }
        // Standard streams, channel, listener, two eventfds, log.
        assert_eq!(descriptors(worker).len(), 8, "{:?}", descriptors(worker));
    }
    assert!(descriptors(pen.pid()).len() > 7);
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn root_without_a_user_keeps_no_capability() {
    if !is_root() {
        return;
    }
    let mut pen = Pen::new("works").foreground();
    for worker in pen.workers() {
        assert_eq!(field(worker, "CapEff").unwrap(), "0000000000000000");
        assert_eq!(field(worker, "CapPrm").unwrap(), "0000000000000000");
        assert_eq!(field(worker, "Groups").unwrap(), "");
    }
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
}

fn a_missing_jail_is_named() {
    if !is_root() {
        return;
    }
    let output =
        Pen::new("works").with("jail", "/no/such/jail").with("user", "nobody").background();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors, "pen: -j /no/such/jail: no such file or directory\n");
}

fn an_ordinary_user_needs_no_privilege_and_gets_none() {
    if !is_root() {
        return;
    }
    let mut pen = Pen::new("works").run_by_nobody().foreground();
    assert_eq!(pen.workers().len(), 2);
    pen.signal(Signal::SIGTERM);
    assert_eq!(pen.wait(), Some(0));
    for (key, value, expected) in
        [("jail", "/tmp", "-j: only root"), ("user", "root", "-u root: only root")]
    {
        let output = Pen::new("works").run_by_nobody().with(key, value).background();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.starts_with(&format!("pen: {expected}")), "{errors}");
        assert_eq!(output.status.code(), Some(1));
    }
}
