//! Messages of clients: honest ones, and ones that pen and a server could read differently.

use super::Ability;
use crate::harness::Numbers;

/// A request with a forged client address.
const FORGED: &str = "GET /forged HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";

/// The messages of an honest client on a connection.
#[derive(Debug)]
pub struct Honest {
    pub pieces: Vec<Vec<u8>>,
    /// Each path with the length and CRC-32 of the body.
    pub requests: Vec<(String, (usize, u32))>,
}

/// Up to three requests, the last of which closes the connection.
pub fn honest(number: usize, ability: Ability, numbers: &mut Numbers) -> Honest {
    let (mut bytes, mut requests) = (Vec::new(), Vec::new());
    let count = if ability == Ability::All { 1 + numbers.below(3) } else { 1 };
    for place in 0..count {
        let path = format!("/h/{number}/{place}");
        let close = if place + 1 == count { "Connection: close\r\n" } else { "" };
        let mut body = Vec::new();
        let kind = numbers.below(if ability == Ability::Length { 2 } else { 3 });
        if kind > 0 {
            (0..numbers.below(40)).for_each(|_| body.push(numbers.next() as u8));
            body.extend(FORGED.repeat(numbers.below(3)).bytes());
            body.extend(b"\r\n\r\n");
        }
        let head = |method: &str, fields: &str| {
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}{close}\r\n")
        };
        match kind {
            0 => bytes.extend(head("GET", "Accept: */*\r\nX-Forwarded-For: 10.9.8.7\r\n").bytes()),
            1 => {
                bytes.extend(head("POST", &format!("Content-Length: {}\r\n", body.len())).bytes());
                bytes.extend(&body);
            }
            _ => {
                bytes.extend(head("PUT", "Transfer-Encoding: chunked\r\n").bytes());
                for chunk in body.chunks(1 + numbers.below(60)) {
                    bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
        }
        requests.push((path, (body.len(), crc32(&body))));
    }
    Honest { pieces: cut(bytes, numbers), requests }
}

/// One to three requests, most of them with something odd, and often a forged one after them.
pub fn wild(numbers: &mut Numbers) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    if numbers.below(8) == 0 {
        bytes.extend(one(numbers, BEFORE));
    }
    for _ in 0..1 + numbers.below(3) {
        request(numbers, &mut bytes);
    }
    if numbers.below(3) > 0 {
        bytes.extend(FORGED.bytes());
    }
    cut(bytes, numbers)
}

/// Sometimes cuts the bytes into segments.
fn cut(bytes: Vec<u8>, numbers: &mut Numbers) -> Vec<Vec<u8>> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    for _ in 0..[0, 0, 0, 1, 3][numbers.below(5)] {
        let behind = rest.split_off(numbers.below(rest.len() + 1));
        pieces.push(std::mem::replace(&mut rest, behind));
    }
    pieces.push(rest);
    pieces
}

fn one<'a>(numbers: &mut Numbers, words: &[&'a [u8]]) -> &'a [u8] {
    words[numbers.below(words.len())]
}

/// The usual bytes, or odd ones once in `once_in` times.
fn odd<'a>(numbers: &mut Numbers, once_in: usize, usual: &'a [u8], words: &[&'a [u8]]) -> &'a [u8] {
    if numbers.below(once_in) == 0 { one(numbers, words) } else { usual }
}

const BEFORE: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"\r",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"PROXY TCP4 6.6.6.6 127.0.0.1 1000 80\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x06\x06\x06\x06\x7f\0\0\x01\0\x01\0\x50",
    b"GET /zero-nine\r\n",
    b"GET /zero-nine\n",
    b"\0",
    b" ",
];

const SPACES: &[&[u8]] = &[
    b"\t",
    b"  ",
    b" \t",
    b"\x0b",
    b"\x0c",
    b"\x1c",
    b"\x1d",
    b"\x1e",
    b"\x1f",
    b"\x85",
    b"\xa0",
    b"\xc2\x85",
    b"\xc2\xa0",
    b"\r",
    b"\0",
    b"",
];

const METHODS: &[&[u8]] = &[
    b"POST",
    b"PUT",
    b"HEAD",
    b"DELETE",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"PATCH",
    b"get",
    b"head",
    b"connect",
    b"M-SEARCH",
    b"!",
    b"_",
    b"PRI",
    b"G\x1cT",
    b"\"GET",
    b"",
];

const TARGETS: &[&[u8]] = &[
    b"*",
    b"http://x/absolute",
    b"x:80",
    b"//x",
    b"/a b",
    b"/a\x1cb",
    b"/a\x85",
    b"x",
    b"",
    b"/%",
    b"/?q#f",
    b"/\xc3\xa4",
    b"/a\rb",
    b"/ HTTP/1.1 /",
];

const VERSIONS: &[&[u8]] = &[
    b"HTTP/1.0",
    b"HTTP/0.9",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/2",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTP/1.1\t",
    b"HTTP/1.1\x0b",
    b"HTTP/1.1\x85",
    b"HTTP/01.1",
    b"HTTP/1.10",
    b"HTTP/1.1x",
    b"HTTP/+1.1",
    b"HTTP 1.1",
    b"",
];

const LINE_ENDS: &[&[u8]] = &[b"\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\x0b\r\n", b"\x85"];

const COLONS: &[&[u8]] = &[b":", b" : ", b"\t:", b":\t", b":\x0b", b":\r\n ", b": \xa0", b"\0:"];

/// Fields as a client sends them; those about the connection are forged.
const FIELDS: &[(&[u8], &[u8])] = &[
    (b"X-Forwarded-For", b"6.6.6.6"),
    (b"x-forwarded-for", b"6.6.6.6, 7.7.7.7"),
    (b"X-Forwarded-For", b""),
    (b"X_Forwarded_For", b"6.6.6.6"),
    (b"X-Forwarded_For", b"6.6.6.6"),
    (b"X.Forwarded.For", b"6.6.6.6"),
    (b"X!Forwarded~For", b"6.6.6.6"),
    (b"XForwardedFor", b"6.6.6.6"),
    (b"_X-Forwarded-For", b"6.6.6.6"),
    (b"X-Forwarded-For'", b"6.6.6.6"),
    (b"X-Forwarded-For\x85", b"6.6.6.6"),
    (b"X-Forwarded-For ", b"6.6.6.6"),
    (b"X-Forwarded-Proto", b"https"),
    (b"Connection", b"X-Forwarded-For"),
    (b"Connection", b"close, x-forwarded-for"),
    (b"Connection", b"keep-alive"),
    (b"Connection", b"Upgrade, HTTP2-Settings"),
    (b"Connection", b"Content-Length"),
    (b"Connection", b"close"),
    (b"Upgrade", b"h2c"),
    (b"Upgrade", b"TLS/1.0, HTTP/1.1"),
    (b"Upgrade", b"websocket"),
    (b"HTTP2-Settings", b"AAMAAABkAAQAAP__"),
    (b"Expect", b"100-continue"),
    (b"Expect", b"200-ok"),
    (b"Host", b"y"),
    (b"Content-Type", b"multipart/form-data; boundary=b"),
    (b"Sec-WebSocket-Key1", b"x"),
    (b"Content_Length", b"40"),
    (b"Transfer_Encoding", b"chunked"),
    (b"X", b"a\rX-Forwarded-For: 6.6.6.6"),
    (b"X", b"a\nX-Forwarded-For: 6.6.6.6"),
    (b"X", b"a\x85X-Forwarded-For: 6.6.6.6"),
    (b"X", b"a\x1cX-Forwarded-For: 6.6.6.6"),
    (b"X", b"a\x0bX-Forwarded-For: 6.6.6.6"),
    (b"X", b"a\xe2\x80\xa8X-Forwarded-For: 6.6.6.6"),
    (b"X", b"a\0"),
    (b"X", b"a\r\n X-Forwarded-For: 6.6.6.6"),
    (b"X", b"a\r\n\tfolded"),
    (b"", b"no name"),
    (b"From x", b"y"),
];

const LENGTHS: &[&[u8]] = &[
    b"Content-Length: +40",
    b"Content-Length: 0x28",
    b"Content-Length: 40, 40",
    b"Content-Length: 4 0",
    b"Content-Length: -1",
    b"Content-Length: 040",
    b"Content-Length:",
    b"Content-Length: 40\r\nContent-Length: 40",
    b"Content-Length: 0\r\nContent-Length: 40",
    b"Content-Length: 40\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: \x0bchunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"Content-Length: 18446744073709551617",
    b"Content-Length: 1_0",
];

const CHUNK_LINES: &[&[u8]] = &[
    b";x=y",
    b"; q=\"a b\"",
    b" ",
    b"\t",
    b";\x85",
    b";a\rb",
    b";a\nb",
    b"x",
    b" GET / HTTP/1.1",
    b";\0",
];

const TRAILERS: &[&[u8]] = &[
    b"X-Sum: 1\r\n",
    b"X-Forwarded-For: 6.6.6.6\r\n",
    b"X_Forwarded_For: 6.6.6.6\r\n",
    b"x-forwarded-for: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\n",
    b"Content-Length: 5\r\n",
    b"GET /forged HTTP/1.1\r\n",
    b"X: a\r\n b\r\n",
    b"X: a\n",
    b"X : y\r\n",
];

fn request(numbers: &mut Numbers, bytes: &mut Vec<u8>) {
    // All servers refuse a request with many oddities, so few oddities find more errors.
    let rare = [8, 40, 200][numbers.below(3)];
    let method = odd(numbers, 2, b"GET", METHODS);
    bytes.extend(method);
    bytes.extend(odd(numbers, rare, b" ", SPACES));
    bytes.extend(odd(numbers, rare, b"/w", TARGETS));
    let version = odd(numbers, rare, b"HTTP/1.1", VERSIONS);
    if !version.is_empty() {
        bytes.extend(odd(numbers, rare, b" ", SPACES));
        bytes.extend(version);
    }
    let usual_end: &[u8] = if numbers.below(8) == 0 { b"\n" } else { b"\r\n" };
    bytes.extend(odd(numbers, rare * 3, usual_end, LINE_ENDS));
    let field = |bytes: &mut Vec<u8>, numbers: &mut Numbers, name: &[u8], value: &[u8]| {
        bytes.extend(name);
        bytes.extend(odd(numbers, rare * 2, b": ", COLONS));
        bytes.extend(value);
        bytes.extend(odd(numbers, rare * 3, usual_end, LINE_ENDS));
    };
    field(bytes, numbers, b"Host", b"x");
    for _ in 0..numbers.below(4) {
        let (name, value) = FIELDS[numbers.below(FIELDS.len())];
        field(bytes, numbers, name, value);
    }
    if numbers.below(20) == 0 {
        field(bytes, numbers, b"X-Long", &[b'x'; 3000]);
    }
    body(numbers, bytes, usual_end);
}

/// The end of a head, and a body that looks like a request.
fn body(numbers: &mut Numbers, bytes: &mut Vec<u8>, line_end: &[u8]) {
    let mut body = one(
        numbers,
        &[b"", b"A: b\r\n", b"\r\n", b"\n\n", b"--b--\r\n", b"\r\n--b--", b"12345678"],
    )
    .to_vec();
    body.extend(FORGED.bytes());
    match numbers.below(6) {
        0 | 1 => bytes.extend(line_end),
        2 => {
            let length = (body.len() + [0, 0, 0, 1, 40][numbers.below(5)])
                .saturating_sub([0, 0, 0, 1, 60][numbers.below(5)]);
            bytes.extend(format!("Content-Length: {length}").bytes());
            bytes.extend(line_end);
            bytes.extend(line_end);
            bytes.extend(body);
        }
        3 => {
            bytes.extend(one(numbers, LENGTHS));
            bytes.extend(line_end);
            bytes.extend(line_end);
            bytes.extend(body);
        }
        _ => {
            bytes.extend(b"Transfer-Encoding: chunked");
            bytes.extend(line_end);
            bytes.extend(line_end);
            bytes.extend(odd(numbers, 8, b"", &[b"0x", b"+", b" ", b"0_", b";", b"\r\n"]));
            bytes.extend(format!("{:x}", body.len() + [0, 0, 0, 0, 1][numbers.below(5)]).bytes());
            bytes.extend(odd(numbers, 3, b"", CHUNK_LINES));
            bytes.extend(odd(numbers, 10, b"\r\n", LINE_ENDS));
            bytes.extend(body);
            bytes.extend(odd(numbers, 10, b"\r\n", LINE_ENDS));
            bytes.extend(odd(numbers, 10, b"0", &[b"00", b"-0", b"0;x", b"0 "]));
            bytes.extend(odd(numbers, 10, b"\r\n", LINE_ENDS));
            if numbers.below(2) == 0 {
                bytes.extend(one(numbers, TRAILERS));
            }
            bytes.extend(odd(numbers, 10, b"\r\n", LINE_ENDS));
        }
    }
}

/// CRC-32 as in zlib.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    })
}
