//! The whole control process against real sockets. The test plays the supervisor.

mod watching;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{self, JoinHandle};

use pen_config::acl::{AclVerdict, Net};
use pen_config::command::{Action, Command, MAX_LINE, Query};
use pen_config::settings::Settings;
use pen_ipc::channel::{Channel, Received, Sent};
use pen_ipc::codec;
use pen_ipc::message::{FromControl, FromStartingWorker, Outcome, ToControl};
use pen_ipc::start::{Begins, ControlStart};
use rustix::fs::MemfdFlags;

use crate::control::{OPERATORS, run};
use crate::waiting::{self, PATIENCE, message};

/// A control process in a thread, with the supervisor's end of its channel.
struct Process {
    channel: Channel<ToControl, FromControl>,
    address: std::net::SocketAddr,
    thread: Option<JoinHandle<i32>>,
}

impl Process {
    fn start(settings: Settings) -> Process {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (theirs, ours) = Channel::<FromStartingWorker, ToControl>::pair().unwrap();
        let jail = None;
        let start = ControlStart {
            channel: theirs,
            listener: listener.into(),
            begins: Begins::AtOnce,
            settings,
            jail,
        };
        let thread = thread::spawn(move || run(start));
        let FromStartingWorker::Ready = message(&ours) else {
            panic!("the first message is Ready")
        };
        Process { channel: ours.into_phase(), address, thread: Some(thread) }
    }

    fn plain() -> Process {
        Process::start(Settings::default())
    }

    fn operator(&self) -> TcpStream {
        let operator = TcpStream::connect(self.address).unwrap();
        operator.set_read_timeout(Some(PATIENCE)).unwrap();
        operator.set_write_timeout(Some(PATIENCE)).unwrap();
        operator
    }

    fn sends(&self, bytes: impl AsRef<[u8]>) -> TcpStream {
        let mut operator = self.operator();
        operator.write_all(bytes.as_ref()).unwrap();
        operator
    }

    /// The next command, with its ticket.
    #[track_caller]
    fn asked(&self) -> (u64, Command) {
        match message(&self.channel) {
            FromControl::Command { ticket, command, .. } => (ticket, command),
            other => panic!("{other:?}"),
        }
    }

    fn takes(&self, settings: &Settings) {
        let memory = memory(&codec::encode_settings(settings).unwrap());
        let sent = self.channel.send(&ToControl::Settings, Some(memory.as_fd()));
        assert_eq!(sent.unwrap(), Sent::Queued);
    }

    fn answers(&self, ticket: u64, text: &str) {
        self.answers_with(Outcome::Done, ticket, text);
    }

    fn answers_with(&self, outcome: Outcome, ticket: u64, text: &str) {
        let reply = ToControl::Reply { ticket, outcome, text: text.to_owned() };
        assert_eq!(self.channel.send(&reply, None).unwrap(), Sent::Queued);
    }

    fn answers_at_length(&self, ticket: u64, text: &[u8]) {
        let memory = memory(text);
        let reply = ToControl::Reply { ticket, outcome: Outcome::Done, text: String::new() };
        assert_eq!(self.channel.send(&reply, Some(memory.as_fd())).unwrap(), Sent::Queued);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.channel.send(&ToControl::Stop, None);
        let status = self.thread.take().unwrap().join();
        if !thread::panicking() {
            assert_eq!(status.unwrap(), 0);
        }
    }
}

fn memory(bytes: &[u8]) -> OwnedFd {
    let memory = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
    std::fs::File::from(memory.try_clone().unwrap()).write_all(bytes).unwrap();
    memory
}

/// Settings of a generation that permit no operator of this machine.
fn excluding(generation: u64) -> Settings {
    let mut settings = Settings { control_acl: 3, generation, ..Settings::default() };
    let all = Net::v4_prefix("127.0.0.0".parse().unwrap(), 8).unwrap();
    assert!(settings.acls[3].push(AclVerdict::Deny, all));
    settings
}

#[track_caller]
fn rest(operator: &mut TcpStream) -> String {
    let mut text = String::new();
    operator.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_line_ends_at_lf_crlf_or_end_of_file_and_may_come_in_pieces() {
    let process = Process::plain();
    for pieces in [
        &["pid\n"][..],
        &["pid\r\n"],
        &["pid"],
        &["p", "i", "d", "\n"],
        &["  pid\t #x", " y\r", "\n"],
    ] {
        let mut operator = process.operator();
        operator.set_nodelay(true).unwrap();
        for piece in pieces {
            operator.write_all(piece.as_bytes()).unwrap();
        }
        if !pieces.last().unwrap().ends_with('\n') {
            operator.shutdown(Shutdown::Write).unwrap();
        }
        let (ticket, command) = process.asked();
        assert_eq!(command, Command::Query(Query::Pid), "{pieces:?}");
        process.answers(ticket, "4711\n");
        assert_eq!(rest(&mut operator), "4711\n");
    }
}

#[test]
fn a_part_of_a_line_is_not_a_command_until_the_operator_has_ended() {
    let process = Process::plain();
    let operator = process.sends("exit");
    let mut other = process.sends("pid\n");
    let (ticket, command) = process.asked();
    assert_eq!(command, Command::Query(Query::Pid), "the unfinished line is not executed");
    process.answers(ticket, "1\n");
    assert_eq!(rest(&mut other), "1\n");
    operator.shutdown(Shutdown::Write).unwrap();
    assert_eq!(process.asked().1, Command::Action(Action::Exit));
}

#[test]
fn what_comes_after_the_line_is_ignored_and_does_not_cost_the_reply() {
    let process = Process::plain();
    let mut operator = process.sends("pid\nmode\n");
    operator.write_all(&vec![b'x'; 1 << 20]).unwrap();
    let (ticket, _) = process.asked();
    process.answers(ticket, "4711\n");
    operator.write_all(&vec![b'x'; 1 << 20]).unwrap();
    assert_eq!(rest(&mut operator), "4711\n");
    drop(operator);
    let mut next = process.sends("servers\n");
    let (ticket, command) = process.asked();
    assert_ne!(command, Command::Query(Query::Pid));
    process.answers(ticket, "");
    assert_eq!(rest(&mut next), "");
}

#[test]
fn the_longest_line_is_a_command_and_a_longer_one_an_error() {
    let process = Process::plain();
    let line = format!("pid #{}", "x".repeat(MAX_LINE - 5));
    for end in ["\n", "\r\n"] {
        let mut operator = process.sends(format!("{line}{end}"));
        let (ticket, command) = process.asked();
        assert_eq!(command, Command::Query(Query::Pid));
        process.answers(ticket, "1\n");
        assert_eq!(rest(&mut operator), "1\n");
    }
    for bytes in [format!("{line}x\n"), format!("{line}x\r\n"), line.repeat(1000)] {
        assert_eq!(rest(&mut process.sends(bytes)), "line: longer than 4095 bytes\n");
    }
}

#[test]
fn what_is_no_command_is_answered_here() {
    let process = Process::plain();
    for (bytes, reply) in [
        (&b"frob it\n"[..], "do_cmd: ignoring command starting with 'frob'\n"),
        (b"blacklist 5x\n", "blacklist: "),
        (b"\n", ""),
        (b"# note\n", ""),
        (b"log /tmp/\xff\n", "line: not UTF-8\n"),
        (b"\xff\n", "do_cmd: ignoring command starting with '"),
        (b"write /no/such/file\n", "write: /no/such/file: no such file or directory\n"),
    ] {
        let said = rest(&mut process.sends(bytes));
        assert!(
            said.starts_with(reply) && (said.is_empty() || said.ends_with('\n')),
            "{bytes:?}: {said:?}"
        );
        assert_eq!(said.is_empty(), reply.is_empty());
    }
    assert!(
        matches!(process.channel.receive().unwrap(), Received::Empty),
        "none of it reaches the supervisor"
    );
}

#[test]
fn who_asks_for_the_outcome_is_told_it_first_and_nobody_else_is() {
    let process = Process::plain();
    for (outcome, text, line) in [
        (Outcome::Done, "30\n", "outcome: ok\n"),
        (Outcome::Done, "", "outcome: ok\n"),
        (Outcome::Refused, "Exit is not enabled; restart with -X flag\n", "outcome: error\n"),
    ] {
        for (asked, told) in [("outcome ", line), ("", "")] {
            let mut operator = process.sends(format!("{asked}blacklist\r\n"));
            let (ticket, command) = process.asked();
            assert_eq!(command.to_string(), "blacklist");
            process.answers_with(outcome, ticket, text);
            assert_eq!(rest(&mut operator), format!("{told}{text}"));
        }
    }
    let mut operator = process.sends("outcome servers\n");
    let (ticket, _) = process.asked();
    process.answers_at_length(ticket, &[b'x'; 300_000]);
    assert_eq!(rest(&mut operator), format!("outcome: ok\n{}", "x".repeat(300_000)));
    for (line, reply) in [
        ("outcome frob it", "outcome: error\ndo_cmd: ignoring command starting with 'frob'\n"),
        (
            "outcome write /no/such/file",
            "outcome: error\nwrite: /no/such/file: no such file or directory\n",
        ),
        ("outcome # nothing", "outcome: ok\n"),
        (
            "outcome outcome pid",
            "outcome: error\ndo_cmd: ignoring command starting with 'outcome'\n",
        ),
        ("outcome", "do_cmd: ignoring command starting with 'outcome'\n"),
    ] {
        assert_eq!(rest(&mut process.sends(format!("{line}\n"))), reply, "{line}");
    }
    let longest = format!("outcome #{}", "x".repeat(MAX_LINE - 1));
    assert_eq!(rest(&mut process.sends(format!("{longest}\r\n"))), "outcome: ok\n");
    for longer in [format!("{longest}x\n"), longest.repeat(2)] {
        assert_eq!(
            rest(&mut process.sends(longer)),
            "outcome: error\nline: longer than 4095 bytes\n"
        );
    }
}

#[test]
fn a_reply_is_whole_although_the_order_to_end_comes_right_behind_it() {
    let process = Process::plain();
    let mut operator = process.sends("outcome exit\n");
    let (ticket, _) = process.asked();
    process.answers(ticket, "");
    process.channel.send(&ToControl::Stop, None).unwrap();
    assert_eq!(rest(&mut operator), "outcome: ok\n");
}

#[test]
fn who_waits_for_an_answer_when_pen_stops_is_told_so() {
    let process = Process::plain();
    let mut operator = process.sends("outcome drain 0\n");
    process.asked();
    process.channel.send(&ToControl::Stop, None).unwrap();
    assert_eq!(rest(&mut operator), "outcome: error\npen stops\n");
}

#[test]
fn a_file_goes_with_its_command() {
    let process = Process::plain();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pen.cfg");
    let mut operator = process.sends(format!("write {}\n", path.display()));
    let (ticket, file) = loop {
        match process.channel.receive().unwrap() {
            Received::Message(FromControl::Command { ticket, with_file: true, .. }, Some(file)) => {
                break (ticket, file);
            }
            Received::Empty => waiting::readable(&[&process.channel]),
            other => panic!("{other:?}"),
        }
    };
    std::fs::File::from(file).write_all(b"debug 1\n").unwrap();
    assert!(!path.exists());
    process.answers(ticket, "");
    assert_eq!(rest(&mut operator), "");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "debug 1\n");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_long_reply_waits_for_its_reader_and_holds_up_nobody() {
    let process = Process::plain();
    let page: Vec<u8> = (0..20_000_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
    let mut slow = process.sends("status\n");
    let (ticket, _) = process.asked();
    process.answers_at_length(ticket, &page);
    for _ in 0..10 {
        let mut quick = process.sends("pid\n");
        let (ticket, _) = process.asked();
        process.answers(ticket, "1\n");
        assert_eq!(rest(&mut quick), "1\n");
    }
    let mut got = Vec::new();
    slow.read_to_end(&mut got).unwrap();
    assert!(got == page, "{} bytes of {}", got.len(), page.len());
}

#[test]
fn of_too_many_operators_the_oldest_has_to_go() {
    let process = Process::plain();
    let mut crowd: Vec<TcpStream> = (0..OPERATORS + 3).map(|_| process.operator()).collect();
    for gone in &mut crowd[..3] {
        assert_eq!(rest(gone), "", "the oldest are closed");
    }
    for operator in &mut crowd[3..] {
        operator.write_all(b"pid\n").unwrap();
        let (ticket, _) = process.asked();
        process.answers(ticket, "1\n");
        assert_eq!(rest(operator), "1\n");
    }
}

#[test]
fn who_waits_for_an_answer_stays_while_there_are_others() {
    let process = Process::plain();
    let mut operator = process.sends("drain 0\n");
    let (ticket, _) = process.asked();
    let mut crowd: Vec<TcpStream> = (0..2 * OPERATORS).map(|_| process.operator()).collect();
    assert_eq!(rest(&mut crowd[0]), "", "the oldest of the others is closed");
    process.answers(ticket, "drained\n");
    assert_eq!(rest(&mut operator), "drained\n");
}

#[test]
fn who_is_let_go_without_an_answer_is_reset() {
    let process = Process::plain();
    let mut operator = process.sends("pid\n");
    let (ticket, _) = process.asked();
    let _crowd: Vec<TcpStream> = (0..OPERATORS)
        .map(|_| {
            let another = process.sends("pid\n");
            process.asked();
            another
        })
        .collect();
    let error = operator.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    process.answers(ticket, "to nobody\n");
}

#[test]
fn the_access_list_turns_away_and_new_settings_change_it() {
    let mut settings = excluding(8);
    let process = Process::start(settings.clone());
    let mut refused = process.operator();
    let error = refused.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let FromControl::Refused { client } = message(&process.channel) else { panic!() };
    assert_eq!(pen_config::ids::ClientKey::from_bytes(client).to_string(), "127.0.0.1");
    settings.control_acl = 0;
    settings.generation = 9;
    process.takes(&settings);
    assert_eq!(message(&process.channel), FromControl::Applied { generation: 9 });
    let mut operator = process.sends("pid\n");
    let (ticket, _) = process.asked();
    process.answers(ticket, "1\n");
    assert_eq!(rest(&mut operator), "1\n");
}

#[test]
fn it_leaves_when_the_supervisor_says_nonsense_or_is_gone() {
    let mut process = Process::plain();
    let memory = memory(b"no settings");
    assert_eq!(
        process.channel.send(&ToControl::Settings, Some(memory.as_fd())).unwrap(),
        Sent::Queued
    );
    assert_eq!(process.thread.take().unwrap().join().unwrap(), 1);
    std::mem::forget(process);
    let mut process = Process::plain();
    let (other, _) = Channel::pair().unwrap();
    drop(std::mem::replace(&mut process.channel, other));
    assert_eq!(process.thread.take().unwrap().join().unwrap(), 0);
    std::mem::forget(process);
}
