//! `redis`: Redis and its replica.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use super::{checks_pass, installed, pen, says, unprivileged};
use crate::harness::Client;
use crate::harness::program::Program;

const REDIS: &str = "/usr/bin/redis-server";

const ME: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 86, 0, 1));

fn redis(address: SocketAddr, directory: &Path) -> Command {
    let mut command = unprivileged(REDIS, directory);
    command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string()]);
    command.args(["--protected-mode", "no", "--save", "", "--repl-diskless-sync-delay", "0"]);
    command
}

/// The first line of the answer to a command.
#[track_caller]
fn told(to: SocketAddr, line: &str) -> String {
    let client = Client::connect(ME, to).unwrap();
    client.send(format!("{line}\r\n"));
    client.line().unwrap().trim_end().to_owned()
}

/// The role of the server that a client gets: the second line of an array, behind its length.
fn role(to: SocketAddr) -> Option<String> {
    let client = Client::connect(ME, to).ok()?;
    client.send("ROLE\r\n");
    let lines = [client.line()?, client.line()?, client.line()?];
    Some(lines[2].trim_end().to_owned())
}

#[test]
fn redis_master_follows_a_change_of_roles() {
    if !installed(&[REDIS]) {
        return;
    }
    let servers = [Program::of(redis), Program::of(redis)];
    let addresses = servers.each_ref().map(Program::address);
    let replicates = |replica: usize, master: usize| {
        let port = addresses[master].port();
        assert_eq!(told(addresses[master], "REPLICAOF NO ONE"), "+OK");
        assert_eq!(told(addresses[replica], &format!("REPLICAOF 127.0.0.1 {port}")), "+OK");
    };
    replicates(1, 0);
    let pen = pen("check redis")
        .options(["-r"])
        .server_as(addresses[0].to_string())
        .server_as(addresses[1].to_string())
        .start();
    (0..2).for_each(|server| says(&pen, server, "check up "));
    pen.tells("check redis master", "");
    let goes_to = |master: usize, replica: usize| {
        says(&pen, master, "check up ");
        says(&pen, replica, "check down expected role \"master\", got \"slave\"");
        for _ in 0..4 {
            assert_eq!(role(pen.address()).as_deref(), Some("master"));
        }
    };
    goes_to(0, 1);
    replicates(0, 1);
    goes_to(1, 0);
    replicates(1, 0);
    goes_to(0, 1);
}

#[test]
fn a_redis_that_wants_a_password_answers() {
    if !installed(&[REDIS]) {
        return;
    }
    let server = Program::of(redis);
    let pen = pen("check redis").server_as(server.address().to_string()).start();
    says(&pen, 0, "check up ");
    assert_eq!(told(server.address(), "CONFIG SET requirepass secret"), "+OK");
    assert!(told(server.address(), "PING").starts_with("-NOAUTH"));
    checks_pass(&pen, 0, 3);
    says(&pen, 0, "check up ");
    // Its role is not told to everybody.
    pen.tells("check redis master", "");
    says(&pen, 0, "check down expected a role, got ");
    drop(server);
    pen.tells("check redis", "");
    says(&pen, 0, "check down refused");
}
