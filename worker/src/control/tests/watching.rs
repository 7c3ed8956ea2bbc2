//! Operators who watch.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};

use pen_config::command::{Command, Query};
use pen_ipc::channel::{Received, Sent};
use pen_ipc::message::{FromControl, ToControl};

use super::{Process, excluding, rest};
use crate::control::watchers::WATCHERS;
use crate::waiting::{self, message};

impl Process {
    fn tells(&self, id: u64) {
        let event = ToControl::Event { id, line: format!("line {id}"), json: format!("[{id}]") };
        assert_eq!(self.channel.send(&event, None).unwrap(), Sent::Queued);
    }

    /// Whether a command is refused at once. If not, it is answered.
    fn refuses(&self, line: &str) -> bool {
        let operator = self.sends(format!("{line}\n"));
        operator.set_nonblocking(true).unwrap();
        while operator.peek(&mut [0]).is_err() {
            match self.channel.receive().unwrap() {
                Received::Message(FromControl::Command { ticket, .. }, _) => {
                    self.answers(ticket, "2\n");
                    return false;
                }
                Received::Message(..) => {}
                Received::Empty => waiting::readable(&[&operator, &self.channel]),
                Received::Closed => panic!("the process left"),
            }
        }
        true
    }

    /// An operator who watches from this event on.
    fn watcher(&self, line: &str, from: u64) -> BufReader<TcpStream> {
        let operator = self.sends(format!("{line}\n"));
        let (ticket, command) = self.asked();
        assert!(matches!(command, Command::Query(Query::Watch(_))));
        self.answers(ticket, &format!("{from}\n"));
        BufReader::new(operator)
    }
}

#[track_caller]
fn line(operator: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    operator.read_line(&mut line).unwrap();
    line
}

#[test]
fn each_gets_the_events_after_its_command_and_is_told_of_gaps() {
    let process = Process::plain();
    let mut first = process.watcher("watch", 7);
    process.tells(7);
    assert_eq!(line(&mut first), "line 7\n");
    let mut second = process.watcher("outcome watch json", 9);
    for id in [8, 9, 12] {
        process.tells(id);
    }
    for expected in ["line 8\n", "line 9\n", "watch: 2 events are missing here\n", "line 12\n"] {
        assert_eq!(line(&mut first), expected);
    }
    for expected in ["outcome: ok\n", "[9]\n", "{\"missing\":2}\n", "[12]\n"] {
        assert_eq!(line(&mut second), expected);
    }
}

#[test]
fn the_supervisor_is_told_when_the_last_one_has_left() {
    let process = Process::plain();
    let first = process.watcher("watch", 1);
    let second = process.watcher("watch", 1);
    drop(first);
    second.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(message(&process.channel), FromControl::Watching { from: None });
    // Who leaves before the answer is none either.
    let mut third = process.sends("watch\n");
    let (ticket, _) = process.asked();
    third.shutdown(Shutdown::Both).unwrap();
    assert_eq!(third.read(&mut [0]).unwrap(), 0);
    process.answers(ticket, "5\n");
    process.tells(5);
    assert_eq!(message(&process.channel), FromControl::Watching { from: None });
}

#[test]
fn after_an_upgrade_that_failed_it_asks_for_the_events_that_it_has_not_had() {
    let process = Process::plain();
    let mut operator = process.watcher("watch", 3);
    process.tells(3);
    assert_eq!(line(&mut operator), "line 3\n");
    for order in [ToControl::Pause, ToControl::Begin] {
        process.channel.send(&order, None).unwrap();
    }
    assert_eq!(message(&process.channel), FromControl::Watching { from: Some(4) });
}

#[test]
fn who_watches_is_told_why_it_ends() {
    for (order, why) in
        [(ToControl::Stop, "pen stops"), (ToControl::Leave, "pen was upgraded; watch again")]
    {
        let process = Process::plain();
        let mut plain = process.watcher("watch", 1);
        let mut json = process.watcher("watch json", 1);
        process.tells(1);
        process.channel.send(&order, None).unwrap();
        assert_eq!(rest(plain.get_mut()), format!("line 1\nwatch: closed: {why}\n"));
        assert_eq!(rest(json.get_mut()), format!("[1]\n{{\"closed\":\"{why}\"}}\n"));
    }
}

#[test]
fn who_is_excluded_gets_the_reply_but_no_more_events() {
    let process = Process::plain();
    let mut watcher = process.watcher("watch", 1);
    process.tells(1);
    let mut silent = process.operator();
    let mut asking = process.sends("outcome watch\n");
    let (asked, _) = process.asked();
    let mut author = process.sends("control_acl 1\n");
    let (ticket, _) = process.asked();
    process.takes(&excluding(7));
    assert_eq!(message(&process.channel), FromControl::Applied { generation: 7 });
    process.answers(asked, "2\n");
    process.answers(ticket, "1\n");
    process.tells(2);
    let why = "control_acl no longer permits this address";
    assert_eq!(rest(watcher.get_mut()), format!("line 1\nwatch: closed: {why}\n"));
    assert_eq!(rest(&mut asking), format!("outcome: error\nwatch: {why}\n"));
    assert_eq!(rest(&mut author), "1\n");
    let end = silent.read(&mut [0]).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn others_are_served_beside_them_and_there_are_not_too_many() {
    let process = Process::plain();
    let mut all: Vec<_> = (0..WATCHERS).map(|_| process.watcher("watch", 1)).collect();
    assert_eq!(
        rest(&mut process.sends("outcome watch\n")),
        "outcome: error\nwatch: not now: 32 operators watch already\n"
    );
    let ended = process.sends("watch");
    ended.shutdown(Shutdown::Write).unwrap();
    assert_eq!(
        rest(&mut { ended }),
        "watch: the connection was closed with the command; keep it open\n"
    );
    // A crowd of others displaces none of them.
    let _crowd: Vec<_> = (0..3 * crate::control::OPERATORS).map(|_| process.operator()).collect();
    let mut other = process.sends("pid\n");
    let (ticket, _) = process.asked();
    process.answers(ticket, "1\n");
    assert_eq!(rest(&mut other), "1\n");
    // What they say is ignored.
    all[0].get_mut().write_all(&vec![b'x'; 1 << 20]).unwrap();
    process.tells(1);
    assert!(all.iter_mut().all(|operator| line(operator) == "line 1\n"));
    drop(all.pop());
    // Its place is free again as soon as its end was seen.
    while process.refuses("outcome watch json") {}
}

#[test]
fn who_reads_too_slowly_is_cut_off_and_nobody_else() {
    let process = Process::plain();
    let mut slow = process.watcher("watch", 0);
    let mut quick = process.watcher("watch json", 0);
    let text = "x".repeat(30_000);
    // More than sockets take.
    for id in 0..2500 {
        let event = ToControl::Event { id, line: text.clone(), json: format!("[{id}]") };
        assert_eq!(process.channel.send(&event, None).unwrap(), Sent::Queued);
        assert_eq!(line(&mut quick), format!("[{id}]\n"));
    }
    let got = rest(slow.get_mut());
    let (lines, last) = got.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(last, "watch: closed: it was read too slowly");
    assert!(lines.lines().all(|line| line == text));
}
