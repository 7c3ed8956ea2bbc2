//! What a client sends where `-H` is on: however it is cut, the server gets the same, refused at the same place; and requests that came out
//! come out named.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_contract::ids::ClientKey;
use pen_worker::parts::{Exchange, Why};

fn through<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (Vec<u8>, Option<Why>) {
    let client = ClientKey::from_ip([127, 0, 0, 5].into());
    let (mut exchange, mut out, mut got) = (Exchange::new(client, false), Vec::new(), Vec::new());
    for piece in pieces {
        got.extend(exchange.request(piece, &mut out));
    }
    got.extend(exchange.end(&mut out));
    (got, exchange.refused())
}

fuzz_target!(|data: &[u8]| {
    let [size, answers, input @ ..] = data else { return };
    let whole = through([input]);
    assert_eq!(through(input.chunks(usize::from(*size).max(1))), whole);
    assert_eq!(through(input.chunks(1)), whole);
    // No answer makes it stop or panic.
    let (client, mut out) = (ClientKey::from_ip([127, 0, 0, 5].into()), Vec::new());
    let mut exchange = Exchange::new(client, true);
    let (requests, said) = input.split_at(usize::from(*answers).min(input.len()));
    exchange.request(requests, &mut out);
    said.chunks(usize::from(*size).max(1)).for_each(|piece| {
        exchange.answer(piece);
        exchange.resume(&mut out);
    });
    exchange.answers_end();
    exchange.resume(&mut out);
    assert!(!exchange.is_asking());
});
