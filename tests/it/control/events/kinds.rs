//! Each kind of event, caused with the real program.

use std::fs;
use std::net::Ipv4Addr;

use rustix::process::Signal;

use crate::harness::events::{event, events, has};
use crate::harness::{Backend, Pen, eventually};

fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 9, 0, number)
}

#[test]
fn a_server_fails_and_comes_back() {
    let farm = [Backend::named("a"), Backend::down("b")];
    let pen = Pen::builder().control().options(["-r", "-b", "1"]).servers(&farm).start();
    assert_eq!(pen.ask(client(1)).as_deref(), Some("a"));
    let down = event(&pen, "server_down", |_| true);
    let address = farm[1].operand();
    has(
        &pen,
        &down,
        &[
            ("server", 1.into()),
            ("address", address.clone().into()),
            ("seconds", 1.into()),
            ("reason", "connection refused".into()),
        ],
    );
    farm[1].start();
    eventually("b is tried again", || pen.ask(client(1)).as_deref() == Some("b"));
    let up = event(&pen, "server_up", |_| true);
    has(&pen, &up, &[("server", 1.into()), ("address", address.into())]);
    assert!(up["id"].as_u64() > down["id"].as_u64());
}

#[test]
fn operators_change_servers_and_settings() {
    let server = Backend::named("a");
    let pen = Pen::builder().control().server(&server).start();
    let by = ("by", "127.0.0.1".into());
    let address = ("address", server.operand().into());
    pen.tells("server 0 blacklist 3600", "");
    let out = event(&pen, "server_state", |event| event["fields"]["seconds"] == 3600);
    has(&pen, &out, &[("server", 0.into()), address.clone(), by.clone()]);
    pen.tells("server 0 blacklist 0", "");
    let back = event(&pen, "server_state", |event| event["fields"]["seconds"] == 0);
    has(&pen, &back, &[("server", 0.into()), address.clone(), by.clone()]);
    pen.tells("server 0 weight 7 max 3", "");
    let weight = event(&pen, "server_weight", |_| true);
    has(&pen, &weight, &[("server", 0.into()), ("weight", 7.into()), address, by.clone()]);
    pen.tells("timeout 9", "9");
    let setting = event(&pen, "setting", |_| true);
    has(&pen, &setting, &[("setting", "timeout 9".into()), by.clone()]);
    let (_held, _) = pen.hold(Ipv4Addr::LOCALHOST).unwrap();
    pen.tells("close 0", "Forcibly closing connection 0");
    let close = event(&pen, "operator", |_| true);
    has(&pen, &close, &[("connection", 0.into()), by]);
    let ids: Vec<u64> = events(&pen).iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "no number is missing");
    assert_eq!(events(&pen)[0]["kind"], "started");
    let text = pen.tell("events 2");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 2 && lines[1].ends_with(close["text"].as_str().unwrap()), "{text}");
}

#[test]
fn processes_die_and_are_replaced() {
    let server = Backend::named("a");
    let pen = Pen::builder().control().options(["-d"]).server(&server).start();
    let worker = &pen.workers()[1];
    worker.kill();
    let died = event(&pen, "worker_died", |_| true);
    assert_eq!(died["fields"]["process"], "worker");
    has(&pen, &died, &[("pid", worker.pid().into()), ("reason", "was killed by signal 9".into())]);
    let control = pen.control_process();
    control.kill();
    eventually("another control process serves", || pen.control().try_tell("pid").is_ok());
    let of_control = |event: &serde_json::Value| event["fields"]["process"] == "control";
    let died = event(&pen, "worker_died", of_control);
    has(&pen, &died, &[("pid", control.pid().into())]);
    let replaced = event(&pen, "worker_replaced", of_control);
    has(&pen, &replaced, &[("pid", pen.control_process().pid().into())]);
}

#[test]
fn the_configuration_is_read_again() {
    let server = Backend::named("a");
    let pen = Pen::builder().control().server(&server).file("blacklist 1\n").start();
    let path = pen.directory().join("pen.cfg");
    let file = ("file", path.to_str().unwrap().into());
    fs::write(&path, "blacklist 2\nhash\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    let reloaded = event(&pen, "reloaded", |_| true);
    has(&pen, &reloaded, &[file.clone(), ("changes", 2.into())]);
    fs::write(&path, "nonsense\n").unwrap();
    pen.supervisor().signal(Signal::HUP);
    let failed = event(&pen, "reload_failed", |_| true);
    has(&pen, &failed, &[file, ("errors", 1.into())]);
    let reason = failed["fields"]["reason"].as_str().unwrap();
    assert!(reason.contains("nonsense"), "{failed}");
    assert!(events(&pen).iter().any(|event| event["text"] == reason), "the error is told too");
}
