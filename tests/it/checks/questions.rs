//! What checks ask, at which port, behind which header, and how often.

use std::io::{Read, Write};

use super::{pen, said, says};
use crate::harness::{Backend, Pen};

#[test]
fn a_check_may_ask_at_another_port_than_clients_do() {
    let (served, health) = (Backend::farm(["a", "b"]), Backend::farm(["for a", "for b"]));
    let port = |number: usize| health[number].address().port();
    let of_b = format!("server 1 check tcp port {}", port(1));
    let builder = pen(&format!("check tcp port {}", port(0))).servers(&served);
    let pen = builder.options(["-O", &of_b]).start();
    (0..2).for_each(|number| says(&pen, number, "check up "));
    health[1].stop();
    says(&pen, 1, "check down refused");
    assert!(said(&pen, 0).starts_with("check up "), "{}", said(&pen, 0));
    let accepted: usize = served.iter().map(Backend::accepted).sum();
    assert_eq!(accepted, 0, "no check asks at the port of clients");
    served[0].stop();
    health[1].start();
    says(&pen, 1, "check up ");
    assert!(said(&pen, 0).starts_with("check up "), "{}", said(&pen, 0));
}

/// A server that is well if a check begins with these bytes.
fn wanting(first: &'static [u8]) -> Backend {
    Backend::with(move |mut connection| {
        let mut bytes = vec![0; first.len()];
        connection.read_exact(&mut bytes)?;
        let answer: &[u8] = if bytes == first { b"good" } else { b"bad" };
        connection.write_all(answer)
    })
}

#[test]
fn a_check_may_begin_with_a_proxy_header_that_names_no_client() {
    let rows: [(&str, &[u8]); 3] = [
        ("", b"x"),
        (" proxy v1", b"PROXY UNKNOWN\r\nx"),
        (" proxy v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0x"),
    ];
    let servers: Vec<_> = rows.iter().map(|(_, first)| wanting(first)).collect();
    let pen = pen("check off").servers(&servers).start();
    for (number, (proxy, _)) in rows.iter().enumerate() {
        pen.tells(&format!("server {number} check send x expect good{proxy}"), "");
    }
    (0..rows.len()).for_each(|number| says(&pen, number, "check up "));
}

#[test]
fn numbers_beyond_their_range_are_refused_before_a_start() {
    for (word, most) in
        [("check_interval", 3600), ("check_timeout", 60), ("check_rise", 100), ("check_fall", 100)]
    {
        let with = |value: u32| {
            let file = format!("check tcp\n{word} {value}\n");
            Pen::builder().server_as("127.0.0.1:9").file(&file).options(["--check"])
        };
        for good in [1, most] {
            let checked = with(good).runs();
            assert!(checked.status.success(), "{word} {good}: {checked:?}");
        }
        for bad in [0, most + 1] {
            let said = String::from_utf8(with(bad).fails().stderr).unwrap();
            let why = format!("pen.cfg:2: {word}: '{bad}' is not a number from 1 to {most}\n");
            assert!(said.ends_with(&why), "{said}");
        }
    }
}
