//! Restarts of all servers under a thousand new clients a second: no client notices.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::harness::machine::example;
use crate::harness::port::Port;
use crate::harness::{Pen, eventually};

/// A server that is a process of its own.
struct Server {
    port: Port,
    process: Child,
}

impl Server {
    fn start() -> Server {
        let port = Port::reserve();
        let process = Server::spawn(&port);
        Server { port, process }
    }

    fn spawn(port: &Port) -> Child {
        let address = port.address().to_string();
        let mut process = Command::new(example("generator"))
            .args(["serve", &address, "1"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        process
    }

    /// Kills it. Whoever is connected notices.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.kill();
        self.process = Server::spawn(&self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs clients while `act` runs, and checks that none of them failed.
fn under_load(options: &[&str], act: impl FnOnce(&Pen, &mut [Server])) {
    let mut servers: Vec<Server> = (0..3).map(|_| Server::start()).collect();
    let mut builder = Pen::builder().workers(2).options(["-r", "-x", "20000"]).options(options);
    for server in &servers {
        builder = builder.server_as(server.port.address().to_string());
    }
    let pen = builder.control().start();
    let mut clients = Command::new(example("generator"))
        .args(["short", &pen.address().to_string(), "rate=1000", "clients=200"])
        .args(["milliseconds=5000", "bytes=64"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let accepted = || {
        let status: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
        status["counts"]["accepted"].as_u64().unwrap()
    };
    eventually("clients come", || accepted() > 100);
    let before = accepted();
    act(&pen, &mut servers);
    eventually("clients came meanwhile", || accepted() > before);
    let is_over_before = clients.try_wait().unwrap().is_some();
    let output = clients.wait_with_output().unwrap();
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    eprintln!("{result}");
    assert!(!is_over_before, "the restarts took longer than the load: {result}");
    assert_eq!(result["errors"], 0, "{result}");
    assert!(result["units"].as_u64().unwrap() > 1000, "{result}");
}

#[test]
fn one_server_after_the_other_is_drained_and_restarted_and_no_client_fails() {
    under_load(&[], |pen, servers| {
        for (number, server) in servers.iter_mut().enumerate() {
            pen.tells(&format!("drain {number} wait 60"), "drained");
            server.restart();
            pen.tells(&format!("server {number} state ready"), "");
        }
    });
}

#[test]
fn all_servers_are_restarted_at_once_while_clients_are_held_and_none_fails() {
    under_load(&["-O", "hold 60"], |pen, servers| {
        thread::scope(|scope| {
            for number in 0..servers.len() {
                let line = format!("drain {number} wait 60");
                scope.spawn(move || pen.tells(&line, "drained"));
            }
        });
        servers.iter_mut().for_each(Server::kill);
        servers.iter_mut().for_each(|server| server.process = Server::spawn(&server.port));
        for number in 0..servers.len() {
            pen.tells(&format!("server {number} state ready"), "");
        }
    });
}

#[test]
fn all_servers_are_restarted_at_once_in_a_pause_and_no_client_fails() {
    under_load(&[], |pen, servers| {
        pen.tells("pause", "");
        eventually("the servers have nothing to do", || {
            pen.tell("servers json").matches("\"connections\":0").count() == servers.len()
        });
        servers.iter_mut().for_each(Server::restart);
        pen.tells("resume", "");
    });
}
