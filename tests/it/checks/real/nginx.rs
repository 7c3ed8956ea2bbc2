//! `http`, `https` and `tls`: nginx.

use super::super::{pen, says};
use crate::harness::Pen;
use crate::harness::program::Program;
use crate::harness::tls::{self, Authority};

/// What is at which path.
const PLACES: &str = "location / { return 200 'all is well\\n'; } \
                      location /ill { return 503; } \
                      location /moved { return 301 /; } \
                      location /who { return 200 'I am $host by name $ssl_server_name.'; }";

/// What a check of these places says.
fn judged(pen: &Pen, server: usize, kind: &str) {
    for (check, words) in [
        ("/ill", "check down status 503"),
        ("/moved", "check up "),
        ("/moved status 200-299", "check down status 301"),
        ("/ body is\\swell", "check up "),
        ("/ body is\\sill", "check down no \"is ill\" in the body"),
        ("/who host www.example.com body am\\swww.example.com\\sby", "check up "),
    ] {
        pen.tells(&format!("check {kind} {check}"), "");
        says(pen, server, words);
    }
}

#[test]
fn http_asks_for_a_status_and_a_body() {
    let nginx = Program::nginx("", PLACES);
    let pen = pen("check http /").server_as(nginx.address().to_string()).start();
    says(&pen, 0, "check up ");
    judged(&pen, 0, "http");
    for (check, words) in [("tcp", "check up "), ("tls", "check down "), ("smtp", "check down ")] {
        pen.tells(&format!("check {check}"), "");
        says(&pen, 0, words);
    }
}

#[test]
fn https_does_not_judge_a_certificate_that_nobody_signed_or_that_has_expired() {
    let directory = tempfile::TempDir::new().unwrap();
    let root = Authority::root("nobody knows it");
    let expired = root.issue_until(&["www.example.com"], -24);
    let itself = (root.pem().to_owned(), root.key());
    let servers = [itself, (expired.chain, expired.key)].map(|(chain, key)| {
        let file = tls::write(directory.path(), "chain.pem", chain);
        let key = tls::write(directory.path(), "key.pem", key);
        let files = [file, key].map(|file| file.display().to_string());
        let settings = format!("ssl_certificate {}; ssl_certificate_key {};", files[0], files[1]);
        Program::nginx("ssl", &format!("{settings} {PLACES}"))
    });
    let addresses = servers.each_ref().map(|server| server.address().to_string());
    let pen = pen("check https /").server_as(&addresses[0]).server_as(&addresses[1]).start();
    for check in ["https /", "tls", "tls host www.example.com", "tcp"] {
        pen.tells(&format!("check {check}"), "");
        (0..2).for_each(|server| says(&pen, server, "check up "));
    }
    judged(&pen, 1, "https");
    let name = "https /who host www.example.com body by\\sname\\swww.example.com.";
    pen.tells(&format!("check {name}"), "");
    (0..2).for_each(|server| says(&pen, server, "check up "));
    pen.tells("check http /", "");
    (0..2).for_each(|server| says(&pen, server, "check down status 400"));
}
