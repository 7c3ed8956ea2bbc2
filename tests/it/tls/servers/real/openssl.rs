//! The server of openssl(1), which is as strict as those of most programs.

use std::process::Command;

use super::{LOCALHOST, NAME, NAMED, file, pen};
use crate::harness::program::installed;
use crate::harness::tls::{Authority, Identity, write};
use crate::harness::{Pen, Program, eventually};

const PROGRAM: &str = "/usr/bin/openssl";

/// openssl with this certificate and these options. It answers each request with a page about the
/// session.
fn s_server(pen: &std::path::Path, identity: &Identity, options: &[&str]) -> Program {
    let chain = file(pen, identity, "pem", &identity.chain);
    let key = file(pen, identity, "key", &identity.key);
    Program::of(|address, _| {
        let mut command = Command::new(PROGRAM);
        command.args(["s_server", "-accept", &address.to_string(), "-cert", &chain, "-key", &key]);
        command.arg("-www").args(options);
        command
    })
}

/// Its page for a client of pen.
fn page(pen: &Pen) -> String {
    let client = pen.connect(LOCALHOST);
    client.send("GET / HTTP/1.0\r\n\r\n");
    String::from_utf8_lossy(&client.read_to_end().unwrap_or_default()).into_owned()
}

#[test]
fn it_resumes_and_sees_the_certificate() {
    if !installed(&[PROGRAM]) {
        return;
    }
    let root = Authority::root("root");
    let (identity, own) = (root.issue(&[NAME]), root.issue(&["client"]));
    for version in ["-tls1_2", "-tls1_3"] {
        let builder = pen(&root).options(["-O", NAMED]).workers(1);
        let ca = write(builder.directory(), "root.pem", root.pem()).display().to_string();
        let options = [version, "-CAfile", &ca, "-Verify", "2", "-verify_return_error"];
        let server = s_server(builder.directory(), &identity, &options);
        let own = write(builder.directory(), "own.pem", format!("{}{}", own.chain, own.key));
        let command = format!("server_tls_cert {}", own.display());
        let builder = builder.options(["-O", &command]);
        let pen = builder.server_as(server.address().to_string()).start();
        for round in 0..3 {
            let page = page(&pen);
            assert!(page.contains("CN=client") || page.contains("CN = client"), "{page}");
            let kind = if round == 0 { "New, " } else { "Reused, " };
            assert!(page.contains(kind), "{version} {round}: {page}");
        }
        eventually("nothing is left", || pen.report().in_use() == 0);
    }
}

#[test]
fn an_old_version_is_none_in_common() {
    if !installed(&[PROGRAM]) {
        return;
    }
    let root = Authority::root("root");
    let builder = pen(&root).options(["-O", NAMED]);
    // The lowest level, in which it still has the suites of this version.
    let options = ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    let server = s_server(builder.directory(), &root.issue(&[NAME]), &options);
    let pen = builder.server_as(server.address().to_string()).start();
    assert_eq!(page(&pen), "");
    pen.hears("for 30 s: it ended the TLS handshake: protocol_version");
}
