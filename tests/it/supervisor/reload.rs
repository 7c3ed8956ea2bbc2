//! The configuration file, `--check` and HUP.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::process::Signal;

use super::{end, log, logs, steered};
use crate::harness::process::Process;
use crate::harness::{Builder, Pen, eventually, until};

/// A pen with a configuration file, whose path is the second value.
fn with_file(text: &str) -> (Builder, PathBuf) {
    let builder = steered("works").file(text);
    let path = builder.directory().join("pen.cfg");
    (builder, path)
}

fn hang_up(pen: &Pen) {
    pen.supervisor().signal(Signal::HUP);
}

#[test]
fn the_file_is_read_at_the_start_and_again_all_or_nothing() {
    let (builder, config) = with_file("blacklist 11\nacl 3 permit 10.0.0.1\ninclude more.cfg\n");
    let more = builder.directory().join("more.cfg");
    fs::write(more, "timeout 4\nserver 1 address localhost port 2\n").unwrap();
    let pen = builder.start();
    pen.tells("blacklist", "11");
    pen.tells("timeout", "4");
    assert!(pen.tell("servers").contains("\n1 addr "));
    pen.tell("tracking 77");
    fs::write(&config, "blacklist 12\nacl 3 permit 10.0.0.2\n").unwrap();
    hang_up(&pen);
    eventually("the new file is in force", || pen.tell("blacklist") == "12\n");
    // Settings that the file does not mention stay.
    pen.tells("timeout", "4");
    pen.tells("tracking", "77");
    fs::write(&config, "blacklist 13\nnonsense\ntimeout x\n").unwrap();
    hang_up(&pen);
    pen.hears("the configuration file is not used");
    assert!(pen.said().contains("pen.cfg:2: ") && pen.said().contains("pen.cfg:3: "));
    fs::write(&config, "blacklist 13\nserver 1 address no-such-name.invalid\n").unwrap();
    hang_up(&pen);
    pen.hears("cannot resolve no-such-name.invalid");
    fs::remove_file(&config).unwrap();
    hang_up(&pen);
    pen.hears("pen.cfg: no such file or directory");
    pen.tells("blacklist", "12");
    end(pen);
    let (builder, config) = with_file("x\nhash\ny\n");
    let output = builder.background().runs();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let [first, second] = said.lines().collect::<Vec<_>>().try_into().expect("two lines");
    assert!(first.starts_with(&format!("pen: {}:1: ", config.display())), "{said}");
    assert!(second.starts_with(&format!("pen: {}:3: ", config.display())), "{said}");
}

#[test]
fn a_check_says_everything_and_does_nothing() {
    let (builder, config) = with_file("blacklist 11\n");
    let builder = builder.background().options(["--check"]);
    let files = || fs::read_dir(config.parent().unwrap()).unwrap().count();
    let before = files();
    let output = builder.runs();
    assert_eq!(
        (output.status.code(), &*output.stdout, &*output.stderr),
        (Some(0), &b"ok\n"[..], &b""[..])
    );
    assert_eq!(files(), before);
    fs::write(&config, "a\nb\n").unwrap();
    let output = builder.runs();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 2);
}

#[test]
fn the_listener_moves() {
    let (builder, config) = with_file("");
    let pen = builder.start();
    let [old, new] = ["front.sock", "new.sock"].map(|name| pen.directory().join(name));
    UnixStream::connect(&old).unwrap();
    fs::write(&config, format!("listen {}\n", new.display())).unwrap();
    hang_up(&pen);
    eventually("the new listener is there", || UnixStream::connect(&new).is_ok());
    eventually("the old one is gone", || !old.exists());
    logs(&pen, "listening", 2);
    pen.tells("listen", new.to_str().unwrap());
    // An unchanged file changes nothing.
    hang_up(&pen);
    eventually("the file is read", || log(&pen).matches("settings 2 ").count() == 2);
    logs(&pen, "listening", 2);
    fs::write(&config, "listen /no/such/directory/sock\n").unwrap();
    hang_up(&pen);
    pen.hears("cannot listen on /no/such/directory/sock");
    assert!(new.exists());
    // Through the control port, only an operator's rights apply.
    assert!(pen.refuses("listen 80").contains("privileged"));
    end(pen);
}

/// What a process has open, without the numbers.
fn open_files(process: &Process) -> Vec<String> {
    let mut files: Vec<String> = process.descriptors().into_iter().map(|(_, file)| file).collect();
    files.sort_unstable();
    files
}

/// Each of pen's processes with what it has open, the supervisor first.
fn holdings(pen: &Pen) -> Vec<(i32, Vec<String>)> {
    let of = |process: &Process| (process.pid(), open_files(process));
    let children = pen.supervisor().children();
    [of(pen.supervisor())].into_iter().chain(children.iter().map(of)).collect()
}

#[test]
fn many_reloads_leave_nothing_behind() {
    let (builder, config) =
        with_file("acl 1 permit 10.0.0.1\nserver 0 address localhost\nblacklist 1000\n");
    let pen = builder.start();
    // All numbers have as many digits, so that all events need as much memory.
    let reload = |round: u32| {
        let mut text = format!("acl 1 permit 10.0.0.1\nblacklist {round}\n");
        // Names need a resolver process.
        if round.is_multiple_of(50) {
            text += "server 0 address localhost\n";
        }
        let temporary = pen.directory().join("next.cfg");
        fs::write(&temporary, text).unwrap();
        fs::rename(&temporary, &config).unwrap();
        hang_up(&pen);
        let expected = format!("{round}\n");
        eventually("the file is in force", || pen.tell("blacklist") == expected);
    };
    let supervisor = pen.supervisor();
    let memory =
        || -> u64 { supervisor.status("RssAnon").trim_end_matches(" kB").parse().unwrap() };
    // Supervisor, two workers and the control process: no helper is at work.
    let at_rest = || Some(holdings(&pen)).filter(|all| all.len() == 4);
    // A helper that has ended may not be reaped when the reply comes. So this looks until two
    // rounds of commands later there is the same.
    let settled = || {
        until("no helper is at work", || {
            let first = at_rest()?;
            (0..2).for_each(|_| pen.tells("timeout", "5"));
            at_rest().filter(|second| *second == first)
        })
    };
    // Each is an event, and the last 1000 of these are kept.
    (1001..=2050).for_each(reload);
    let (before, memory_before) = (settled(), memory());
    (2051..=2650).for_each(reload);
    eventually("all processes have open what they had", || at_rest().as_ref() == Some(&before));
    assert!(memory() <= memory_before + 32, "{} KiB after {memory_before} KiB", memory());
    end(pen);
}
