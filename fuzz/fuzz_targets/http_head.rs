//! Input: a client's bytes with `-H`. However they are cut, the server gets the same bytes, and pen
//! refuses at the same place. A lenient reader of the output finds one X-Forwarded-For in each
//! request, with the client's address last.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_config::ids::ClientKey;
use pen_ipc::refusal::Refusal;
use pen_worker::parts::{Exchange, Others};

fn exchange(others: Others) -> Exchange {
    Exchange::new(ClientKey::from_ip([127, 0, 0, 5].into()), false, others)
}

fn through<'p>(
    others: Others,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> (Vec<u8>, Option<Refusal>) {
    let (mut exchange, mut out, mut got) = (exchange(others), Vec::new(), Vec::new());
    for piece in pieces {
        got.extend(exchange.request(piece, &mut out));
    }
    got.extend(exchange.end(&mut out));
    (got, exchange.refused())
}

/// Reads a server's input head by head, and skips bodies by their length. It stops at a chunked
/// body, which `http_body` tests.
fn assert_named(mut rest: &[u8]) {
    while let Some(end) = head_end(rest) {
        let head = &rest[..end];
        let is_named = |line: &&[u8]| {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            let letters =
                name.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase);
            letters.eq(b"xforwardedfor".iter().copied())
        };
        let lists: Vec<&[u8]> =
            head.split(|byte| *byte == b'\n').skip(1).filter(is_named).collect();
        assert!(lists.len() == 1 && lists[0].trim_ascii_end().ends_with(b"127.0.0.5"));
        let field = |wanted: &str| {
            head.split(|byte| *byte == b'\n').find_map(|line| {
                let (name, value) = line.split_at_checked(wanted.len())?;
                name.eq_ignore_ascii_case(wanted.as_bytes()).then(|| value.trim_ascii())
            })
        };
        if field("transfer-encoding:").is_some() {
            return;
        }
        let length = field("content-length:")
            .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        rest = rest[end..].get(length.unwrap_or(0)..).unwrap_or_default();
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    let found = |end: &[u8]| {
        bytes.windows(end.len()).position(|window| window == end).map(|at| at + end.len())
    };
    found(b"\r\n\r\n").into_iter().chain(found(b"\n\n")).min()
}

fuzz_target!(|data: &[u8]| {
    let [size, answers, input @ ..] = data else { return };
    for others in [Others::Refused, Others::Pass] {
        let whole = through(others, [input]);
        assert_eq!(through(others, input.chunks(usize::from(*size).max(1))), whole);
        assert_eq!(through(others, input.chunks(1)), whole);
        if others == Others::Refused {
            assert_named(&whole.0);
        }
    }
    // No response makes it hang or panic.
    let mut out = Vec::new();
    let mut exchange = exchange(Others::Refused);
    let (requests, said) = input.split_at(usize::from(*answers).min(input.len()));
    exchange.request(requests, &mut out);
    said.chunks(usize::from(*size).max(1)).for_each(|piece| {
        assert!(exchange.answer(piece) <= piece.len());
        exchange.resume(&mut out);
    });
    exchange.answers_end();
    exchange.resume(&mut out);
    assert!(!exchange.is_asking());
});
