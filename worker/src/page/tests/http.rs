//! Requests and responses.

use std::io::Write;
use std::net::Shutdown;

use pen_config::acl::{AclVerdict, Net};
use pen_config::ids::ClientKey;
use pen_config::settings::Settings;
use pen_ipc::codec;
use pen_ipc::message::{FromPage, ToPage};
use pen_status::metrics::{self, Exposition};
use pen_status::{Status, page};

use super::*;

#[test]
fn all_readers_share_one_answer_and_each_form_of_it() {
    let process = Process::plain();
    let mut readers: Vec<_> = ["/status.json", "/", "/health", "/status.json", "/metrics"]
        .map(|path| process.gets(path))
        .into();
    let serial = process.asked();
    assert!(process.asks_nothing());
    let status = Status { listen: "<here>".into(), ..well() };
    process.answers(serial, &status);
    let got: Vec<Got> = readers.iter_mut().map(|reader| response(reader, true)).collect();
    assert!(got.iter().all(|got| got.status == 200), "{got:?}");
    assert_eq!(serde_json::from_str::<Status>(&got[0].body).unwrap(), status);
    assert!(got[0].has("Content-Type: application/json") && got[0].body.ends_with("}\n"));
    assert_eq!(got[1].body, page::render(&status));
    assert!(got[1].has("Content-Type: text/html; charset=utf-8"));
    let policy = format!("Content-Security-Policy: {}", page::CONTENT_SECURITY_POLICY);
    assert!(got[1].has(&policy) && !got[0].has(&policy));
    assert_eq!((&got[2].body[..], &got[3].body), ("ok\n", &got[0].body));
    assert!(got[4].has("Content-Type: text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(got[4].body, metrics::render(&status, Exposition::Prometheus));
    let open = "GET /metrics HTTP/1.1\r\nHost: pen\r\nAccept: application/openmetrics-text\r\n\r\n";
    let open = response(&mut process.sends(open), true);
    assert_eq!(open.body, metrics::render(&status, Exposition::OpenMetrics));
    // What is a moment old is shown without a question.
    assert_eq!(response(&mut process.gets("/status.json"), true).body, got[0].body);
    assert!(process.asks_nothing());
    // The next question is asked when a second is over: a stream of events wants each answer.
    let _stream = process.gets("/events");
    assert_eq!(process.asked(), serial + 1);
    let mut reader = process.gets("/health");
    process.answers(serial + 1, &Status { connections: 9, ..well() });
    let got = response(&mut reader, true);
    // Clients that wait are served later: this is no outage.
    let waiting = "ok, but 9 of 9 connections are in use: clients wait\n";
    assert_eq!((got.status, &got.body[..]), (200, waiting));
    assert_eq!(process.asked(), serial + 2);
    let mut reader = process.gets("/health");
    process.answers(serial + 2, &Status { dummy: false, ..well() });
    let got = response(&mut reader, true);
    assert_eq!((got.status, &got.body[..]), (503, "there is no server\n"));
    assert!(got.has("Retry-After: 1"));
}

#[test]
fn without_a_status_readers_are_told_why() {
    let process = Process::plain();
    let mut reader = process.gets("/health");
    let serial = process.asked();
    // An answer to no question counts for nothing.
    process.answers(serial.wrapping_add(7), &well());
    process.tells(&ToPage::NoStatus { serial, why: "no memory".into() }, None);
    let got = response(&mut reader, true);
    assert_eq!((got.status, &got.body[..]), (503, "no memory\n"));
    let mut reader = process.gets("/status.json");
    let serial = process.asked();
    // No answer comes.
    let got = response(&mut reader, true);
    assert_eq!((got.status, &got.body[..]), (503, "pen's supervisor does not answer\n"));
    // The connection goes on, and so do the questions. A late answer is one all the same.
    reader.write_all(b"GET /health HTTP/1.1\r\nHost: pen\r\n\r\n").unwrap();
    assert_eq!(process.asked(), serial + 1);
    process.answers(serial + 1, &well());
    assert_eq!(response(&mut reader, true).status, 200);
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let process = Process::plain();
    let mut reader = process.sends(
        "GET /a HTTP/1.1\r\nHost: pen\r\n\r\nHEAD /b HTTP/1.1\r\nHost: pen\r\n\r\n\
         GET /health HTTP/1.1\r\nHost: pen\r\n\r\nGET /c HTTP/1.0\r\n\r\nGET /d HTTP/1.0\r\n\r\n",
    );
    assert_eq!(response(&mut reader, true).status, 404);
    let head = response(&mut reader, false);
    assert!(head.status == 404 && head.has("Connection: keep-alive"));
    let serial = process.asked();
    process.answers(serial, &well());
    assert_eq!(response(&mut reader, true).body, "ok\n");
    let last = response(&mut reader, true);
    assert!(last.status == 404 && last.has("Connection: close"));
    assert_eq!(rest(&mut reader), "");
    // Many in one packet, and one in many packets.
    let mut reader = process.sends("HEAD / HTTP/1.1\r\nHost: evil.com\r\n\r\n".repeat(100));
    (0..100).for_each(|_| assert_eq!(response(&mut reader, false).status, 421));
    for byte in b"GET /x HTTP/1.1\r\nHost: pen\r\n\r\n" {
        reader.write_all(&[*byte]).unwrap();
    }
    assert_eq!(response(&mut reader, true).status, 404);
    // An end of file after the request does not cost the response.
    let mut reader = process.gets("/x");
    reader.shutdown(Shutdown::Write).unwrap();
    assert_eq!(response(&mut reader, true).status, 404);
    assert_eq!(rest(&mut reader), "");
}

#[test]
fn what_is_no_request_is_answered_once_and_ends_the_connection() {
    let process = Process::plain();
    let get = "GET /x HTTP/1.1\r\nHost: pen\r\n";
    for (bytes, status) in [
        ("\0\x01\x02\r\n\r\n".to_owned(), 400),
        // The beginning of a greeting of TLS: more would come only after an answer.
        ("\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03".to_owned(), 400),
        ("GET /health x HTTP/1.1\r\nHost: pen\r\n\r\n".to_owned(), 400),
        (format!("{get}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{get}\r\n"), 400),
        (format!("{get}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc{get}\r\n"), 400),
        (format!("{get}Content-Length: 3\r\n\r\nabc{get}\r\n"), 413),
        (format!("POST /x HTTP/1.1\r\nHost: pen\r\nContent-Length: 3\r\n\r\nabc{get}\r\n"), 405),
        (
            format!(
                "PUT /x HTTP/1.1\r\nHost: pen\r\nTransfer-Encoding: chunked\r\n\r\n\
                 0\r\n\r\n{get}\r\n"
            ),
            405,
        ),
        (format!("DELETE /x HTTP/1.1\r\nHost: pen\r\n\r\n{get}\r\n"), 405),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
        (format!("{get}A: {}\r\n\r\n", "x".repeat(9000)), 431),
        (format!("{get}{}\r\n", "a: b\r\n".repeat(200)), 431),
        // Half of it is still on its way when the answer is sent.
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(1 << 20)), 431),
    ] {
        let mut reader = process.connect();
        // The process may end the connection before it has taken everything.
        let _ = reader.write_all(bytes.as_bytes());
        let got = response(&mut reader, true);
        assert_eq!(got.status, status, "{:?}", &bytes[..bytes.len().min(200)]);
        assert!(got.has("Connection: close"));
        assert_eq!(got.has("Allow: GET, HEAD"), status == 405);
        let _ = reader.shutdown(Shutdown::Write);
        assert_eq!(rest(&mut reader), "");
    }
    assert!(process.asks_nothing());
    assert_eq!(response(&mut process.gets("/x"), true).status, 404);
}

#[test]
fn only_known_names_get_the_page() {
    let process = Process::plain();
    for (host, status) in
        [("evil.com", 421), ("127.0.0.1:9", 404), ("LB1.example.com:80", 404), ("localhost", 404)]
    {
        let request = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(response(&mut process.sends(request), true).status, status, "{host}");
    }
    let absolute = "GET http://evil.com/ HTTP/1.1\r\nHost: pen\r\n\r\n";
    assert_eq!(response(&mut process.sends(absolute), true).status, 421);
}

#[test]
fn the_access_list_turns_away_and_new_settings_change_it() {
    let mut settings = Settings { page_acl: 3, generation: 8, ..Settings::default() };
    let all = Net::v4_prefix("127.0.0.0".parse().unwrap(), 8).unwrap();
    assert!(settings.acls[3].push(AclVerdict::Deny, all));
    let process = Process::start(settings.clone());
    let error = process.connect().read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let FromPage::Refused { client } = message(&process.channel) else { panic!() };
    assert_eq!(ClientKey::from_bytes(client).to_string(), "127.0.0.1");
    (settings.page_acl, settings.generation) = (0, 9);
    let memory = memory(&codec::encode_settings(&settings).unwrap());
    process.tells(&ToPage::Settings, Some(&memory));
    assert_eq!(message(&process.channel), FromPage::Applied { generation: 9 });
    assert_eq!(response(&mut process.gets("/x"), true).status, 404);
    process.tells(&ToPage::Ping { serial: 5 }, None);
    assert_eq!(message(&process.channel), FromPage::Pong { serial: 5 });
}

#[test]
fn a_stricter_access_list_ends_readers_that_are_there() {
    let process = Process::plain();
    let (mut idle, mut stream) = (process.gets("/x"), process.gets("/events"));
    assert_eq!(response(&mut idle, true).status, 404);
    head(&mut stream);
    process.asked();
    let mut settings = Settings { page_acl: 3, generation: 8, ..Settings::default() };
    let elsewhere = Net::v4_prefix("192.0.2.0".parse().unwrap(), 24).unwrap();
    assert!(settings.acls[3].push(AclVerdict::Deny, elsewhere));
    let tells = |settings: &Settings| {
        let memory = memory(&codec::encode_settings(settings).unwrap());
        process.tells(&ToPage::Settings, Some(&memory));
    };
    let applied = |wanted| loop {
        match message(&process.channel) {
            FromPage::Applied { generation } if generation == wanted => return,
            FromPage::Applied { .. } | FromPage::Ask { .. } | FromPage::Refused { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    tells(&settings);
    applied(8);
    // They are permitted, and stay.
    idle.write_all(b"GET /x HTTP/1.1\r\nHost: pen\r\n\r\n").unwrap();
    assert_eq!(response(&mut idle, true).status, 404);
    let here = Net::v4_prefix("127.0.0.0".parse().unwrap(), 8).unwrap();
    assert!(settings.acls[3].push(AclVerdict::Deny, here));
    settings.generation = 9;
    tells(&settings);
    applied(9);
    for reader in [&mut idle, &mut stream] {
        let error = std::io::copy(reader, &mut std::io::sink()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
