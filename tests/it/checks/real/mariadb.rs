//! `mysql USER`: MariaDB, which blocks a host after too many connections without a login.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use super::{checks_pass, installed, pen, runs, says, unprivileged};
use crate::harness::program::Program;
use crate::harness::{Client, eventually, machine};

const MARIADB: &str = "/usr/sbin/mariadbd";
const INSTALL: &str = "/usr/bin/mariadb-install-db";
const CLIENT: &str = "/usr/bin/mariadb";

/// The source of checks, and of clients that end without a login. 127.0.0.1 is never blocked.
const CHECKS: &str = "127.86.1.1";
const RUDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 86, 1, 2));

/// Errors of a host before it is blocked.
const ERRORS: u32 = 3;

/// Servers of pen that are all the same one: so many checks come in each second.
const TWINS: usize = 8;

/// MariaDB with one user without a password.
fn mariadb() -> Program {
    Program::of(|address, directory| {
        let data = format!("--datadir={}/data", directory.display());
        let mut install = unprivileged(INSTALL, directory);
        install.args(["--no-defaults", &data, "--skip-test-db", "--skip-name-resolve"]);
        runs(install.arg("--auth-root-authentication-method=normal"));
        fs::write(directory.join("init"), "CREATE USER penny@'%';\n").unwrap();
        let mut command = unprivileged(MARIADB, directory);
        command.args(["--no-defaults", &data, "--bind-address=127.0.0.1"]);
        command.arg(format!("--port={}", address.port()));
        command.arg(format!("--max-connect-errors={ERRORS}"));
        command.arg(format!("--socket={}/socket", directory.display()));
        command.arg(format!("--pid-file={}/pid", directory.display()));
        command.arg(format!("--init-file={}/init", directory.display()));
        command
    })
}

/// One number of its status.
fn number(server: &Program, name: &str) -> u32 {
    let output = Command::new(CLIENT)
        .arg("--no-defaults")
        .arg(format!("--socket={}/socket", server.directory().display()))
        .args(["-u", "root", "-N", "-B", "-e"])
        .arg(format!("SHOW GLOBAL STATUS LIKE '{name}'"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = text.split_whitespace().nth(1).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn mysql_logs_in_and_its_host_is_never_blocked() {
    let name = "mysql_logs_in_and_its_host_is_never_blocked";
    if !installed(&[MARIADB, INSTALL, CLIENT]) {
        return;
    }
    // It counts errors only if it looks up names, which must not depend on this machine.
    let hosts = format!("127.0.0.1 localhost\n{CHECKS} checks.example\n{RUDE} rude.example\n");
    let names = [machine::in_etc("hosts", &hosts), machine::in_etc("resolv.conf", "")];
    if !machine::in_own_network(name, &names) {
        return;
    }
    let server = mariadb();
    // The harness itself connected, to see that it listens.
    eventually("it has seen the harness go", || number(&server, "Aborted_connects") == 1);
    let operand = server.address().to_string();
    let builder = pen("check mysql penny").options(["-O", &format!("source {CHECKS}")]);
    let pen = (0..TWINS).fold(builder, |builder, _| builder.server_as(&operand)).start();
    for twin in 0..TWINS {
        says(&pen, twin, "check up ");
        checks_pass(&pen, twin, 1);
    }
    assert_eq!(number(&server, "Aborted_connects"), 1);
    assert!(!server.log().contains("checks.example"), "{}", server.log());
    let before = number(&server, "Connections");
    // A login that is refused says so; it is an error of the user, not of the host.
    pen.tells("check mysql nobody", "");
    (0..TWINS).for_each(|twin| says(&pen, twin, "check down error 1045"));
    assert!(number(&server, "Connections") - before > 2 * TWINS as u32);
    let denied = "Access denied for user 'nobody'@'checks.example'";
    eventually("it is told", || server.log().contains(denied));
    pen.tells("check mysql penny", "");
    (0..TWINS).for_each(|twin| says(&pen, twin, "check up "));
    // The limit is at work: who leaves without a login is refused soon.
    let greeting = || {
        let client = Client::connect(RUDE, server.address()).unwrap();
        String::from_utf8_lossy(&client.read(1024).unwrap()).into_owned()
    };
    let mut refused = false;
    for _ in 0..ERRORS * 3 {
        let seen = number(&server, "Aborted_connects");
        refused = greeting().contains("is blocked");
        if refused {
            break;
        }
        eventually("it counts", || number(&server, "Aborted_connects") > seen);
    }
    assert!(refused);
    // Only of that host.
    checks_pass(&pen, 0, 1);
    says(&pen, 0, "check up ");
}
