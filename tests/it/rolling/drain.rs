//! `drain N [wait SECONDS] [close]`: the reply comes when the server has no connection left.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::control::{PENCTL, run_penctl, text};
use crate::harness::events::{event, has};
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Builder, Client, Pen, eventually};
use crate::upgrade::Installed;

use super::client;
use crate::harness::machine::open_socket;

/// What penctl prints, and its status.
fn said(output: &Output) -> (String, Option<i32>) {
    (text(&output.stdout) + &text(&output.stderr), output.status.code())
}

/// penctl with a command, in a thread.
fn penctl(pen: &Pen, line: &str) -> JoinHandle<(String, Option<i32>)> {
    let words = [pen.control().to_string(), line.to_owned()];
    thread::spawn(move || said(&run_penctl(PENCTL, words, "")))
}

/// Waits until a server drains, as a `drain` that just began makes it.
fn drains(pen: &Pen, number: usize) {
    eventually("the server drains", || {
        pen.tell("servers").lines().nth(number).unwrap().ends_with(" state drain")
    });
}

fn farm_with(builder: Builder, farm: &[Backend; 2]) -> Pen {
    builder.servers(farm).control().start()
}

/// An open connection to a server, of a client with this number or a later one.
fn open_at(pen: &Pen, name: &str, from: u8) -> (Client, u8) {
    (from..from + 20)
        .find_map(|number| {
            let (open, got) = pen.hold(client(number))?;
            (got == name).then_some((open, number))
        })
        .expect("clients come to each server")
}

#[test]
fn the_reply_comes_with_the_end_of_the_last_connection_and_all_else_goes_on_meanwhile() {
    let farm = Backend::farm(["a", "b"]);
    let pen = farm_with(Pen::builder().file("tracking 50\n"), &farm);
    let (one, number) = open_at(&pen, "a", 1);
    let (other, _) = open_at(&pen, "a", number + 1);
    let waiting = penctl(&pen, "drain 0");
    drains(&pen, 0);
    pen.tells("tracking 60", "60");
    pen.supervisor().signal(Signal::HUP);
    eventually("the file is read", || pen.tell("tracking") == "50\n");
    assert!((60..66).all(|number| pen.ask(client(number)).as_deref() == Some("b")));
    assert_eq!(pen.ask(client(number)).as_deref(), Some("a"), "it knows this client");
    one.finish();
    assert_eq!(one.read_to_end().unwrap(), b"");
    other.echoes("still here");
    assert!(!waiting.is_finished());
    other.finish();
    assert_eq!(waiting.join().unwrap(), ("drained\n".into(), Some(0)));
    let drained = event(&pen, "server_drained", |_| true);
    let address = farm[0].address().to_string();
    has(&pen, &drained, &[("server", json!(0)), ("address", json!(address))]);
    // Nothing is left to wait for.
    pen.tells("drain 0 wait 600 close", "drained");
}

#[test]
fn what_is_left_after_the_time_is_told_and_closed_if_the_command_says_so() {
    let farm = Backend::farm(["a", "b"]);
    let root = Authority::root("root");
    for tls in [false, true] {
        let mut builder = Pen::builder();
        if tls {
            let identity = root.issue(&["pen"]);
            let write = |name, text: &str| write(builder.directory(), name, text);
            let (certificate, key) =
                (write("cert.pem", &identity.chain), write("key.pem", &identity.key));
            let option = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
            builder = builder.options(["-E", &option(certificate), "-K", &option(key)]);
        }
        let pen = farm_with(builder, &farm);
        pen.tells("server 1 state maint", "");
        let (open, session) = match tls {
            false => (Some(pen.hold(client(1)).unwrap().0), None),
            true => {
                let mut session = root.client().connect(pen.address(), "pen").unwrap();
                assert_eq!(session.line().unwrap(), "a");
                (None, Some(session))
            }
        };
        pen.tells("server 1 state ready", "");
        let late = penctl(&pen, "drain 0 wait 0").join().unwrap();
        assert_eq!(late, ("drain: 1 connection left\n".into(), Some(2)), "TLS: {tls}");
        open.iter().for_each(|open| open.echoes("still here"));
        assert_eq!(pen.ask(client(1)).as_deref() == Some("a"), !tls, "it knows this client");
        let (reply, status) = penctl(&pen, "drain 0 wait 0 close").join().unwrap();
        assert_eq!((&*reply, status), ("drain: 1 connection left, closed now\n", Some(2)));
        let is_reset = match (open, session) {
            (Some(open), _) => open.read_to_end().is_err(),
            (_, Some(mut session)) => session.read_to_end().is_err(),
            _ => false,
        };
        assert!(is_reset, "TLS: {tls}");
        eventually("nothing is left at the server", || farm[0].open() == 0);
        pen.tells("drain 0", "drained");
        if !tls {
            assert_eq!(pen.ask(client(1)).as_deref(), Some("b"), "it is placed anew");
        }
    }
}

#[test]
fn several_pens_drain_a_server_at_the_same_time() {
    let farms = [(); 2].map(|()| Backend::farm(["a", "b"]));
    let pens = farms.each_ref().map(|farm| farm_with(Pen::builder(), farm));
    let [one, two] = pens.each_ref().map(|pen| pen.control().to_string());
    let open = pens.each_ref().map(|pen| open_at(pen, "a", 1).0);
    let words = [one.clone(), two.clone(), "drain 0 wait 600".to_owned()];
    let waiting = thread::spawn(move || said(&run_penctl(PENCTL, words, "")));
    pens.iter().for_each(|pen| drains(pen, 0));
    assert!(!waiting.is_finished());
    drop(open);
    let expected = format!("==> {one} <==\ndrained\n\n==> {two} <==\ndrained\n");
    assert_eq!(waiting.join().unwrap(), (expected, Some(0)));
    // The worst status counts, and what is left of each is told.
    let _left = open_at(&pens[1], "b", 30).0;
    let words = [one.clone(), two.clone(), "drain 1 wait 1".to_owned()];
    let expected = format!("==> {one} <==\ndrained\n\n==> {two} <==\ndrain: 1 connection left\n");
    assert_eq!(said(&run_penctl(PENCTL, words, "")), (expected, Some(2)));
}

#[test]
fn who_interrupts_a_wait_is_told_that_the_server_goes_on_draining() {
    let farm = Backend::farm(["a", "b"]);
    let pen = farm_with(Pen::builder(), &farm);
    let (open, _) = open_at(&pen, "a", 1);
    let waiting = Command::new(PENCTL)
        .args([&pen.control().to_string(), "drain 0 wait 600"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drains(&pen, 0);
    kill_process(Pid::from_child(&waiting), Signal::INT).unwrap();
    let ended = waiting.wait_with_output().unwrap();
    assert_eq!(ended.status.signal(), Some(Signal::INT.as_raw()));
    let told = "drain: interrupted; server 0 goes on draining; server 0 state ready ends that\n";
    assert_eq!(text(&ended.stderr), told);
    open.echoes("still here");
    drains(&pen, 0);
    // Nobody waits any more, and another one can.
    let again = penctl(&pen, "drain 0 wait 600");
    drop(open);
    assert_eq!(again.join().unwrap(), ("drained\n".into(), Some(0)));
}

#[test]
fn a_server_behind_a_unix_socket_drains_too() {
    let builder = Pen::builder();
    let path = builder.directory().join("a.sock");
    let farm = [Backend::named_unix(&path, "a"), Backend::named("b")];
    open_socket(&path);
    let pen = farm_with(builder, &farm);
    let (open, _) = open_at(&pen, "a", 1);
    let waiting = penctl(&pen, "drain 0 wait 600");
    drains(&pen, 0);
    assert!((60..64).all(|number| pen.ask(client(number)).as_deref() == Some("b")));
    open.finish();
    assert_eq!(waiting.join().unwrap(), ("drained\n".into(), Some(0)));
}

#[test]
fn idlers_leave_a_server_that_drains() {
    let farm = Backend::farm(["a", "b"]);
    let pen = farm_with(Pen::builder().options(["-O", "idlers 6"]), &farm);
    eventually("idlers are at both", || farm.iter().all(|server| server.open() > 0));
    pen.tells("drain 0", "drained");
    eventually("the other has all", || farm[1].open() == 6);
}

#[test]
fn another_state_another_drain_and_the_end_of_the_server_end_the_wait() {
    let farm = Backend::farm(["a", "b"]);
    let pen = farm_with(Pen::builder(), &farm);
    let (open, _) = open_at(&pen, "a", 1);
    for (line, why) in [
        ("server 0 state ready", "drain: server 0 gets new clients again (state ready)\n"),
        ("drain 0 wait 0", "drain: another drain of server 0 has begun\n"),
        ("no server 0", "drain: server 0 is gone, or another one has its number\n"),
    ] {
        pen.tells("server 0 state ready", "");
        let waiting = penctl(&pen, "drain 0 wait 600");
        drains(&pen, 0);
        // The command may have come before the wait, which the state alone does not show.
        eventually("the wait ends", || {
            pen.tell(line);
            pen.tell("pid");
            waiting.is_finished()
        });
        assert_eq!(waiting.join().unwrap(), (why.into(), Some(2)), "{line}");
    }
    open.echoes("still here");
    assert_eq!(pen.refuses("drain 0"), "drain: there is no server 0");
}

#[test]
fn a_server_in_maintenance_can_be_awaited_and_gets_no_client_by_that() {
    let farm = Backend::farm(["a", "b"]);
    let pen = farm_with(Pen::builder(), &farm);
    let (open, number) = open_at(&pen, "a", 1);
    pen.tells("server 0 state maint", "");
    let left = penctl(&pen, "drain 0 wait 0").join().unwrap();
    assert_eq!(left, ("drain: 1 connection left\n".into(), Some(2)));
    assert!(pen.tell("show server 0").contains(" state maint"));
    assert_eq!(pen.ask(client(number)).as_deref(), Some("b"), "it was a client of the server");
    let waiting = penctl(&pen, "drain 0 wait 600");
    drop(open);
    assert_eq!(waiting.join().unwrap(), ("drained\n".into(), Some(0)));
    assert!(pen.tell("show server 0").contains(" state maint"));
}

#[test]
fn many_wait_and_operators_come_and_go_all_the_same() {
    let server = Backend::named("a");
    let builder = (0..50)
        .fold(Pen::builder().options(["-r", "-x", "200"]), |builder, _| builder.server(&server));
    let pen = builder.control().start();
    let open: Vec<_> = (0..50).map(|number| pen.hold(client(number)).unwrap().0).collect();
    let mut waiting: Vec<_> = (0..48)
        .map(|number| {
            let operator = pen.control().connect().unwrap();
            operator.send(format!("drain {number} wait 600\n"));
            drains(&pen, number);
            operator
        })
        .collect();
    let why = "drain: not now: 48 operators wait for drains already; server 48 state drain does \
               not wait";
    assert_eq!(pen.refuses("drain 48"), why);
    // Another drain of the same server takes the place of the first.
    let again = penctl(&pen, "drain 0 wait 600");
    assert_eq!(waiting[0].line().as_deref(), Some("drain: another drain of server 0 has begun"));
    let silent: Vec<_> = (0..200).map(|_| pen.control().connect().unwrap()).collect();
    pen.tells("server 48 state drain", "");
    drop(silent);
    assert!(!again.is_finished());
    drop(open);
    assert_eq!(again.join().unwrap(), ("drained\n".into(), Some(0)));
    for operator in waiting.drain(1..) {
        assert_eq!(operator.line().as_deref(), Some("drained"));
    }
    assert!(!pen.said().contains("has not taken the new settings"), "{}", pen.said());
}

#[test]
fn the_death_of_a_worker_ends_no_wait() {
    let farm = Backend::farm(["a", "b"]);
    let pen = farm_with(Pen::builder().workers(3), &farm);
    let (last, number) = open_at(&pen, "a", 1);
    let others: Vec<_> = (0..3).map(|n| open_at(&pen, "a", number + 1 + 20 * n).0).collect();
    let waiting = penctl(&pen, "drain 0 wait 600");
    drains(&pen, 0);
    for worker in pen.workers() {
        worker.kill();
        eventually("the worker is replaced", || {
            pen.workers().len() == 3 && pen.workers().iter().all(|one| one.pid() != worker.pid())
        });
    }
    // Their workers have died with them.
    drop((last, others));
    assert_eq!(waiting.join().unwrap(), ("drained\n".into(), Some(0)));
    assert!((90..96).all(|number| pen.ask(client(number)).as_deref() == Some("b")));
}

#[test]
fn an_upgrade_ends_the_wait_and_old_workers_close_what_a_later_drain_closes() {
    let farm = Backend::farm(["a", "b"]);
    let pen = Installed::start(Pen::builder().servers(&farm).control());
    let (open, _) = open_at(&pen, "a", 1);
    let waiting = penctl(&pen, "drain 0 wait 600");
    drains(&pen, 0);
    pen.install("0.2.0");
    pen.goes_on_as(env!("CARGO_PKG_VERSION"), "0.2.0");
    let (why, status) = waiting.join().unwrap();
    assert!(why.contains("upgrade") && status == Some(2), "{why}");
    drains(&pen, 0);
    open.echoes("with the old worker");
    assert!((60..66).all(|number| pen.ask(client(number)).as_deref() == Some("b")));
    let late = pen.tell("drain 0 wait 0 close");
    assert_eq!(late, "drain: 1 connection left, closed now\n");
    assert!(open.read_to_end().is_err(), "a reset");
    eventually("nothing is left at the server", || farm[0].open() == 0);
    pen.tells("drain 0", "drained");
}

#[test]
fn the_connections_of_sixteen_workers_are_waited_for_and_closed_at_once() {
    let farm = Backend::farm(["a", "b"]);
    let options = ["-r", "-x", "500"];
    let pen = farm_with(Pen::builder().workers(16).options(options), &farm);
    // Each worker has some at either server.
    let at_both = |from: u8| -> Vec<(Client, String)> {
        let workers = 0..16;
        let each =
            |worker| pen.only(worker, || [0, 1].map(|n| pen.hold(client(from + n)).unwrap()));
        workers.flat_map(each).collect()
    };
    let (of_a, of_b): (Vec<_>, Vec<_>) = at_both(1).into_iter().partition(|(_, name)| name == "a");
    assert_eq!((of_a.len(), of_b.len()), (16, 16));
    let waiting = penctl(&pen, "drain 0 wait 600");
    drains(&pen, 0);
    let mut of_a = of_a.into_iter();
    let last = of_a.next().unwrap().0;
    drop(of_a);
    eventually("the others are gone", || farm[0].open() == 1);
    last.echoes("still here");
    assert!(!waiting.is_finished());
    drop(last);
    assert_eq!(waiting.join().unwrap(), ("drained\n".into(), Some(0)));

    pen.tells("server 0 state ready", "");
    let more = at_both(11);
    pen.tells("drain 1 wait 0", "drain: 32 connections left");
    let closed = "drain: 32 connections left, closed now";
    pen.tells("drain 1 wait 0 close", closed);
    for (open, name) in of_b.iter().chain(&more) {
        match name.as_str() {
            "b" => assert!(open.read_to_end().is_err(), "a reset"),
            _ => open.echoes("at the other server"),
        }
    }
    eventually("nothing is left at the server", || farm[1].open() == 0);
    pen.tells("drain 1", "drained");
}
