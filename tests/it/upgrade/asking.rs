//! `pen --upgrade PIDFILE`: which process it signals, and how it waits for the answer.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;

use super::upgrade_command;
use crate::harness::{BINARY, Backend, Pen, Process, eventually, machine, needs_root, until};

fn asked(pid_file: &Path) -> Output {
    upgrade_command(Path::new(BINARY), pid_file).output().unwrap()
}

/// The command's only line, which must be an error.
#[track_caller]
fn refused(output: Output) -> String {
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("pen: ") && said.lines().count() == 1, "{said:?}");
    said
}

/// The command's only line, which must be a success.
#[track_caller]
fn upgraded(output: Output, pen: &Pen) -> String {
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let is_now = format!("pen {version} is now pen {version}, pid {}, ", pen.supervisor().pid());
    assert!(said.starts_with(&is_now) && said.lines().count() == 1, "{said:?}");
    said.trim_end().to_owned()
}

fn pid_file(pen: &Pen) -> PathBuf {
    pen.directory().join("pid")
}

/// The sockets of commands that wait for an answer.
fn sockets(pen: &Pen) -> Vec<PathBuf> {
    let names = fs::read_dir(pen.directory()).unwrap().flatten().map(|name| name.path());
    names.filter(|path| path.to_string_lossy().contains("/pid.upgrade.")).collect()
}

/// A command that waits for a supervisor which was stopped.
fn waiting(pen: &Pen) -> (Child, PathBuf) {
    pen.supervisor().stop();
    let mut command = upgrade_command(Path::new(BINARY), &pid_file(pen));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let socket = until("the command has its socket", || sockets(pen).pop());
    eventually("the signal is sent", || {
        !pen.supervisor().status("ShdPnd").trim_matches('0').is_empty()
    });
    (child, socket)
}

#[test]
fn the_answer_of_the_pen_is_printed_and_logged_and_nothing_is_left() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    let (held, _) = pen.hold([127, 8, 0, 1]).unwrap();
    let line = upgraded(asked(&pid_file(&pen)), &pen);
    assert!(line.ends_with(", 1 connection stays with the old workers"), "{line}");
    pen.hears(&line);
    assert!(sockets(&pen).is_empty());
    held.echoes("still here");
}

#[test]
fn an_answer_that_cannot_be_printed_is_an_error_line_and_the_upgrade_a_success() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    let mut command = upgrade_command(Path::new(BINARY), &pid_file(&pen));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command.stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let begin = "pen: standard output: no space left on device; pen ";
    assert!(said.starts_with(begin) && said.contains(" is now pen "), "{said:?}");
    assert_eq!((output.status.code(), said.lines().count()), (Some(0), 1), "{said:?}");
    pen.hears(" is now pen ");
}

#[test]
fn a_relative_path_leads_to_the_pid_file_too() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    for path in ["pid", "./pid"] {
        let mut command = upgrade_command(Path::new(BINARY), Path::new(path));
        upgraded(command.current_dir(pen.directory()).output().unwrap(), &pen);
    }
    let missing = format!("pen: pid file {}/pod: no such file", pen.directory().display());
    let mut command = upgrade_command(Path::new(BINARY), Path::new("pod"));
    let said = refused(command.current_dir(pen.directory()).output().unwrap());
    assert!(said.starts_with(&missing), "{said}");
}

#[test]
fn only_the_pen_that_holds_the_pid_file_is_signalled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pid");
    let shown = path.display();
    let missing = format!("pen: pid file {shown}: no such file or directory\n");
    assert_eq!(refused(asked(&path)), missing);
    fs::write(&path, "rubbish\n").unwrap();
    assert_eq!(refused(asked(&path)), format!("pen: pid file {shown}: there is no pid in it\n"));
    // A signal would end this process.
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    let nobody = format!("pen: pid file {shown}: no running pen holds it\n");
    fs::write(&path, format!("{}\n", stranger.id())).unwrap();
    assert_eq!(refused(asked(&path)), nobody);
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(refused(asked(&path)), nobody);
}

#[test]
fn a_pid_that_is_not_the_holders_is_not_signalled() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    let path = pid_file(&pen);
    let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(&path, format!("{}\n", stranger.id())).unwrap();
    let told = format!("process {} is not the pen that holds it\n", stranger.id());
    assert!(refused(asked(&path)).ends_with(&told));
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

#[test]
fn another_user_is_told_that_it_may_not() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    fs::set_permissions(pen.directory(), Permissions::from_mode(0o755)).unwrap();
    let program = machine::readable_copy(Path::new(BINARY), pen.directory());
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .arg("--upgrade")
        .arg(pid_file(&pen))
        .output();
    let said = refused(output.unwrap());
    assert!(said.ends_with(": only root and the user who started it may do that\n"), "{said}");
}

#[test]
fn root_may_ask_a_pen_of_another_user() {
    if !needs_root() {
        return;
    }
    let server = Backend::named("a");
    let pen = Pen::builder().by_nobody().server(&server).start();
    upgraded(asked(&pid_file(&pen)), &pen);
    assert!(sockets(&pen).is_empty());
}

#[test]
fn without_a_place_for_the_socket_the_other_way_is_named() {
    let server = Backend::named("a");
    let pen = Pen::builder().by_nobody().server(&server).start();
    let own = pen.directory().join("pen-copy");
    let program = if machine::is_root() { own } else { BINARY.into() };
    let mut words = vec![program.into_os_string(), "--upgrade".into(), pid_file(&pen).into()];
    if machine::is_root() {
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        words.splice(0..0, user.map(Into::into));
    }
    fs::set_permissions(pen.directory(), Permissions::from_mode(0o555)).unwrap();
    let output = Command::new(&words[0]).args(&words[1..]).output().unwrap();
    fs::set_permissions(pen.directory(), Permissions::from_mode(0o700)).unwrap();
    let said = refused(output);
    assert!(said.contains("permission denied"), "{said}");
    assert!(said.ends_with("give the command upgrade at the control port\n"), "{said}");
}

#[test]
fn a_command_that_a_signal_ends_leaves_no_socket() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let (child, socket) = waiting(&pen);
        Process::open(child.id() as i32).unwrap().signal(signal);
        let said = refused(child.wait_with_output().unwrap());
        assert!(said.starts_with(&format!("pen: ended by signal {name}; ")), "{said}");
        assert!(!socket.exists());
        pen.supervisor().resume();
        eventually("the signal is taken", || {
            pen.supervisor().status("ShdPnd").trim_matches('0').is_empty()
        });
    }
}

#[test]
fn datagrams_of_other_processes_are_no_answer() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).start();
    let (child, socket) = waiting(&pen);
    let other = UnixDatagram::unbound().unwrap();
    for datagram in [&b"0done"[..], b"", b"x", &[b'0'; 5000]] {
        other.send_to(datagram, &socket).unwrap();
    }
    pen.supervisor().resume();
    upgraded(child.wait_with_output().unwrap(), &pen);
}
