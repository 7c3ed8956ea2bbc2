//! `watch` and `events`: what penctl prints of what happens.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use rustix::process::Signal;
use serde_json::Value;

use super::{PENCTL, answering, complains, penctl};
use crate::harness::{Backend, Pen, Port, Process, eventually, until};

/// A penctl that watches. It ends when this is dropped.
struct Watch {
    child: Child,
    lines: Receiver<String>,
    complaints: Receiver<String>,
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (tell, lines) = mpsc::channel();
    thread::spawn(move || {
        let read = BufReader::new(stream).lines().map_while(Result::ok);
        let _ = read.map(|line| tell.send(line)).take_while(Result::is_ok).count();
    });
    lines
}

fn watch(words: &[&str]) -> Watch {
    // A shell starts what it puts into the background with these signals ignored.
    let mut child = Command::new("env")
        .args(["--default-signal=INT,QUIT,HUP", PENCTL])
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = lines_of(child.stdout.take().unwrap());
    let complaints = lines_of(child.stderr.take().unwrap());
    Watch { child, lines, complaints }
}

impl Watch {
    /// The first line that contains a text.
    #[track_caller]
    fn line(&self, text: &str) -> String {
        until(text, || self.lines.try_iter().find(|line| line.contains(text)))
    }

    /// Changes a weight until this penctl tells of it: from then on, it watches.
    #[track_caller]
    fn begins(&self, pen: &Pen) {
        let mut weight = 10;
        eventually("it watches", || {
            weight += 1;
            pen.control().tell(&format!("server 0 weight {weight}"));
            self.lines.try_iter().any(|line| line.contains("weight"))
        });
    }

    #[track_caller]
    fn complains(&self, text: &str) {
        until(text, || self.complaints.try_iter().find(|line| line.contains(text)));
    }

    fn process(&self) -> Process {
        Process::open(i32::try_from(self.child.id()).unwrap()).unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_are_lines_as_they_happen_until_interrupted() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    let place = pen.control().to_string();
    let mut watching = watch(&[&place, "watch"]);
    watching.begins(&pen);
    pen.tells("server 0 blacklist 60", "");
    let line = watching.line("blacklist 60");
    // Date and time stand before the text.
    assert!(line.starts_with("20") && line.contains(" operator: server 0 blacklist 60"), "{line}");
    watching.process().signal(Signal::INT);
    let status = until("it ends", || watching.child.try_wait().unwrap());
    assert_eq!(status.signal(), Some(2), "as every program that is interrupted");
}

#[test]
fn with_json_each_line_is_a_record() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    let place = pen.control().to_string();
    for words in
        [&[&place, "watch", "--json"], &["--json", &place, "watch"], &[&place, "watch", "json"]]
    {
        let watching = watch(words);
        watching.begins(&pen);
        pen.tells("server 0 blacklist 60", "");
        let record: Value = serde_json::from_str(&watching.line("blacklist 60")).unwrap();
        assert_eq!(
            (&record["kind"], &record["fields"]["server"]),
            (&"server_state".into(), &0.into())
        );
        pen.tells("server 0 blacklist 0", "");
    }
    // The last events have the same form.
    let (status, out, _) = penctl(&[&place, "events", "2", "--json"], "");
    let records: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, records.as_array().unwrap().len()), (0, 2));
    assert!(records[1]["text"].as_str().unwrap().contains("blacklist 0"), "{out}");
    let (status, out, _) = penctl(&[&place, "events", "1"], "");
    assert!(status == 0 && out.lines().count() == 1 && out.contains("blacklist 0"), "{out}");
}

#[test]
fn a_lost_connection_is_told_and_made_again() {
    let server = Backend::named("a");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pen.ctl");
    let start = || Pen::builder().server(&server).control_unix(&path).start();
    let mut pen = start();
    let watching = watch(&[path.to_str().unwrap(), "watch"]);
    watching.begins(&pen);
    // Another control process.
    pen.control_process().kill();
    watching.complains("trying again until it is back");
    watching.complains("connected again");
    watching.line("control process");
    watching.begins(&pen);
    // Another pen.
    pen.end_by(Signal::TERM);
    watching.complains("trying again until it is back");
    let pen = start();
    watching.complains("connected again; pen was started anew");
    watching.begins(&pen);
}

#[test]
fn several_pens_are_watched_at_once() {
    let server = Backend::named("a");
    let pens = [0, 1].map(|_| Pen::builder().server(&server).control().start());
    let places = pens.each_ref().map(|pen| pen.control().to_string());
    let both = watch(&[&places[0], &places[1], "watch"]);
    let records = watch(&["--json", &places[0], &places[1], "watch"]);
    for pen in &pens {
        both.begins(pen);
        records.begins(pen);
    }
    for (pen, place) in pens.iter().zip(&places) {
        pen.tells("server 0 blacklist 60", "");
        assert!(both.line("blacklist 60").starts_with(&format!("{place}: 20")));
        let record: Value = serde_json::from_str(&records.line("blacklist 60")).unwrap();
        assert_eq!(record["address"], place.as_str());
    }
    // One that is not there is told of, and the other is watched all the same.
    let closed = Port::reserve().address().to_string();
    let one = watch(&[&closed, &places[0], "watch"]);
    one.complains(&format!("{closed}: error connecting to server"));
    one.begins(&pens[0]);
}

#[test]
fn a_reader_that_has_enough_ends_it() {
    let server = Backend::named("a");
    let pen = Pen::builder().server(&server).control().start();
    let place = pen.control().to_string();
    let mut watching = watch(&[&place, "watch"]);
    watching.begins(&pen);
    let mut child = Command::new("sh")
        .args(["-c", &format!("{PENCTL} {place} watch | head -n 1 >&2; exit 0")])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut weight = 100;
    eventually("it ends", || {
        weight += 1;
        pen.control().tell(&format!("server 0 weight {weight}"));
        child.try_wait().unwrap().is_some()
    });
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said.lines().count(), 1, "one line of head, and no complaint: {said}");
    assert!(watching.child.try_wait().unwrap().is_none());
}

#[test]
fn a_pen_that_cannot_be_watched_is_one_line() {
    let closed = Port::reserve();
    complains(&[&closed.address().to_string(), "watch"], "error connecting to server");
    // An older pen, and the original's.
    let older = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = older.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for connection in older.incoming() {
            let mut connection = connection.unwrap();
            let mut line = String::new();
            BufReader::new(connection.try_clone().unwrap()).read_line(&mut line).unwrap();
            let reply = "outcome: error\ndo_cmd: ignoring command starting with 'watch'\n";
            connection.write_all(reply.as_bytes()).unwrap();
        }
    });
    let (status, out, why) = penctl(&[&address, "watch"], "");
    assert_eq!((status, why.as_str()), (2, ""));
    assert_eq!(out, "do_cmd: ignoring command starting with 'watch'\n");
    let original = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = original.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut connection, _) = original.accept().unwrap();
        let mut line = String::new();
        BufReader::new(connection.try_clone().unwrap()).read_line(&mut line).unwrap();
        connection.write_all(b"do_cmd: ignoring command starting with 'outcome'\n").unwrap();
    });
    complains(&[&address, "watch"], &format!("{address} is no pen that knows this command"));
}

#[test]
fn control_characters_of_an_event_do_not_reach_a_terminal() {
    let port = answering("127.0.0.1:0", |_, connection| {
        connection.write_all(b"2026-11-29 12:00:00 \x1b[2Jsly\xc2\x9b\n").unwrap();
    });
    let command = format!("timeout 5 {PENCTL} {} watch | head -n 1", port.address);
    let plain = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert!(plain.stdout.contains(&0x1b), "a program gets it as it is");
    let Some(terminal) = crate::harness::terminal::Terminal::run(
        (80, 24),
        &format!("{PENCTL} {} watch", port.address),
    ) else {
        return;
    };
    terminal.shows(&["2026-11-29 12:00:00 ?[2Jsly?"]);
}
