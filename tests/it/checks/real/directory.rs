//! `ldap`: slapd of OpenLDAP.

use std::fs;

use super::{checks_pass, installed, pen, says, unprivileged};
use crate::harness::program::Program;

const SLAPD: &str = "/usr/sbin/slapd";

/// slapd with these settings before the database. Its log has each connection and operation.
fn slapd(settings: &str) -> Program {
    Program::of(|address, directory| {
        let root = directory.display();
        let data = directory.join("data");
        fs::create_dir(&data).unwrap();
        let text = format!(
            "include /etc/ldap/schema/core.schema\n{settings}\npidfile {root}/pid\n\
             modulepath /usr/lib/ldap\nmoduleload back_mdb\n\
             database mdb\nsuffix dc=example\ndirectory {}\n",
            data.display()
        );
        let file = directory.join("slapd.conf");
        fs::write(&file, text).unwrap();
        // Its database is its own.
        unprivileged(SLAPD, &data);
        let mut command = unprivileged(SLAPD, directory);
        command.args(["-d", "256", "-h", &format!("ldap://{address}"), "-f"]).arg(file);
        command
    })
}

#[test]
fn ldap_binds_as_nobody_and_leaves_in_order() {
    if !installed(&[SLAPD]) {
        return;
    }
    let (open, closed) = (slapd(""), slapd("disallow bind_anon"));
    let addresses = [&open, &closed].map(|server| server.address().to_string());
    let pen = pen("check ldap").server_as(&addresses[0]).server_as(&addresses[1]).start();
    says(&pen, 0, "check up ");
    says(&pen, 1, "check down error 48");
    checks_pass(&pen, 0, 2);
    // The connections that bound have also unbound, and none of them was lost.
    let log = open.log();
    let lines: Vec<&str> = log.lines().collect();
    let number = |line: &str| line.split("conn=").nth(1)?.split(' ').next().map(str::to_owned);
    let bound = lines.iter().filter(|line| line.contains(" BIND dn=\"\" method=128"));
    let bound: Vec<String> = bound.filter_map(|line| number(line)).collect();
    assert!(bound.len() >= 3, "{log}");
    for number in &bound[..bound.len() - 1] {
        let all = lines.iter().filter(|line| line.contains(&format!("conn={number} ")));
        let all: Vec<&str> = all.copied().collect();
        assert!(all.iter().any(|line| line.contains(" RESULT tag=97 err=0 ")), "{all:?}");
        assert!(all.iter().any(|line| line.ends_with(" UNBIND")), "{all:?}");
        assert!(!all.iter().any(|line| line.contains("connection lost")), "{all:?}");
    }
}
