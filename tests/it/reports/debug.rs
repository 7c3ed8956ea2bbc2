//! The messages of pen on standard error (pen(8), MESSAGES).

use std::net::Ipv4Addr;

use crate::harness::{Backend, Pen, eventually};
use rustix::process::Signal;

const ME: Ipv4Addr = Ipv4Addr::new(127, 11, 0, 1);

/// The messages of pen for one request and its answer, until its end.
fn said_with(options: &[&str]) -> String {
    let server = Backend::with(crate::harness::backend::echo);
    let mut pen = Pen::builder().options(options).server(&server).start();
    let client = pen.connect(ME);
    client.send(b"GET / HTTP/1.0\r\n\x01\xff");
    client.finish();
    assert_eq!(client.read_to_end().unwrap(), b"GET / HTTP/1.0\r\n\x01\xff");
    pen.settle();
    pen.end_by(Signal::TERM);
    pen.said()
}

const HEX: &str = "18: 47 45 54 20 2f 20 48 54 54 50 2f 31 2e 30 0d 0a 01 ff";
const ASCII: &str = "18: GET / HTTP/1.0....";

#[test]
fn without_d_nothing_is_said_in_good_operation() {
    let said = said_with(&[]);
    // A pen that root starts without -u reports it.
    assert!(said.lines().all(|line| line.ends_with("add -u USER")), "{said}");
}

#[test]
fn d_tells_decisions_and_no_data() {
    let said = said_with(&["-d"]);
    assert!(!said.is_empty());
    assert!(!said.contains("47 45 54") && !said.contains("GET"), "{said}");
}

#[test]
fn dd_dumps_both_directions_in_hex() {
    let said = said_with(&["-dd"]);
    assert_eq!(said.matches(HEX).count(), 2, "once up, once down: {said}");
    assert!(!said.contains("GET /"));
}

#[test]
fn dd_with_a_dumps_text_with_dots() {
    for options in [&["-dda"][..], &["-a", "-d", "-d"][..]] {
        let said = said_with(options);
        assert_eq!(said.matches(ASCII).count(), 2, "{said}");
        assert!(!said.contains("47 45 54"));
    }
}

#[test]
fn lines_begin_with_the_time() {
    let said = said_with(&["-d"]);
    for line in said.lines() {
        let (time, _) = line.split_at(21.min(line.len()));
        let shape: String =
            time.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
        assert_eq!(shape, "9999-99-99 99:99:99: ", "{line}");
    }
}

#[test]
fn lines_of_different_workers_are_whole() {
    let server = Backend::with(crate::harness::backend::echo);
    let pen = Pen::builder().options(["-dda"]).server(&server).start();
    std::thread::scope(|scope| {
        for n in 0..6 {
            let pen = &pen;
            scope.spawn(move || {
                for _ in 0..30 {
                    let client = pen.connect(Ipv4Addr::new(127, 11, 1, n));
                    client.send(format!("<{}>", "m".repeat(198)));
                    client.finish();
                    client.read_to_end().unwrap();
                }
            });
        }
    });
    let whole = format!("200: <{}>", "m".repeat(198));
    eventually("everything is said", || pen.said().matches('<').count() == 360);
    assert_eq!(pen.said().matches(&whole).count(), 360, "no dump is torn");
}

#[test]
fn failures_are_said_without_d_and_not_for_every_client() {
    let server = Backend::down("a");
    let pen = Pen::builder().options(["-b", "3600"]).server(&server).start();
    for _ in 0..200 {
        assert_eq!(pen.ask(ME), None);
    }
    pen.hears("blacklisting server 0");
    assert!(pen.said().lines().count() < 20, "{}", pen.said());
}

#[test]
fn a_terminal_that_is_stopped_holds_up_nobody() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    // No program reads the other end, as after control-S.
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let server = Backend::with(crate::harness::backend::echo);
    let wrapper = ["sh", "-c", "exec \"$@\" 2>\"$TERMINAL\"", "sh"];
    let pen = Pen::builder()
        .workers(2)
        .options(["-dd"])
        .env("TERMINAL", name)
        .through(wrapper)
        .server(&server)
        .start();
    let workers = pen.workers();
    // Each writes more than a terminal holds.
    for _ in 0..40 {
        let client = pen.connect(ME);
        client.send([b'x'; 3000]);
        client.finish();
        assert_eq!(client.read_to_end().unwrap().len(), 3000);
    }
    assert!(
        workers.iter().all(|worker| !worker.gone()),
        "one that waits for the terminal would have been replaced"
    );
}
