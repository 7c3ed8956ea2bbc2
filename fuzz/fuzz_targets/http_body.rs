//! Input: a chunked body. However it is cut, and whether or not its data are read, it ends or fails
//! at the same byte.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_ipc::refusal::Refusal;
use pen_worker::parts::Body;

/// The number of bytes until the body ends or fails.
fn follow(input: &[u8], size: usize, unseen: bool) -> Result<usize, (usize, Refusal)> {
    let (mut body, mut taken) = (Body::chunked(), 0);
    while taken < input.len() && !body.is_over() {
        let rest = &input[taken..];
        let certain = usize::try_from(body.certain()).unwrap_or(usize::MAX).min(rest.len());
        if unseen && certain > 0 {
            body.skip(certain as u64);
            taken += certain;
            continue;
        }
        // Trailers are not consumed here. Two bytes at once show that there are none.
        let size = if body.is_before_trailers() { size.max(2) } else { size };
        match body.follow(&rest[..size.min(rest.len())]) {
            Ok(0) if body.is_before_trailers() => break,
            Ok(step) => taken += step,
            Err((good, why)) => return Err((taken + good, why)),
        }
    }
    Ok(taken)
}

fuzz_target!(|data: &[u8]| {
    let [size, input @ ..] = data else { return };
    let whole = follow(input, usize::MAX, false);
    assert_eq!(follow(input, usize::from(*size).max(1), false), whole);
    assert_eq!(follow(input, 1, true), whole);
});
