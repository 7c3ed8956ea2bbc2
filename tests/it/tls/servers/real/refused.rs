//! Certificates of nginx and haproxy that are refused, each with its reason.

use super::{Kind, NAME, NAMED, Wanted, failures, is_explained, is_unserved, pen};
use crate::harness::tls::Authority;
use crate::harness::{Program, eventually};

#[test]
fn each_bad_certificate_is_refused_with_its_reason() {
    let (root, stranger) = (Authority::root("root"), Authority::root("stranger"));
    let bad = [
        (root.issue_until(&[NAME], -1), "expired", "its certificate has expired"),
        (root.issue(&["other.example"]), "wrong_name", "its certificate is not for its name"),
        (
            stranger.issue(&[NAME]),
            "unknown_authority",
            "its certificate is of an unknown authority",
        ),
        (Authority::self_signed(&[NAME]), "self_signed", "its certificate is self-signed"),
    ];
    for kind in Kind::all() {
        let builder = pen(&root).options(["-r", "-O", NAMED]);
        let directory = builder.directory().to_owned();
        let start = |identity| kind.start(&directory, &Wanted::new(identity));
        let servers: Vec<Program> = bad.iter().map(|(identity, ..)| start(identity)).collect();
        let addresses = servers.iter().map(|server| server.address().to_string());
        let pen = addresses.fold(builder, |builder, address| builder.server_as(address)).start();
        // One client tries them all.
        is_unserved(&pen);
        for (number, (server, (_, reason, text))) in servers.iter().zip(&bad).enumerate() {
            let address = server.address();
            pen.hears(&format!("blacklisting server {number} ({address}) for 30 s: {text}"));
            eventually("it is counted", || failures(&pen, reason) == 1);
            is_explained(&pen, number, address, text);
        }
    }
}
