//! Each way in which a connection ends gives exactly one line, with the reason.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{ends, entries, logging};
use crate::harness::backend::Blackhole;
use crate::harness::tls::{Authority, write};
use crate::harness::{Backend, Builder, Client, Pen, Port, eventually};

/// A client address of its own for each number.
fn client(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 81, 0, number)
}

/// Starts a pen, causes an end, stops pen, and returns the only line.
#[track_caller]
fn only_line(builder: Builder, cause: impl FnOnce(&Pen)) -> Value {
    let (builder, log) = logging(builder);
    let mut pen = builder.start();
    cause(&pen);
    let line = entries(&log, 1).remove(0);
    pen.end_by(Signal::TERM);
    assert_eq!(entries(&log, 1).len(), 1, "no second line");
    line
}

/// A server that resets a connection when it has read something.
fn resetter() -> Backend {
    Backend::with(|mut connection| {
        io::Read::read(&mut connection, &mut [0])?;
        connection.set_linger(Some(Duration::ZERO))
    })
}

#[test]
fn who_ends_first_is_the_end() {
    let server = Backend::named("a");
    let line = only_line(Pen::builder().server(&server), |pen| {
        let client = pen.connect(client(1));
        client.echoes_after_greeting("hello");
        client.finish();
        assert!(client.read_to_end().unwrap().is_empty());
    });
    assert_eq!((&line["end"], &line["server"]), (&json!("client"), &json!(0)));
    assert_eq!((&line["bytes_received"], &line["bytes_sent"]), (&json!(6), &json!(8)));
    let server = Backend::with(|mut connection| connection.write_all(b"bye"));
    let line = only_line(Pen::builder().server(&server), |pen| {
        assert_eq!(pen.connect(client(2)).read_to_end().unwrap(), b"bye");
    });
    assert_eq!((&line["end"], &line["bytes_sent"]), (&json!("server"), &json!(3)));
}

#[test]
fn a_reset_is_that_of_the_side_that_sent_it() {
    let server = Backend::named("a");
    let line = only_line(Pen::builder().server(&server), |pen| {
        let client = pen.connect(client(1));
        client.echoes_after_greeting("hello");
        client.reset();
    });
    assert_eq!(line["end"], "client_reset");
    let server = resetter();
    let line = only_line(Pen::builder().server(&server), |pen| {
        let client = pen.connect(client(2));
        client.send("x");
        client.read_to_end().unwrap_err();
    });
    assert_eq!(line["end"], "server_reset");
}

#[test]
fn a_client_that_resets_while_its_server_is_connected_to_has_a_line() {
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let builder = Pen::builder().server_as(port.address().to_string());
    let line = only_line(builder, |pen| {
        let client = pen.connect(client(1));
        eventually("it is connecting", || pen.report().in_use() == 1);
        client.reset();
    });
    assert_eq!((&line["end"], &line["attempts"]), (&json!("client_reset"), &json!(1)));
    assert_eq!((&line["connect_ms"], &line["first_byte_ms"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_server_that_refuses_and_one_that_was_left_out_are_told_apart() {
    let server = Backend::down("a");
    let (builder, log) = logging(Pen::builder().workers(1).server(&server));
    let pen = builder.start();
    for n in 1..=2 {
        assert_eq!(pen.ask(client(n)), None);
    }
    assert_eq!(ends(&log, 2), ["connect_failed", "no_server"]);
    let lines = entries(&log, 2);
    assert_eq!((&lines[0]["server"], &lines[0]["attempts"]), (&json!(0), &json!(1)));
    assert_eq!(lines[0]["address"], server.operand());
    for key in ["server", "address", "wait_ms", "connect_ms", "first_byte_ms"] {
        assert_eq!(lines[1][key], Value::Null, "{key}");
    }
}

#[test]
fn a_server_that_does_not_answer_is_a_timeout_of_the_connect_and_of_the_queue() {
    let port = Port::reserve();
    let _hole = Blackhole::on(&port);
    let line =
        only_line(Pen::builder().options(["-t", "1"]).server_as(port.address().to_string()), {
            |pen: &Pen| assert_eq!(pen.ask(client(1)), None)
        });
    assert_eq!(line["end"], "connect_timeout");
    // One connect may be pending. Of the two clients that wait, at most one gets its turn.
    let options = ["-t", "1", "-b", "0", "-O", "pending_max 1"];
    let builder = Pen::builder().workers(1).options(options);
    let (builder, log) = logging(builder.server_as(port.address().to_string()));
    let pen = builder.start();
    let clients: Vec<Client> = (2..=4).map(|n| pen.connect(client(n))).collect();
    for client in clients {
        let _ = client.read_to_end();
    }
    let ends = ends(&log, 3);
    assert!(ends.contains(&"connect_timeout".to_owned()), "{ends:?}");
    assert!(ends.contains(&"queue_timeout".to_owned()), "{ends:?}");
    assert!(ends.iter().all(|end| end.ends_with("_timeout")), "{ends:?}");
}

#[test]
fn a_silent_connection_ends_by_idle_timeout() {
    let server = Backend::named("a");
    let builder = Pen::builder().options(["-O", "idle_timeout 1"]).server(&server);
    let line = only_line(builder, |pen| {
        let (client, _) = pen.hold(client(1)).unwrap();
        let _ = client.read_to_end();
    });
    assert_eq!(line["end"], "idle_timeout");
}

#[test]
fn what_is_no_tls_and_what_stops_being_tls_are_told_apart() {
    let authority = Authority::root("Test CA");
    let identity = authority.issue(&["www.example"]);
    let server = Backend::named("a");
    let secure = || {
        let builder = Pen::builder().server(&server);
        let text = format!("{}{}", identity.key, identity.chain);
        let certificate = write(builder.directory(), "a.pem", text);
        builder.options(["-E", certificate.to_str().unwrap()])
    };
    let line = only_line(secure(), |pen| {
        let client = pen.connect(client(1));
        client.send("GET / HTTP/1.0\r\n\r\n");
        let _ = client.read_to_end();
    });
    assert_eq!((&line["end"], &line["tls"]), (&json!("handshake_failed"), &Value::Null));
    let line = only_line(secure(), |pen| drop(pen.connect(client(2))));
    assert_eq!(line["end"], "client", "it left without a word");
    let line = only_line(secure(), |pen| {
        let mut tls = authority.client().connect(pen.address(), "www.example").unwrap();
        assert_eq!(tls.line().unwrap(), "a");
        tls.socket.write_all(&[23, 3, 3, 0, 32]).unwrap();
        tls.socket.write_all(&[7; 32]).unwrap();
        let _ = tls.read_to_end();
    });
    assert_eq!((&line["end"], &line["tls"]["version"]), (&json!("tls_broken"), &json!("TLSv1.3")));
}

#[test]
fn a_listed_sender_without_a_header_is_refused() {
    let server = Backend::named("a");
    let listed = || {
        let option = "proxy_protocol in from 127.0.0.0/8";
        Pen::builder().options(["-O", option]).server(&server)
    };
    let line = only_line(listed(), |pen| {
        let client = pen.connect(client(1));
        client.send("hello\r\n");
        let _ = client.read_to_end();
    });
    assert_eq!(line["end"], "proxy_refused");
    let line = only_line(listed(), |pen| {
        let client = pen.connect(client(2));
        client.send("PROXY TCP4 192.0.2.9 192.0.2.1 4711 80\r\n");
        assert_eq!(client.line().as_deref(), Some("a"));
    });
    assert_eq!((&line["client"], &line["client_port"]), (&json!("192.0.2.9"), &json!(4711)));
}

#[test]
fn the_access_list_the_abuse_and_the_emergency_server_are_told() {
    let (server, other) = (Backend::named("a"), Backend::named("b"));
    let denied = || {
        let options = ["-O", "acl 1 deny 127.81.0.1", "-O", "client_acl 1"];
        Pen::builder().options(options)
    };
    let line = only_line(denied().server(&server), |pen| assert_eq!(pen.ask(client(1)), None));
    assert_eq!((&line["end"], &line["attempts"]), (&json!("refused_acl"), &json!(0)));
    let abuse = other.operand();
    let line = only_line(denied().options(["-B", &abuse]).server(&server), |pen| {
        assert_eq!(pen.ask(client(1)).as_deref(), Some("b"));
    });
    assert_eq!((&line["server"], &line["address"]), (&json!(-2), &json!(abuse)));
    let down = Backend::down("c");
    let line = only_line(Pen::builder().options(["-e", &abuse]).server(&down), |pen| {
        assert_eq!(pen.ask(client(2)).as_deref(), Some("b"));
    });
    assert_eq!((&line["server"], &line["attempts"]), (&json!(-1), &json!(2)));
}

#[test]
fn a_client_at_a_listener_that_pen_leaves_has_a_line() {
    let server = Backend::named("a");
    let builder = Pen::builder().options(["-x", "1"]).server(&server).control();
    let (builder, log) = logging(builder);
    let pen = builder.start();
    let held = pen.hold(client(1)).unwrap();
    let waiting = pen.connect(client(2));
    pen.hears("clients wait");
    let port = Port::reserve();
    pen.tell(&format!("listen {}", port.address()));
    waiting.read_to_end().unwrap_err();
    let line = entries(&log, 1).remove(0);
    assert_eq!((&line["end"], &line["client"]), (&json!("refused_limit"), &json!("127.81.0.2")));
    drop(held);
    assert_eq!(ends(&log, 2)[1], "client");
}

#[test]
fn a_request_that_is_refused_is_told() {
    let server = Backend::named("a");
    let line = only_line(Pen::builder().options(["-H"]).server(&server), |pen| {
        let client = pen.connect(client(1));
        client.send("this is no HTTP\r\n\r\n");
        let _ = client.read_to_end();
    });
    assert_eq!(line["end"], "http_refused");
}

#[test]
fn an_operator_closes_a_connection_and_a_signal_all() {
    let server = Backend::named("a");
    let line = only_line(Pen::builder().server(&server).control(), |pen| {
        let (client, _) = pen.hold(client(1)).unwrap();
        pen.tell("close 0");
        client.read_to_end().unwrap_err();
    });
    assert_eq!(line["end"], "closed_by_operator");
    let (builder, log) = logging(Pen::builder().server(&server));
    let mut pen = builder.start();
    let _held: Vec<_> = (0..7).map(|n| pen.hold(client(n)).unwrap()).collect();
    pen.end_by(Signal::TERM);
    assert_eq!(ends(&log, 7), ["shutdown"; 7]);
}

#[test]
fn a_shortage_is_told() {
    let server = Backend::named("a");
    let (builder, log) = logging(Pen::builder().workers(1).server(&server));
    let pen = builder.start();
    let worker = pen.workers().remove(0);
    // A client still fits, and a connect to its server does not.
    let used: Vec<i32> = worker.descriptors().into_iter().map(|(number, _)| number).collect();
    let second = (0..).filter(|number| !used.contains(number)).nth(1).unwrap();
    worker.limit_descriptors(u64::try_from(second).unwrap());
    assert_eq!(pen.ask(client(1)), None);
    assert_eq!(ends(&log, 1), ["shortage"]);
}

#[test]
fn clients_whose_heads_take_too_much_memory_have_their_lines_too() {
    // Of 16 MiB.
    const CLIENTS: u16 = 400;
    let server = Backend::named("a");
    let options = ["-H", "-x", "1000"];
    let (builder, log) = logging(Pen::builder().workers(1).options(options).server(&server));
    let mut pen = builder.start();
    let head = [b"GET / HTTP/1.1\r\nHost: x\r\nX: ".as_slice(), &[b'a'; 60_000]].concat();
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let client = pen.connect(Ipv4Addr::new(127, 85, high, low));
            // It may be closed for it.
            let _ = client.socket().send(&head);
            client
        })
        .collect();
    pen.hears("had been unfinished for longest");
    drop(clients);
    pen.end_by(Signal::TERM);
    let ends = ends(&log, CLIENTS.into());
    assert!(ends.iter().any(|end| end == "crowded"), "{ends:?}");
    assert!(ends.iter().any(|end| end != "crowded"), "{ends:?}");
}

#[test]
fn pen_as_its_own_server_has_no_server() {
    let server = Backend::named("a");
    let line = only_line(Pen::builder().options(["-O", "dummy"]).server(&server), |pen| {
        let client = pen.connect(client(1));
        client.send("GET / HTTP/1.0\r\n\r\n");
        assert!(client.read_to_end().unwrap().ends_with(b"Ulric was here."));
    });
    assert_eq!((&line["end"], &line["server"]), (&json!("server"), &Value::Null));
    assert_eq!(line["bytes_received"], 18);
}

#[test]
fn when_a_worker_is_killed_all_others_have_their_lines() {
    let server = Backend::named("a");
    let (builder, log) = logging(Pen::builder().workers(2).server(&server));
    let mut pen = builder.start();
    let held = |worker: usize, from: u8| {
        pen.only(worker, || {
            (from..from + 5).map(|n| pen.hold(client(n)).unwrap().0).collect::<Vec<_>>()
        })
    };
    let (lost, kept) = (held(0, 1), held(1, 11));
    pen.workers()[0].kill();
    for client in lost {
        let _ = client.read_to_end();
    }
    drop(kept);
    let lines = entries(&log, 5);
    assert!(lines.iter().all(|line| line["worker"] == 1 && line["end"] == "client"), "{lines:?}");
    pen.end_by(Signal::TERM);
    assert_eq!(entries(&log, 5).len(), 5);
}
