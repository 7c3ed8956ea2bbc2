//! Checks of servers that speak TLS.

use super::pen;
use crate::harness::tls::Authority;
use crate::harness::tls_server::TlsServer;
use crate::harness::{Builder, Pen, eventually};

/// What `servers` says of the check of a server.
fn said(pen: &Pen, server: usize) -> String {
    let list = pen.tell("servers");
    let line = list.lines().nth(server).unwrap_or_default().to_owned();
    line.split_once(" check ").map_or(String::new(), |(_, check)| check.to_owned())
}

#[track_caller]
fn says(pen: &Pen, server: usize, words: &str) {
    eventually(&format!("{words}, but it is {}", said(pen, server)), || {
        said(pen, server).starts_with(words)
    });
}

fn checked(builder: Builder, check: &str) -> Builder {
    builder.options(["-O", check, "-O", "check_interval 1", "-O", "check_fall 1"])
}

#[test]
fn the_host_of_a_check_is_a_name_for_tls_only_if_its_kind_has_tls_of_its_own() {
    let root = Authority::root("root");
    let server = TlsServer::named("", root.issue(&["127.0.0.1", "www.example"]));
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let server = server.answers("\r\n\r\n", answer).start();
    let pen = checked(pen(&root), "check off").server(&server.backend).start();
    for (check, words, name) in [
        ("http / host www.example", "up", None),
        ("https / host www.example", "up", Some("www.example")),
        // The certificate is for the server, and not for this name.
        ("http / host other.example", "up", None),
        ("https / host other.example:443", "down its certificate is not for its name", None),
        ("tls host other.example", "down its certificate is not for its name", None),
        ("tls host www.example", "up", Some("www.example")),
    ] {
        pen.tell(&format!("check {check}"));
        says(&pen, 0, words);
        if words == "up" {
            eventually(&format!("{check} has come with {name:?}"), || {
                server.seen().last().is_some_and(|seen| seen.name.as_deref() == name)
            });
        }
        pen.tell("check off");
        eventually("there is no verdict", || !pen.tell("servers").contains(" check "));
    }
}

#[test]
fn checks_go_the_way_of_the_connections_and_judge_the_certificate() {
    let (root, stranger) = (Authority::root("root"), Authority::root("stranger"));
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let server = |authority: &Authority| {
        let server = TlsServer::named("", authority.issue(&["127.0.0.1"]));
        server.answers("\r\n\r\n", answer).start()
    };
    let (good, bad) = (server(&root), server(&stranger));
    for check in ["check http /", "check https /", "check tls", "check tcp"] {
        let builder = checked(pen(&root), check);
        let pen = builder.servers([&good.backend, &bad.backend]).start();
        says(&pen, 0, "up");
        says(&pen, 1, "down its certificate is of an unknown authority");
        pen.tell("server 1 tls off");
        match check {
            // Without tls, the certificate is not judged.
            "check https /" | "check tls" | "check tcp" => says(&pen, 1, "up"),
            _ => says(&pen, 1, "down "),
        }
        pen.tell("server 1 tls on");
        says(&pen, 1, "down its certificate is of an unknown authority");
        pen.tell("server_tls_verify off");
        says(&pen, 1, "up");
    }
}
