//! Servers that behave badly towards checks: each has its reason, and none holds up the others.

use std::io::{Read, Write};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use socket2::Socket;

use super::{pen, said, says};
use crate::harness::backend::Blackhole;
use crate::harness::port::Port;
use crate::harness::{Backend, Gate, eventually};

/// Reads something of the question, then sends this.
fn answering(answer: Vec<u8>) -> Backend {
    Backend::with(move |mut connection: &Socket| {
        let _ = connection.read(&mut [0; 4096])?;
        connection.write_all(&answer)
    })
}

#[test]
fn each_has_its_reason_and_a_good_one_beside_them_stays_up() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let silent = Backend::with(move |_| {
        waiting.pass();
        Ok(())
    });
    // A byte now and then, for longer than a check may take.
    let drip = gate.clone();
    let slow = Backend::with(move |mut connection| {
        for byte in b"HTTP/1.1 200 OK\r\n".iter().cycle() {
            connection.write_all(&[*byte])?;
            std::thread::sleep(Duration::from_millis(300));
            if connection.take_error()?.is_some() {
                break;
            }
        }
        drip.pass();
        Ok(())
    });
    let resetting = Backend::with(|mut connection| {
        let _ = connection.read(&mut [0; 4096])?;
        Ok(set_socket_linger(connection, Some(Duration::ZERO))?)
    });
    let refusing = Backend::down("x");
    let hole = Port::reserve();
    let _hole = Blackhole::on(&hole);
    let good = answering(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec());
    let ill = answering(b"HTTP/1.0 503 No\r\n\r\n".to_vec());
    let (mute, mad) = (answering(Vec::new()), answering(b"\0\xff garbage\r\n\r\n".to_vec()));
    let mut endless = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
    endless.resize(1 << 20, b'a');
    let huge = answering(endless);
    let servers = [
        ("check up ", good.operand()),
        ("check down timeout", silent.operand()),
        ("check down timeout", slow.operand()),
        ("check down reset", resetting.operand()),
        ("check down refused", refusing.operand()),
        ("check down timeout", hole.address().to_string()),
        ("check down status 503", ill.operand()),
        ("check down closed", mute.operand()),
        ("check down ", mad.operand()),
        ("check down answer too long", huge.operand()),
    ];
    let builder = servers
        .iter()
        .fold(pen("check http /"), |builder, (_, operand)| builder.server_as(operand));
    let pen = builder.start();
    for (number, (words, _)) in servers.iter().enumerate() {
        says(&pen, number, words);
    }
    assert!(said(&pen, 0).starts_with("check up "));
    gate.open();
    eventually("pen goes on", || said(&pen, 0).starts_with("check up "));
}

/// All kinds that await an answer.
const KINDS: [&str; 9] = [
    "tls",
    "https /",
    "smtp",
    "pgsql",
    "mysql penny",
    "redis master",
    "ldap",
    "dns www.example",
    "send PING expect PONG",
];

#[test]
fn no_kind_takes_silence_garbage_an_end_a_reset_or_a_megabyte_for_an_answer() {
    let gate = Gate::closed();
    let waiting = gate.clone();
    let silent = Backend::with(move |_| {
        waiting.pass();
        Ok(())
    });
    // Some kinds await a greeting, so these do not await a question.
    let saying = |answer: Vec<u8>| {
        Backend::with(move |mut connection: &Socket| connection.write_all(&answer))
    };
    let resetting =
        Backend::with(|connection| Ok(set_socket_linger(connection, Some(Duration::ZERO))?));
    let hostile = [
        silent,
        resetting,
        saying(Vec::new()),
        saying(b"\x00\xff garbage\r\n\r\n".to_vec()),
        saying(vec![0x16; 1 << 20]),
        saying(vec![b'a'; 1 << 20]),
        saying(b"220 \r\n".repeat(1 << 17)),
    ];
    let good = Backend::named("a");
    let cases: Vec<_> =
        KINDS.iter().flat_map(|kind| hostile.iter().map(move |server| (kind, server))).collect();
    let builder = pen("check tcp").options(["-S", "80"]).server(&good);
    let pen = cases.iter().fold(builder, |builder, (_, server)| builder.server(server)).start();
    let checker = super::running(&pen);
    for (number, (kind, _)) in cases.iter().enumerate() {
        pen.tells(&format!("server {} check {kind}", number + 1), "");
    }
    for number in 1..=cases.len() {
        says(&pen, number, "check down ");
    }
    says(&pen, 0, "check up ");
    assert_eq!(super::running(&pen).pid(), checker.pid(), "it has survived them");
    gate.open();
}
