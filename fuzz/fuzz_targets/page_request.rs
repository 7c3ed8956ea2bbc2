//! Input: a reader's bytes at the page. However they come, the same requests are read, and pen
//! refuses at the same place. A lenient reader finds the same requests, none of which has a body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_ipc::start::Hosts;
use pen_worker::parts::may_ask;
use pen_worker::parts::request::{Invalid, LIMIT, Parsed, Request, parse};

/// All requests, and why the rest is none, if it is none.
fn through<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<Request>, Option<Invalid>) {
    let (mut input, mut seen, mut requests) = (Vec::new(), 0, Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match parse(&input, seen) {
                Parsed::Partial => {
                    seen = input.len();
                    break;
                }
                Parsed::Whole(request, length) => {
                    assert!(length <= LIMIT && length <= input.len());
                    assert_plain(&input[..length], &request);
                    requests.push(request);
                    input.drain(..length);
                    seen = 0;
                }
                Parsed::Invalid(invalid) => return (requests, Some(invalid)),
            }
        }
    }
    (requests, None)
}

/// Reads a head as a lenient server would: it has no body, and one host at most.
fn assert_plain(head: &[u8], request: &Request) {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let end = head.windows(4).position(|window| window == b"\r\n\r\n");
    assert_eq!(end, Some(head.len() - 4), "the first empty line ends it");
    assert!(!head.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'));
    let mut hosts = 0;
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.trim() {
            "content-length" => assert_eq!(value.trim(), "0"),
            "transfer-encoding" => panic!("{line}"),
            "host" => hosts += 1,
            _ => {}
        }
    }
    assert!(hosts <= 1 && request.path.starts_with('/') && !request.path.contains(['?', '#']));
    assert!(request.path.bytes().all(|byte| byte > b' ' && byte != 127));
}

fuzz_target!(|data: &[u8]| {
    let [size, input @ ..] = data else { return };
    // What is read at once never makes a request longer than its limit.
    let whole = through(input.chunks(LIMIT));
    assert_eq!(through(input.chunks(usize::from(*size).max(1))), whole);
    assert_eq!(through(input.chunks(1)), whole);
    let known = Hosts::These(vec!["lb1.example.com".into()]);
    for host in whole.0.iter().filter_map(|request| request.host.as_deref()) {
        if may_ask(&known, host) {
            assert!(host.is_ascii() && !host.contains([' ', '/', '@', '\\']));
        }
    }
});
