//! `smtp`: OpenSMTPD, which excludes other servers of mail, and aiosmtpd.

use std::fs;
use std::process::Command;

use super::{checks_pass, installed, pen, says, unprivileged};
use crate::harness::program::Program;
use crate::harness::{eventually, machine};

const SMTPD: &str = "/usr/sbin/smtpd";
const AIOSMTPD: &str = "/usr/bin/aiosmtpd";

/// smtpd starts as root only, and its queue and its control socket have fixed places: it gets a
/// file system of its own for them.
fn smtpd() -> Program {
    Program::of(|address, directory| {
        let text = format!(
            "listen on {} port {} hostname mail.example\n\
             action \"relay\" relay\nmatch from local for any action \"relay\"\n",
            address.ip(),
            address.port()
        );
        let file = directory.join("smtpd.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new(SMTPD);
        command.arg("-d").arg("-f").arg(file);
        command
    })
}

#[test]
fn opensmtpd_sees_who_greets_and_quits() {
    let name = "opensmtpd_sees_who_greets_and_quits";
    if !installed(&[SMTPD]) {
        return;
    }
    let places = ["/var/spool", "/run"].map(|place| format!("mount -t tmpfs none {place}"));
    if !machine::in_own_network(name, &places) {
        return;
    }
    let smtpd = smtpd();
    let pen = pen("check smtp").server_as(smtpd.address().to_string()).start();
    says(&pen, 0, "check up ");
    checks_pass(&pen, 0, 2);
    let quits = || smtpd.log().matches(" smtp disconnected reason=quit").count();
    eventually("it has logged them", || quits() > 2);
    let log = smtpd.log();
    // The other one is the harness, which connected to see that it listens.
    assert!(log.matches("reason=").count() <= log.matches("reason=quit").count() + 1, "{log}");
    assert!(!log.contains("bad-input"), "{log}");
}

#[test]
fn aiosmtpd_sees_who_greets_and_quits() {
    if !installed(&[AIOSMTPD]) {
        return;
    }
    let server = Program::of(|address, directory| {
        let mut command = unprivileged(AIOSMTPD, directory);
        command.args(["-n", "-d", "-c", "aiosmtpd.handlers.Sink", "-l", &address.to_string()]);
        command
    });
    let pen = pen("check smtp").server_as(server.address().to_string()).start();
    says(&pen, 0, "check up ");
    eventually("it has logged them", || server.log().matches(">> b'QUIT'").count() > 2);
    drop(server);
    says(&pen, 0, "check down refused");
}
