//! `pgsql`: PostgreSQL without and with TLS, and what its log shows.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{checks_pass, installed, pen, runs, says, unprivileged};
use crate::harness::machine::{NOBODY, is_root};
use crate::harness::program::Program;
use crate::harness::tls::{self, Authority};
use crate::harness::{Client, eventually};

const ME: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 86, 0, 2));

/// The directory of the programs of one version of PostgreSQL.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found = versions.map(|version| version.path().join("bin"));
    let found = found.find(|programs| programs.join("postgres").exists());
    // Said only if there is none.
    found.or_else(|| installed(&["/usr/lib/postgresql/*/bin/postgres"]).then(PathBuf::new))
}

/// PostgreSQL with the settings that it has by default, but for `ssl`.
fn postgres(programs: &Path, certificate: Option<&Authority>) -> Program {
    Program::of(|address, directory| {
        let data = directory.join("data");
        let mut init = unprivileged(programs.join("initdb"), directory);
        init.arg("-D").arg(&data).args(["-A", "trust", "-U", "postgres", "--locale=C", "-N"]);
        runs(&mut init);
        let mut command = unprivileged(programs.join("postgres"), directory);
        command.arg("-D").arg(&data).arg("-k").arg(directory);
        command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-F"]);
        if let Some(certificate) = certificate {
            let file = tls::write(&data, "server.crt", certificate.pem());
            let key = tls::write(&data, "server.key", certificate.key());
            fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
            let owner = is_root().then_some(NOBODY);
            for file in [file, key] {
                std::os::unix::fs::chown(file, owner, owner).unwrap();
            }
            command.args(["-c", "ssl=on"]);
        }
        command
    })
}

/// The lines of the log since the server was ready.
fn since_ready(server: &Program) -> String {
    let log = server.log();
    let (_, rest) = log.split_once("ready to accept connections").unwrap_or_default();
    rest.trim().to_owned()
}

#[test]
fn pgsql_asks_with_and_without_tls_and_leaves_no_line_in_the_log() {
    let Some(programs) = programs() else { return };
    let root = Authority::root("db.example");
    let servers = [postgres(&programs, None), postgres(&programs, Some(&root))];
    let addresses = servers.each_ref().map(|server| server.address().to_string());
    for server in &servers {
        eventually("it is ready", || server.log().contains("ready to accept connections"));
    }
    let pen = pen("check pgsql").server_as(&addresses[0]).server_as(&addresses[1]).start();
    for check in ["pgsql", "tcp"] {
        pen.tells(&format!("check {check}"), "");
        for server in 0..2 {
            says(&pen, server, "check up ");
            checks_pass(&pen, server, 2);
        }
    }
    for server in &servers {
        assert_eq!(since_ready(server), "");
    }
    // The log does tell of those that end in the middle.
    let client = Client::connect(ME, servers[1].address()).unwrap();
    client.send([0, 0, 0, 8, 4, 210, 22, 47]);
    assert_eq!(client.read_exactly(1), b"S");
    drop(client);
    eventually("it is told", || since_ready(&servers[1]).contains("could not accept SSL"));
    pen.tells("check redis", "");
    says(&pen, 0, "check down ");
}
