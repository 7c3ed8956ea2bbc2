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
