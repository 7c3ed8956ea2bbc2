//! nginx, whose module for HTTP has TLS.

use std::path::Path;

use super::{NAME, NAMED, Versions, Wanted, answer, failures, file, is_unserved, pen};
use crate::harness::program::installed;
use crate::harness::tls::{Authority, write};
use crate::harness::{Program, eventually};

pub(super) const PROGRAM: &str = "/usr/sbin/nginx";

/// What it has seen.
const SEEN: &str = "$ssl_protocol|$ssl_server_name|$ssl_session_reused|$ssl_client_s_dn|\
                    $http_x_forwarded_for|$http_x_forwarded_proto";

/// nginx that says what it has seen, and has the files of its directory.
pub(super) fn start(directory: &Path, wanted: &Wanted<'_>) -> Program {
    listening(directory, wanted, "ssl")
}

/// The same with these options of `listen`.
fn listening(directory: &Path, wanted: &Wanted<'_>, options: &str) -> Program {
    let Wanted { identity, versions, demands } = wanted;
    let chain = file(directory, identity, "pem", &identity.chain);
    let key = file(directory, identity, "key", &identity.key);
    let versions = match versions {
        Versions::All => "TLSv1.2 TLSv1.3",
        Versions::Only12 => "TLSv1.2",
        Versions::Only13 => "TLSv1.3",
    };
    let demands = demands.map_or(String::new(), |authority| {
        let ca = file(directory, identity, "ca", authority.pem());
        format!("ssl_client_certificate {ca}; ssl_verify_client on;")
    });
    let body = format!(
        "ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols {versions}; {demands}\n\
         location = /seen {{ return 200 \"{SEEN}\"; }}"
    );
    Program::nginx(options, &body)
}

#[test]
fn a_file_of_some_megabytes_arrives_whole() {
    if !installed(&[PROGRAM]) {
        return;
    }
    let root = Authority::root("root");
    let identity = root.issue(&[NAME]);
    let bytes = crate::harness::numbers::Bytes::new(3).take(5 << 20);
    for versions in [Versions::Only12, Versions::Only13] {
        let builder = pen(&root);
        let nginx = start(builder.directory(), &Wanted::new(&identity).speaks(versions));
        write(nginx.directory(), "file", &bytes);
        let pen = builder.options(["-O", NAMED]).server_as(nginx.address().to_string()).start();
        let client = pen.connect(super::LOCALHOST);
        client.send("GET /file HTTP/1.0\r\n\r\n");
        let answer = client.read_to_end().expect("an orderly end");
        assert!(answer.ends_with(&bytes), "{versions:?}: {} bytes", answer.len());
    }
}

#[test]
fn it_answers_a_client_whose_certificate_it_does_not_take() {
    if !installed(&[PROGRAM]) {
        return;
    }
    let (root, stranger) = (Authority::root("root"), Authority::root("stranger"));
    let identity = root.issue(&[NAME]);
    for (own, says) in [
        (None, "No required SSL certificate was sent"),
        (Some(stranger.issue(&["client"])), "The SSL certificate error"),
    ] {
        let builder = pen(&root).options(["-O", NAMED]);
        let directory = builder.directory().to_owned();
        let nginx = start(&directory, &Wanted::new(&identity).demands(&root));
        let own = own.map(|own| {
            let path = write(&directory, "own.pem", format!("{}{}", own.chain, own.key));
            ["-O".to_owned(), format!("server_tls_cert {}", path.display())]
        });
        let builder = builder.options(own.into_iter().flatten());
        let pen = builder.server_as(nginx.address().to_string()).start();
        // For TLS and for pen, this is a connection like others.
        let answer = String::from_utf8_lossy(&answer(&pen)).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(says), "{answer}");
    }
}

#[test]
fn a_proxy_header_before_tls_is_not_what_pen_sends() {
    if !installed(&[PROGRAM]) {
        return;
    }
    let root = Authority::root("root");
    let identity = root.issue(&[NAME]);
    let builder = pen(&root).options(["-O", NAMED, "-O", "proxy_protocol out v1"]);
    let nginx = listening(builder.directory(), &Wanted::new(&identity), "ssl proxy_protocol");
    let pen = builder.server_as(nginx.address().to_string()).start();
    is_unserved(&pen);
    pen.hears("for 30 s: closed in the TLS handshake");
    eventually("it is counted", || failures(&pen, "closed") == 1);
    assert!(nginx.log().contains("broken header"), "{}", nginx.log());
}
