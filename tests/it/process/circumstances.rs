//! Unusual circumstances of a start (umask, limits, environment, descriptors, signals): pen starts,
//! or reports the reason in one line.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::harness::{Backend, Builder, Pen, eventually};
use rustix::process::Signal;

const ME: Ipv4Addr = Ipv4Addr::new(127, 62, 0, 1);

/// A shell, or the program that it executes, sets something up before pen.
fn under(setup: &str) -> Builder {
    Pen::builder().workers(2).through(["bash", "-c", &format!("{setup} \"$0\" \"$@\"")])
}

/// The functions that pen must have in all circumstances: serve, log, report, reload, replace a
/// worker, end.
#[track_caller]
fn lives(name: &str, builder: Builder, server: &Backend) {
    let log = builder.directory().join("log");
    let as_user: &[&str] = if crate::harness::machine::is_root() { &["-u", "nobody"] } else { &[] };
    let pen =
        builder.options(["-l", log.to_str().unwrap()]).options(as_user).server(server).start();
    for n in 0..2 {
        assert_eq!(pen.only(n, || pen.ask(ME)).as_deref(), Some("a"), "{name}");
    }
    pen.report();
    pen.workers()[0].kill();
    assert_eq!(pen.workers().len(), 2, "{name}");
    pen.supervisor().signal(Signal::HUP);
    assert_eq!(pen.ask(ME).as_deref(), Some("a"), "{name}");
    pen.report();
    let said = pen.said();
    assert!(!said.contains("cannot") && !said.contains("not whole"), "{name}: {said}");
}

#[test]
fn it_starts_and_lives_whatever_it_was_started_from() {
    let server = Backend::named("a");
    let descriptors = "for n in {3..200}; do eval \"exec $n</dev/null\"; done; exec";
    let ignored =
        "trap '' HUP INT QUIT TERM USR1 USR2 PIPE ALRM CHLD XFSZ XCPU TTIN TTOU TSTP WINCH; exec";
    let blocked =
        "exec perl -MPOSIX -e 'sigprocmask(SIG_SETMASK, POSIX::SigSet->new(1 .. 31)); exec @ARGV'";
    let large = "exec env A=$(head -c 100000 /dev/zero | tr '\\0' x)";
    for setup in [
        "umask 0; exec",
        "umask 027; exec",
        "umask 077; exec",
        "umask 0777; exec",
        "ulimit -c 0; exec",
        "ulimit -l 0; exec",
        "ulimit -s 512; exec",
        "ulimit -q 0; ulimit -i 0; exec",
        "ulimit -n 128; exec",
        "exec nice -n 19",
        "exec env -i",
        large,
        "exec env A= B=",
        "exec env LD_PRELOAD= MALLOC_ARENA_MAX=0 MALLOC_PERTURB_=7 GLIBC_TUNABLES=x LC_ALL=xx \
         TZ=:no/where TMPDIR=/no",
        "exec 0<&- 1>&-; exec",
        descriptors,
        ignored,
        blocked,
        "cd /; exec",
    ] {
        lives(setup, under(setup), &server);
        lives(setup, under(setup).background(), &server);
    }
}

#[test]
fn what_it_cannot_live_with_it_says_in_one_line() {
    let server = Backend::named("a");
    for (setup, options, reason) in [
        ("ulimit -f 1; exec", &[] as &[&str], "ulimit -f"),
        ("ulimit -n 6; exec", &[], "too many open files"),
        ("ulimit -n 12; exec", &[], "too many open files"),
        ("ulimit -v 40000; exec", &["-c", "1000000"], "memory"),
    ] {
        for background in [false, true] {
            let builder = under(setup).options(options).server(&server);
            let output = if background { builder.background().fails() } else { builder.fails() };
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(said.contains(reason), "{setup}: {said}");
        }
    }
}

#[test]
fn a_limit_on_the_size_of_files_is_a_full_disk_to_the_log_and_nothing_else() {
    let server = Backend::named("a");
    // 32 MiB, more than the shared table has; the log has 1 KiB less.
    let builder = under("ulimit -f 32768; exec");
    let log = builder.directory().join("log");
    fs::write(&log, vec![b'x'; (32 << 20) - 1024]).unwrap();
    let pen = builder.options(["-l", log.to_str().unwrap()]).server(&server).start();
    let workers: Vec<i32> = pen.workers().iter().map(crate::harness::Process::pid).collect();
    let talk = || {
        let (client, _) = pen.hold(ME).unwrap();
        client.echoes(&"y".repeat(80));
    };
    eventually("lines that find no room are told", || {
        talk();
        pen.said().contains("file too large")
    });
    fs::rename(&log, log.with_extension("old")).unwrap();
    pen.supervisor().signal(Signal::HUP);
    eventually("lines go on after the log was rotated", || {
        talk();
        fs::read_to_string(&log).is_ok_and(|text| text.contains("yyy"))
    });
    assert_eq!(
        pen.workers().iter().map(crate::harness::Process::pid).collect::<Vec<_>>(),
        workers,
        "no worker was killed"
    );
}

#[test]
fn what_pen_makes_can_be_used_by_whom_it_is_for_whatever_the_umask() {
    let server = Backend::named("a");
    for umask in ["0", "077", "0777"] {
        let builder = under(&format!("umask {umask}; exec")).control();
        let (log, page) =
            (builder.directory().join("log"), builder.directory().join("status.html"));
        let pen = builder.options(["-l", log.to_str().unwrap()]).server(&server).start();
        pen.report();
        let mode =
            |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(
            (mode(&page), mode(&pen.directory().join("pid"))),
            (0o644, 0o644),
            "umask {umask}"
        );
        assert_eq!(mode(&log), 0o640, "umask {umask}");
        let open = crate::harness::machine::directory(pen.directory(), "open", 0o777, 0);
        fs::set_permissions(pen.directory(), fs::Permissions::from_mode(0o755)).unwrap();
        pen.tells(
            &format!("web_stats {0}", open.join("page").display()),
            open.join("page").to_str().unwrap(),
        );
        assert_eq!(mode(&open.join("page")), 0o644, "umask {umask}");
        assert!(Command::new("test").arg("-r").arg(open.join("page")).status().unwrap().success());
    }
}
