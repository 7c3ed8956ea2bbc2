//! `dns`: Knot DNS, over TCP.

use std::fs;

use super::{installed, pen, says, unprivileged};
use crate::harness::program::Program;

const KNOT: &str = "/usr/sbin/knotd";

/// A zone with one name.
const ZONE: &str = "$ORIGIN example.\n\
                    @ 60 SOA ns hostmaster 1 60 60 60 60\n\
                    @ 60 NS ns\n\
                    ns 60 A 127.0.0.1\n\
                    www 60 A 192.0.2.1\n";

fn knot() -> Program {
    Program::of(|address, directory| {
        let root = directory.display();
        fs::write(directory.join("zone"), ZONE).unwrap();
        let text = format!(
            "server:\n  listen: {}@{}\n  rundir: {root}\ndatabase:\n  storage: {root}\n\
             log:\n  - target: stderr\n    any: info\n\
             zone:\n  - domain: example\n    file: {root}/zone\n",
            address.ip(),
            address.port()
        );
        let file = directory.join("knot.conf");
        fs::write(&file, text).unwrap();
        let mut command = unprivileged(KNOT, directory);
        command.arg("-c").arg(file);
        command
    })
}

#[test]
fn dns_asks_for_an_address_of_a_name() {
    if !installed(&[KNOT]) {
        return;
    }
    let knot = knot();
    let pen = pen("check dns www.example").server_as(knot.address().to_string()).start();
    says(&pen, 0, "check up ");
    for (name, words) in [
        ("nobody.example", "check down NXDOMAIN"),
        // It has no A record, but the server knows it.
        ("example", "check up "),
        ("www.test", "check down REFUSED"),
        ("www.example.", "check up "),
    ] {
        pen.tells(&format!("check dns {name}"), "");
        says(&pen, 0, words);
    }
}
