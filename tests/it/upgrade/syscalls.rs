//! The listener over upgrades, as strace(1) shows: nobody makes another one, ends it, or closes the
//! supervisor's last descriptor of it.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use super::Installed;
use super::load::{Load, server};
use crate::harness::{Pen, Process, SetOnDrop, Trace, eventually, needs_root};

/// The calls that make, end or pass on a socket.
const CALLS: &str = "bind,listen,shutdown,close,close_range,dup,dup2,dup3,fcntl,execve,execveat";

/// The descriptors of a file, each with whether it closes on exec.
type Held = BTreeMap<i32, bool>;

/// The socket that listens at an address, as /proc shows it (proc_net(5)).
fn listening_at(address: SocketAddr) -> String {
    let port = format!(":{:04X}", address.port());
    let text = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut inodes = rows
        .filter(|fields| fields[1].ends_with(&port) && fields[3] == "0A")
        .map(|fields| format!("socket:[{}]", fields[9]));
    let inode = inodes.next().expect("there is a listener");
    assert_eq!(inodes.next(), None, "there is one listener");
    inode
}

/// The descriptors of a file that a process has.
fn held(process: &Process, file: &str) -> Held {
    let all = process.descriptors().into_iter().filter(|(_, target)| target == file);
    all.map(|(number, _)| {
        let text = fs::read_to_string(process.proc(&format!("fdinfo/{number}"))).unwrap();
        let flags = text.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        (number, flags & 0o2_000_000 != 0)
    })
    .collect()
}

/// Does to the descriptors of a file what a call of their process does, as strace writes it.
/// Returns whether an execution succeeded.
fn replay(held: &mut Held, line: &str, file: &str) -> bool {
    // "close(5<socket:[7]>) = 0", "fcntl(5<socket:[7]>, F_DUPFD_CLOEXEC, 3) = 8<socket:[7]>"
    let Some((name, rest)) = line.split_once('(') else { return false };
    let Some((arguments, result)) = rest.rsplit_once(" = ") else { return false };
    if result.starts_with('-') {
        return false;
    }
    let number = |text: &str| {
        let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<i32>().ok()
    };
    let is_it = arguments.contains(&format!("<{file}>"));
    match name {
        "close" if is_it => {
            held.remove(&number(arguments).unwrap());
        }
        "close_range" => {
            let mut words = arguments.split(',').map(number);
            let (first, last) = (words.next().unwrap().unwrap(), words.next().unwrap());
            held.retain(|at, _| *at < first || last.is_some_and(|last| *at > last));
        }
        "fcntl" if is_it && arguments.contains("F_SETFD") => {
            held.insert(number(arguments).unwrap(), arguments.contains("FD_CLOEXEC"));
        }
        "dup" | "dup2" | "dup3" | "fcntl" if result.contains(&format!("<{file}>")) => {
            held.insert(number(result).unwrap(), arguments.contains("CLOEXEC"));
        }
        "dup2" | "dup3" => {
            // Something else takes the place of what was there.
            held.remove(&number(result).unwrap());
        }
        "execve" | "execveat" => {
            held.retain(|_, closes| !*closes);
            return true;
        }
        _ => {}
    }
    false
}

#[test]
fn the_listener_is_neither_made_anew_nor_ended_nor_closed() {
    if !needs_root() || !Trace::is_possible() {
        return;
    }
    let server = server();
    let pen = Installed::start(Pen::builder().workers(2).server(&server));
    let listener = listening_at(pen.address());
    let mut replayed = held(pen.supervisor(), &listener);
    assert!(!replayed.is_empty());
    let mut family = pen.staff();
    family.push(Process::open(pen.supervisor().pid()).unwrap());
    let trace = Trace::of_family(&family, CALLS, pen.directory().join("trace"));
    let (load, to) = (&Load::default(), pen.address());
    thread::scope(|scope| {
        let over = SetOnDrop(&load.over);
        let threads = [0, 1, 2].map(|n| scope.spawn(move || load.come_and_go(to, 40 + n)));
        let clients_are_served = || {
            let seen = load.done.load(SeqCst);
            eventually("clients are served", || {
                load.done.load(SeqCst) >= seen + 5 || threads.iter().any(|one| one.is_finished())
            });
        };
        clients_are_served();
        pen.upgrade("0.2.0");
        clients_are_served();
        pen.install("0.3.0 adoption crashes");
        let asked = pen.ask_for_upgrade();
        assert!(asked.stderr.ends_with(b"; pen 0.2.0 goes on\n"), "{asked:?}");
        clients_are_served();
        pen.install("0.4.0");
        pen.goes_on_as("0.2.0", "0.4.0");
        clients_are_served();
        drop(over);
    });
    let calls = trace.of_each();
    assert_eq!(listening_at(pen.address()), listener);
    let mut shutdowns = 0;
    for (pid, lines) in &calls {
        for line in lines {
            let makes = ["bind(", "listen("].iter().any(|call| line.starts_with(call));
            let ends = line.starts_with("shutdown(") && line.contains(&listener);
            assert!(!makes && !ends, "process {pid}: {line}");
            shutdowns += usize::from(line.starts_with("shutdown("));
        }
    }
    assert!(shutdowns > 0, "the workers' calls are seen too");
    let supervisor = pen.supervisor().pid();
    let mut executions = 0;
    for line in &calls[&supervisor] {
        executions += usize::from(replay(&mut replayed, line, &listener));
        assert!(!replayed.is_empty(), "after {line}, the supervisor has no listener");
    }
    assert_eq!(executions, 4, "two upgrades, and one that was given back");
    assert_eq!(replayed, held(pen.supervisor(), &listener), "every call was seen");
    assert_eq!(pen.ask([127, 76, 9, 9]).as_deref(), Some("a"));
}
