//! haproxy, with TLS in front of HTTP, and in front of a listener that takes PROXY headers.

use std::path::Path;

use super::{NAME, NAMED, Versions, Wanted, failures, file, is_unserved, pen};
use crate::harness::program::installed;
use crate::harness::tls::{Authority, write};
use crate::harness::{Program, eventually};

pub(super) const PROGRAM: &str = "/usr/sbin/haproxy";

/// What it has seen.
const SEEN: &str = "%[ssl_fc_protocol]|%[ssl_fc_sni]|%[ssl_fc_is_resumed]|%[ssl_c_s_dn(cn)]|\
                    %[req.hdr(x-forwarded-for)]|%[req.hdr(x-forwarded-proto)]";

const DEFAULTS: &str = "defaults\n timeout connect 30s\n timeout client 60s\n timeout server 60s\n";

/// An answer with this text.
fn says(text: &str) -> String {
    format!(
        " mode http\n http-request return status 200 content-type text/plain lf-string {text:?}"
    )
}

/// haproxy that says what it has seen.
pub(super) fn start(directory: &Path, wanted: &Wanted<'_>) -> Program {
    let bind = bind(directory, wanted);
    Program::haproxy(&format!("{DEFAULTS}listen l\n bind ADDRESS {bind}\n{}\n", says(SEEN)))
}

/// The options of `bind`.
fn bind(directory: &Path, wanted: &Wanted<'_>) -> String {
    let Wanted { identity, versions, demands } = wanted;
    let both = format!("{}{}", identity.chain, identity.key);
    let certificate = file(directory, identity, "pem", both);
    let versions = match versions {
        Versions::All => "ssl-min-ver TLSv1.2",
        Versions::Only12 => "ssl-min-ver TLSv1.2 ssl-max-ver TLSv1.2",
        Versions::Only13 => "ssl-min-ver TLSv1.3",
    };
    let demands = demands.map_or(String::new(), |authority| {
        let ca = file(directory, identity, "ca", authority.pem());
        format!("ca-file {ca} verify required")
    });
    format!("ssl crt {certificate} {versions} {demands}")
}

#[test]
fn a_listener_behind_tls_reads_the_proxy_header() {
    if !installed(&[PROGRAM]) {
        return;
    }
    let root = Authority::root("root");
    let identity = root.issue(&[NAME]);
    for version in ["v1", "v2"] {
        let builder = pen(&root);
        let bind = bind(builder.directory(), &Wanted::new(&identity));
        let inner = builder.directory().join("inner").display().to_string();
        let haproxy = Program::haproxy(&format!(
            "{DEFAULTS}listen outer\n mode tcp\n bind ADDRESS {bind}\n server inner unix@{inner}\n\
             listen inner\n bind unix@{inner} accept-proxy\n{}\n",
            says("%[src] %[src_port] %[dst_port] %[req.hdr(x-forwarded-for)]")
        ));
        let proxy = format!("proxy_protocol out {version}");
        let builder = builder.options(["-H", "-O", NAMED, "-O", &proxy]);
        let pen = builder.server_as(haproxy.address().to_string()).start();
        let client = pen.connect([127, 0, 0, 9]);
        client.send(super::REQUEST);
        let answer = String::from_utf8(client.read_to_end().unwrap()).unwrap();
        let port = client.socket().local_addr().unwrap().as_socket().unwrap().port();
        let expected = format!("127.0.0.9 {port} {} 127.0.0.9", pen.address().port());
        assert!(answer.ends_with(&format!("\r\n\r\n{expected}")), "{version}: {answer}");
    }
}

#[test]
fn a_proxy_header_before_tls_is_not_what_pen_sends() {
    if !installed(&[PROGRAM]) {
        return;
    }
    let root = Authority::root("root");
    let identity = root.issue(&[NAME]);
    let builder = pen(&root).options(["-O", NAMED, "-O", "proxy_protocol out v2"]);
    let bind = bind(builder.directory(), &Wanted::new(&identity));
    let text = format!("{DEFAULTS}listen l\n bind ADDRESS accept-proxy {bind}\n{}\n", says(SEEN));
    let haproxy = Program::haproxy(&text);
    let pen = builder.server_as(haproxy.address().to_string()).start();
    is_unserved(&pen);
    pen.hears("for 30 s: closed in the TLS handshake");
    eventually("it is counted", || failures(&pen, "closed") == 1);
}

#[test]
fn it_refuses_a_client_whose_certificate_it_does_not_take() {
    if !installed(&[PROGRAM]) {
        return;
    }
    let (root, stranger) = (Authority::root("root"), Authority::root("stranger"));
    let identity = root.issue(&[NAME]);
    for versions in [Versions::Only12, Versions::Only13] {
        for own in [None, Some(stranger.issue(&["client"]))] {
            let builder = pen(&root).options(["-O", NAMED]);
            let directory = builder.directory().to_owned();
            let wanted = Wanted::new(&identity).speaks(versions).demands(&root);
            let haproxy = start(&directory, &wanted);
            let own = own.map(|own| {
                let path = write(&directory, "own.pem", format!("{}{}", own.chain, own.key));
                ["-O".to_owned(), format!("server_tls_cert {}", path.display())]
            });
            let builder = builder.options(own.into_iter().flatten());
            let pen = builder.server_as(haproxy.address().to_string()).start();
            is_unserved(&pen);
            pen.hears("for 30 s: it ended the TLS handshake: ");
            eventually("it is counted", || failures(&pen, "alert") == 1);
        }
    }
}
