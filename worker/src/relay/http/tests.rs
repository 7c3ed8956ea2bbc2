//! Whole connections through [`Exchange`]: examples of the behaviour, and properties over generated
//! input.

use proptest::prelude::*;

use crate::relay::http::*;

/// Bytes that are not HTTP are refused, as with `-H`.
const STRICT: Others = Others::Refused;

const CLIENT: &str = "127.0.0.5";

fn exchange() -> Exchange {
    Exchange::new(ClientKey::from_ip(CLIENT.parse().unwrap()), false, STRICT)
}

/// What the server gets if a client sends these pieces and an end of file; and why it is refused,
/// if it is.
fn through<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (String, Option<Refusal>) {
    through_as(STRICT, pieces)
}

fn through_as<'p>(
    others: Others,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> (String, Option<Refusal>) {
    let client = ClientKey::from_ip(CLIENT.parse().unwrap());
    let (mut exchange, mut out, mut got) =
        (Exchange::new(client, false, others), Vec::new(), Vec::<u8>::new());
    for piece in pieces {
        got.extend(exchange.request(piece, &mut out));
    }
    got.extend(exchange.end(&mut out));
    // One char for each byte, so that comparisons and output are exact.
    (got.into_iter().map(char::from).collect(), exchange.refused())
}

fn sent(text: &str) -> String {
    let (got, refused) = through([text.as_bytes()]);
    assert_eq!(refused, None, "{text:?}");
    got
}

/// The lines that are added.
const ADDED: &str = "X-Forwarded-Proto: http\r\nX-Forwarded-For: 127.0.0.5\r\n";

#[test]
fn requests_get_their_lines_and_nothing_else_changes() {
    let get = "GET / HTTP/1.1\r\nHost: x\r\n";
    assert_eq!(sent(&format!("{get}\r\n")), format!("{get}{ADDED}\r\n"));
    // Pipelined requests, any method, no field at all. Empty lines before a request are not part of
    // it.
    let odd = "purge!it /x HTTP/1.0\r\n";
    assert_eq!(
        sent(&format!("{get}\r\n\r\n\n{odd}\r\n")),
        format!("{get}{ADDED}\r\n{odd}{ADDED}\r\n")
    );
    // LF alone.
    let lf = |added: &str| format!("GET / HTTP/1.1\nHost: x\n{added}\n");
    assert_eq!(sent(&lf("")), lf(&ADDED.replace('\r', "")));
    // With a body, every server must see the same end of the head.
    assert_eq!(
        sent("PUT / HTTP/1.1\nContent-Length: 1\n\nx"),
        format!("PUT / HTTP/1.1\r\nContent-Length: 1\r\n{ADDED}\r\nx")
    );
    assert_eq!(
        sent("GET / HTTP/1.1\nUpgrade: x\n\n"),
        format!("GET / HTTP/1.1\r\nUpgrade: x\r\n{ADDED}\r\n")
    );
}

#[test]
fn one_field_says_all_addresses() {
    let named = |before: &str, lists: &str| {
        format!(
            "GET / HTTP/1.1\r\n{before}X-Forwarded-Proto: http\r\nX-Forwarded-For: \
             {lists}127.0.0.5\r\n\r\n"
        )
    };
    for (fields, before, lists) in [
        ("X-Forwarded-For: 6.6.6.6\r\nHost: x\r\n", "Host: x\r\n", "6.6.6.6, "),
        ("x-forwarded-for: a\r\nHost: x\r\nX-FORWARDED-FOR:b, c\t\r\n", "Host: x\r\n", "a, b, c, "),
        ("X-Forwarded-For:\r\n", "", ""),
        ("X-Forwarded-For: \t \r\nX-Forwarded-For: a\r\n", "", "a, "),
        ("X-Forwarded-Proto: https\r\nX_Forwarded_Proto: https\r\n", "", ""),
        (
            "X_Forwarded_For: 6.6.6.6\r\nX.Forwarded-For: 6.6.6.6\r\nxforwardedfor: 6.6.6.6\r\n",
            "",
            "",
        ),
        ("Connection: X-Forwarded-For\r\n", "", ""),
        (
            "Connection: close, x-forwarded-FOR,X_Forwarded_Proto , TE\r\n",
            "Connection: close, TE\r\n",
            "",
        ),
        ("Connection:  keep-alive\r\n", "Connection:  keep-alive\r\n", ""),
        ("X: \t y \t\r\nX-Forwarded-For: a\r\nZ:\r\n", "X: \t y \t\r\nZ:\r\n", "a, "),
        (
            "Upgrade: h2c\r\nHTTP2-Settings: AAM\r\nConnection: Upgrade, HTTP2-Settings\r\nA: \
             b\r\n",
            "A: b\r\n",
            "",
        ),
        ("Connection: Upgrade\r\nUpgrade: TLS/1.0, HTTP/2.0\r\n", "", ""),
    ] {
        assert_eq!(
            sent(&format!("GET / HTTP/1.1\r\n{fields}\r\n")),
            named(before, lists),
            "{fields:?}"
        );
    }
    let head = "HEAD / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade, x\r\n\r\n";
    assert_eq!(sent(head), format!("HEAD / HTTP/1.1\r\nConnection: x\r\n{ADDED}\r\n"));
    let some =
        "GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\n";
    let kept = "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(sent(&format!("{some}\r\n")), format!("{kept}{ADDED}\r\n"));
}

#[test]
fn trailers_are_rebuilt_too() {
    let put = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n";
    let next = "GET /next HTTP/1.1\r\n";
    for (trailers, kept) in [
        ("X-Sum: 1\r\n", "X-Sum: 1\r\n"),
        ("X-Forwarded-For: 6.6.6.6\r\n", ""),
        (
            "A: b\r\nx_forwarded-for: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nC:d\r\n",
            "A: b\r\nC:d\r\n",
        ),
    ] {
        let input = format!("{put}\r\n1\r\nx\r\n0\r\n{trailers}\r\n{next}\r\n");
        let expected = format!("{put}{ADDED}\r\n1\r\nx\r\n0\r\n{kept}\r\n{next}{ADDED}\r\n");
        for size in [input.len(), 7, 1] {
            assert_eq!(
                through(input.as_bytes().chunks(size)),
                (expected.clone(), None),
                "{trailers:?} by {size}"
            );
        }
    }
    for (trailers, why) in [
        ("Content-Length: 5\r\n\r\n", Refusal::Trailer),
        ("transfer_encoding: chunked\r\n\r\n", Refusal::Trailer),
        ("GET / HTTP/1.1\r\n\r\n", Refusal::Trailer),
        ("X : y\r\n\r\n", Refusal::Trailer),
        ("X: a\r\n b\r\n\r\n", Refusal::Trailer),
        ("X: a\n\n", Refusal::Trailer),
        ("X: a\n\r\n", Refusal::LineEnds),
    ] {
        let input = format!("{put}\r\n0\r\n{trailers}{next}\r\n");
        assert_eq!(
            through([input.as_bytes()]),
            (format!("{put}{ADDED}\r\n0\r\n"), Some(why)),
            "{trailers:?}"
        );
    }
}

#[test]
fn a_body_that_servers_may_leave_unread_ends_the_connection() {
    let trap = "GET /trap HTTP/1.1\r\n\r\n";
    let length = format!("Content-Length: {}\r\n", trap.len());
    for (line, fields, kept) in [
        ("GET / HTTP/1.1", "Connection: keep-alive\r\nX: y\r\n", "X: y\r\n"),
        ("HEAD / HTTP/1.1", "", ""),
        ("DELETE / HTTP/1.1", "Upgrade: websocket\r\nConnection: Upgrade\r\n", ""),
    ] {
        assert_eq!(
            sent(&format!("{line}\r\n{fields}{length}\r\n{trap}")),
            format!("{line}\r\n{kept}{length}Connection: close\r\n{ADDED}\r\n{trap}")
        );
    }
    // Nothing after it reaches the server, and the connection ends with the answer.
    let (mut exchange, mut out) = (exchange(), Vec::new());
    exchange.request(b"GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", &mut out);
    assert_eq!(exchange.request(trap.as_bytes(), &mut out), b"");
    assert_eq!((exchange.ending(false), exchange.refused()), (Some(Ending::Later), None));
    exchange.answer(b"HTTP/1.1 204 X\r\n\r\n");
    assert_eq!(exchange.ending(false), Some(Ending::Silent));
    // Perl's HTTP::Daemon looks for the end of the parts if there is no length.
    let parts = "POST / HTTP/1.1\r\nContent-Type: Multipart/form-data; boundary=x\r\n";
    assert_eq!(sent(&format!("{parts}\r\n")), format!("{parts}Connection: close\r\n{ADDED}\r\n"));
    assert_eq!(
        sent(&format!("{parts}{length}\r\n{trap}")),
        format!("{parts}{length}{ADDED}\r\n{trap}")
    );
}

#[test]
fn clients_are_named_as_they_are() {
    for (key, https, expected) in [
        (ClientKey::from_ip("2001:db8::7".parse().unwrap()), true, ("2001:db8::7", "https")),
        (ClientKey::from_ip("::ffff:1.2.3.4".parse().unwrap()), false, ("1.2.3.4", "http")),
        (ClientKey::UNIX, false, ("unknown", "http")),
    ] {
        let mut out = Vec::new();
        let got =
            Exchange::new(key, https, STRICT).request(b"GET / HTTP/1.1\r\n\r\n", &mut out).to_vec();
        let (address, proto) = expected;
        let wanted = format!(
            "GET / HTTP/1.1\r\nX-Forwarded-Proto: {proto}\r\nX-Forwarded-For: {address}\r\n\r\n"
        );
        assert_eq!(String::from_utf8(got).unwrap(), wanted);
    }
}

#[test]
fn bodies_pass_whatever_they_look_like() {
    let trap = "GET /trap HTTP/1.1\r\nHost: x\r\n\r\n";
    let next = "GET /next HTTP/1.1\r\n";
    let length = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n", trap.len());
    assert_eq!(
        sent(&format!("{length}\r\n{trap}{next}\r\n")),
        format!("{length}{ADDED}\r\n{trap}{next}{ADDED}\r\n")
    );
    let chunks = format!("{:x};a=b\r\n{trap}\r\n0\r\nX-Sum: 1\r\n\r\n", trap.len());
    let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(
        sent(&format!("{chunked}\r\n{chunks}{next}\r\n")),
        format!("{chunked}{ADDED}\r\n{chunks}{next}{ADDED}\r\n")
    );
}

#[test]
fn bodies_are_not_copied() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    exchange.request(b"PUT / HTTP/1.1\r\nContent-Length: 100\r\n\r\n", &mut out);
    assert_eq!(exchange.unseen_request(), 100);
    let piece = [b'x'; 60];
    assert_eq!(exchange.request(&piece, &mut out).as_ptr(), piece.as_ptr());
    assert_eq!(exchange.unseen_request(), 40);
    exchange.skip_request(40);
    assert_eq!(exchange.unseen_request(), 0);
    assert!(exchange.request(b"GET / HTTP/1.1\r\n\r\n", &mut out).ends_with(b"127.0.0.5\r\n\r\n"));
}

/// Bytes that are not HTTP/1.x, as many as are needed to know that.
const OTHER: [(&str, Refusal); 14] = [
    ("EHLO there\r", Refusal::NotHttp),
    ("GET /\r", Refusal::NotHttp),
    ("GET /\n", Refusal::NotHttp),
    ("\x16", Refusal::NotHttp),
    (" ", Refusal::NotHttp),
    ("GET\t", Refusal::NotHttp),
    ("GET  ", Refusal::NotHttp),
    ("GET /\x1c", Refusal::NotHttp),
    ("GET /\x7f", Refusal::NotHttp),
    ("GET / HTTP/1.1 ", Refusal::NotHttp),
    ("{", Refusal::NotHttp),
    ("PRI * HTTP/2", Refusal::Version),
    ("GET / HTTP/1.2", Refusal::Version),
    ("PROXY TCP4 6", Refusal::NotHttp),
];

#[test]
fn what_is_not_http_is_refused_at_its_first_wrong_byte() {
    let get = "GET / HTTP/1.1\r\n";
    for (text, why) in OTHER {
        for before in ["", "GET / HTTP/1.1\r\n\r\n"] {
            let (mut exchange, mut out) = (exchange(), Vec::new());
            let named = exchange.request(before.as_bytes(), &mut out).len();
            assert_eq!(named, before.len() + if before.is_empty() { 0 } else { ADDED.len() });
            let (last, first) = text.as_bytes().split_last().unwrap();
            assert_eq!(exchange.request(first, &mut out), b"");
            assert_eq!(exchange.refused(), None, "{text:?}");
            assert_eq!(exchange.request(&[*last], &mut out), b"");
            assert_eq!(exchange.refused(), Some(why), "{text:?}");
            assert_eq!(exchange.request(get.as_bytes(), &mut out), b"");
        }
    }
}

#[test]
fn mixed_passes_what_is_not_http_at_its_first_wrong_byte() {
    let forged = "GET / HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
    for (text, _) in OTHER {
        let input = format!("{text}{forged}");
        let expected: String = input.bytes().map(char::from).collect();
        for size in [input.len(), 1] {
            assert_eq!(
                through_as(Others::Pass, input.as_bytes().chunks(size)),
                (expected.clone(), None),
                "{text:?}"
            );
        }
    }
    // `http mixed` refuses malformed HTTP/1.x too.
    let bad = "GET / HTTP/1.1\r\nX : y\r\n\r\n";
    assert_eq!(through_as(Others::Pass, [bad.as_bytes()]), (String::new(), Some(Refusal::Fields)));
}

#[test]
fn mixed_passes_what_may_be_a_request_when_it_is_told_to() {
    for text in ["QUIT", "GET /", "GET / HTTP/1.", "GET / HTTP/1.1\r", "\r"] {
        let client = ClientKey::from_ip(CLIENT.parse().unwrap());
        let (mut exchange, mut out) = (Exchange::new(client, false, Others::Pass), Vec::new());
        assert_eq!(exchange.request(text.as_bytes(), &mut out), b"");
        assert_eq!(exchange.waits(), Some(Wait::Protocol));
        assert!(exchange.held_bytes() >= text.len());
        assert_eq!(exchange.decide(&mut out), text.as_bytes());
        assert!(exchange.is_over());
    }
    let client = ClientKey::from_ip(CLIENT.parse().unwrap());
    let (mut exchange, mut out) = (Exchange::new(client, false, Others::Pass), Vec::new());
    exchange.request(b"GET / HTTP/1.1\r\n", &mut out);
    assert_eq!((exchange.waits(), exchange.decide(&mut out)), (Some(Wait::Head), &b""[..]));
}

#[test]
fn a_head_is_waited_for_from_its_first_byte_to_its_last() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    assert_eq!((exchange.waits(), exchange.take_begun()), (None, false));
    exchange.request(b"GET / HTTP", &mut out);
    assert_eq!(
        (exchange.waits(), exchange.take_begun(), exchange.take_begun()),
        (Some(Wait::Head), true, false)
    );
    exchange.request(b"/1.1\r\n\r\nPUT", &mut out);
    assert_eq!((exchange.waits(), exchange.take_begun()), (Some(Wait::Head), true));
    exchange.request(b" / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", &mut out);
    assert_eq!(exchange.waits(), None);
    exchange.request(b"0\r\nX", &mut out);
    assert_eq!(exchange.waits(), Some(Wait::Head));
    exchange.refuse_late();
    assert_eq!((exchange.take_refusal(), exchange.take_refusal()), (Some(Refusal::Late), None));
    assert_eq!(exchange.waits(), Some(Wait::Answers));
}

#[test]
fn lines_for_the_log_are_one_a_request() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    exchange.keep_lines(true);
    exchange.request(
        b"GET /1 HTTP/1.1\r\n\r\nPUT /2 HTTP/1.1\r\nContent-Length: 26\r\n\r\nGET",
        &mut out,
    );
    exchange.request(b" /3 HTTP/1.1\r\n\r\n\nX-x: yGET /4 HTTP/1.0\r\n", &mut out);
    exchange.request(b"\r\n GET /5 HTTP/1.1\r\n\r\n", &mut out);
    let lines = exchange.logged().map(std::mem::take).unwrap();
    assert_eq!(
        String::from_utf8(lines).unwrap(),
        "GET /1 HTTP/1.1\nPUT /2 HTTP/1.1\nGET /4 HTTP/1.0\n"
    );
    assert_eq!(exchange.logged(), None);
}

#[test]
fn a_refusal_is_answered_where_nothing_else_is_under_way() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let get = "GET / HTTP/1.1\r\n\r\n";
    let ends = |requests: &str, answers: &[&[u8]]| {
        let (mut exchange, mut out) = (exchange(), Vec::new());
        exchange.request(requests.as_bytes(), &mut out);
        let first = exchange.ending(false);
        answers.iter().for_each(|answer| assert_eq!(exchange.answer(answer), answer.len()));
        (first, exchange.ending(false), exchange.ending(true))
    };
    let status = |why| Some(Ending::Status(why));
    let (later, silent) = (Some(Ending::Later), Some(Ending::Silent));
    assert_eq!(ends(get, &[]), (None, None, None));
    let not_http = status(Refusal::NotHttp);
    assert_eq!(ends("\0", &[]), (not_http, not_http, not_http));
    assert_eq!(ends(&format!("{get}\0"), &[]), (later, later, silent));
    assert_eq!(ends(&format!("{get}\0"), &[answer]), (later, silent, silent));
    assert_eq!(ends(&format!("{get}{get}\0"), &[answer]), (later, later, silent));
    // The server has got a part of this one.
    let bad = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx";
    let (first, last, _) = ends(bad, &[]);
    assert_eq!((first, last), (status(Refusal::Chunk), status(Refusal::Chunk)));
    let (first, last, _) = ends(bad, &[b"HTTP/1.1 100 Continue\r\n\r\n"]);
    assert_eq!((first, last), (status(Refusal::Chunk), status(Refusal::Chunk)));
    assert_eq!(ends(&format!("{get}{bad}"), &[answer]), (later, silent, silent));
    assert_eq!(ends(bad, &[&answer[..20]]).1, later);
    assert_eq!(ends(bad, &[answer]).1, silent);
}

#[test]
fn nothing_of_a_refused_request_reaches_the_server() {
    let get = "GET / HTTP/1.1\r\n";
    let before = format!("{get}{ADDED}\r\n");
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(head::LIMIT));
    for (bad, why) in [
        (
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            Refusal::Length,
        ),
        ("POST / HTTP/1.1\r\nX: y\r\n folded\r\n\r\n", Refusal::Fields),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refusal::Version),
        ("\rGET / HTTP/1.1\r\n\r\n", Refusal::NotHttp),
        (&long, Refusal::TooLong),
    ] {
        let input = format!("{get}\r\n{bad}{get}\r\n");
        assert_eq!(through([input.as_bytes()]), (before.clone(), Some(why)), "{bad:?}");
        for cut in 0..input.len().min(200) {
            let (one, two) = input.as_bytes().split_at(cut);
            assert_eq!(through([one, two]), (before.clone(), Some(why)), "{bad:?} at {cut}");
        }
    }
    // The valid part of a body has reached the server.
    let put = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n";
    let (got, why) = through([format!("{put}\r\n1\r\nx\nGET / HTTP/1.1\r\n\r\n").as_bytes()]);
    assert_eq!((got, why), (format!("{put}{ADDED}\r\n1\r\nx"), Some(Refusal::Chunk)));
}

#[test]
fn the_limit_is_exact() {
    let head = |length: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(length - 23));
    for (length, refused) in [(head::LIMIT, None), (head::LIMIT + 1, Some(Refusal::TooLong))] {
        let input = format!("{}\r\n", head(length));
        assert_eq!(input.len(), length);
        for piece in [1, 7, 4096, length] {
            let (got, why) = through(input.as_bytes().chunks(piece));
            assert_eq!(why, refused, "{length} in pieces of {piece}");
            assert_eq!(
                got,
                if refused.is_none() {
                    format!("{}{ADDED}\r\n", head(length))
                } else {
                    String::new()
                }
            );
        }
    }
    let line = "x".repeat(head::LIMIT + 1) + "\r\n";
    assert_eq!(through([line.as_bytes()]).1, Some(Refusal::TooLong));
    assert_eq!(through(line.as_bytes().chunks(1000)).1, Some(Refusal::TooLong));
}

#[test]
fn an_unfinished_head_ends_with_its_connection() {
    for (text, expected) in [
        ("GET / HTTP/1.0\r\nX-Forwarded-For: 6.6.6.6\r\n", ""),
        ("GET / HTTP/1.0", ""),
        ("QUIT", ""),
        ("GET /", ""),
        ("\r", ""),
    ] {
        assert_eq!(sent(text), expected, "{text:?}");
    }
}

/// The head of a request that asks for a switch, as the server gets it.
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
const FORGED: &str = "GET /x HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";
const NAMED: &str =
    "GET /x HTTP/1.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-For: 6.6.6.6, 127.0.0.5\r\n\r\n";

/// Sends `request` with a forged request behind it, then the server's `answers`. Returns whether
/// following is over, and what the server gets of the forged request.
fn switching(request: &str, answers: &[&str]) -> (bool, String) {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    let got = exchange.request(format!("{request}\r\n{FORGED}").as_bytes(), &mut out).to_vec();
    assert_eq!(String::from_utf8(got).unwrap(), format!("{request}{ADDED}\r\n"));
    assert!(exchange.is_asking());
    for answer in answers {
        assert!(exchange.is_asking());
        exchange.answer(answer.as_bytes());
    }
    assert_eq!(exchange.is_resumed(), !exchange.is_asking());
    let got = exchange.resume(&mut out).to_vec();
    assert_eq!(exchange.resume(&mut out), b"");
    (exchange.is_over(), String::from_utf8(got).unwrap())
}

#[test]
fn only_a_server_that_agrees_ends_the_rewriting() {
    let connect = "CONNECT a:1 HTTP/1.1\r\n";
    let switched = |request, answers: &[&str]| {
        assert_eq!(switching(request, answers), (true, FORGED.into()), "{answers:?}")
    };
    switched(UPGRADE, &["HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"]);
    switched(
        UPGRADE,
        &[
            "HTTP/1.1 1",
            "00 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r",
            "\nHTTP/1.1 101 X\r\n",
            "\r\n\x00\x01",
        ],
    );
    switched(connect, &["HTTP/1.1 200 Connection established\r\n\r\n"]);
    switched(connect, &["HTTP/1.0 201\r\n", "\r\n"]);
    let stays = |request, answers: &[&str]| {
        assert_eq!(switching(request, answers), (false, NAMED.into()), "{answers:?}")
    };
    stays(UPGRADE, &["HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"]);
    stays(connect, &["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]);
    stays(connect, &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]);
    stays(connect, &["HTTP/1.1 204 No Content\r\n\r\n"]);
    stays(UPGRADE, &["HTTP/1.1 426 No\r\n", "\r\n"]);
    // An answer that is not understood ends the connection.
    let ends = |request, answers: &[&str]| {
        assert_eq!(switching(request, answers), (false, String::new()), "{answers:?}")
    };
    ends(UPGRADE, &["nonsense"]);
    ends(UPGRADE, &["HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n"]);
    ends(UPGRADE, &["HTTP/1.1 101 X\r\nUpgrade: other\r\n\r\n"]);
    ends(UPGRADE, &["HTTP/1.1 101 X\r\nUpgrade : websocket\r\n\r\n"]);
    ends(connect, &["HTTP/1.1 101 X\r\n\r\n"]);
    stays(connect, &["HTTP/1.1 405 Not Allowed\r\nContent-Length: 0\r\n\r\n"]);
}

#[test]
fn an_earlier_answer_is_not_taken_for_the_switch() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    let asked = format!(
        "HEAD /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n{UPGRADE}\r\n"
    );
    exchange.request(asked.as_bytes(), &mut out);
    let body = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    // Bodies that look like the awaited answer: one with a length, one in chunks, and one that HEAD
    // omits.
    exchange.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n");
    exchange.answer(
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes(),
    );
    exchange.answer(
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len())
            .as_bytes(),
    );
    assert_eq!(exchange.unseen_answer(), body.len() as u64);
    exchange.skip_answer(10);
    exchange.answer(&body.as_bytes()[10..]);
    exchange.answer(b"\r\n0\r\n\r\n");
    assert!(exchange.is_asking());
    exchange.answer(body.as_bytes());
    assert!(exchange.is_over());
}

#[test]
fn a_switch_that_nobody_asked_for_ends_the_connection() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    exchange.request(b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\n\r\n", &mut out);
    let ok = "HTTP/1.1 204 X\r\n\r\n";
    let said = format!("{ok}HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\nframes");
    assert_eq!(exchange.answer(said.as_bytes()), ok.len());
    assert_eq!(
        (exchange.refused(), exchange.ending(false)),
        (Some(Refusal::Switch), Some(Ending::Silent))
    );
    assert_eq!(exchange.answer(b"more"), 0);
}

#[test]
fn answers_that_cannot_be_followed_allow_no_switch() {
    for answers in [
        "220 hello\r\n",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end HTTP/1.1 101 X\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 408 Too Late\r\nContent-Length: \
         0\r\n\r\n",
    ] {
        let (mut exchange, mut out) = (exchange(), Vec::new());
        exchange.request(b"GET / HTTP/1.1\r\n\r\n", &mut out);
        exchange.answer(answers.as_bytes());
        let upgrade = format!("{UPGRADE}\r\n");
        let got = exchange.request(upgrade.as_bytes(), &mut out);
        assert_eq!((got, exchange.refused()), (&b""[..], Some(Refusal::Switch)), "{answers:?}");
    }
    // A server that ends without an answer.
    let (mut exchange, mut out) = (exchange(), Vec::new());
    exchange.request(format!("{UPGRADE}\r\n").as_bytes(), &mut out);
    exchange.answers_end();
    assert!(!exchange.is_asking() && exchange.is_resumed());
}

#[test]
fn what_waited_goes_on_once_and_is_not_forgotten() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    exchange.request(format!("{UPGRADE}\r\nearly").as_bytes(), &mut out);
    exchange.answer(b"HTTP/1.1 101 X\r\n\r\n");
    assert!(exchange.is_resumed());
    // More data comes before any was sent, and the end of file.
    exchange.answer(b"more");
    exchange.answers_end();
    assert!(exchange.is_resumed() && !exchange.is_over());
    assert_eq!(exchange.resume(&mut out), b"early");
    assert!(!exchange.is_resumed() && exchange.is_over());
}

#[test]
fn an_answer_may_come_before_the_body_is_over() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    let upgrade = UPGRADE.replace("GET", "POST");
    exchange.request(format!("{upgrade}Content-Length: 5\r\n\r\nab").as_bytes(), &mut out);
    exchange.answer(b"HTTP/1.1 101 X\r\n\r\n");
    assert!(!exchange.is_asking());
    assert_eq!(
        exchange.request(b"cdeGET / HTTP/1.1\r\n\r\n", &mut out),
        b"cdeGET / HTTP/1.1\r\n\r\n"
    );
    assert!(exchange.is_over());
}

#[test]
fn many_requests_without_an_answer_cost_little() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    for _ in 0..3000 {
        exchange.request(b"GET / HTTP/1.1\r\n\r\n", &mut out);
    }
    for _ in 0..3000 {
        assert_eq!(exchange.unseen_answer(), 0);
        exchange.answer(b"HTTP/1.1 204 X\r\n\r\n");
    }
    // Beyond a bound, answers can no longer be assigned to requests.
    for _ in 0..3000 {
        exchange.request(b"GET / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n", &mut out);
    }
    assert_eq!(
        (exchange.refused(), exchange.ending(false)),
        (Some(Refusal::TooMany), Some(Ending::Later))
    );
}

/// A request with the expected result.
fn request() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let fields =
        prop::collection::vec("[ABDFGIJ-RV-Wabdfgij-rv-w][A-Za-z-]{0,8}:[ -~]{0,20}", 0..4);
    let body = prop_oneof![
        Just((None, Vec::new())),
        prop::collection::vec(any::<u8>(), 0..60)
            .prop_map(|body| (Some(format!("Content-Length: {}", body.len())), body)),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..4).prop_map(|chunks| {
            let mut body: Vec<u8> = chunks
                .iter()
                .flat_map(|chunk| {
                    [format!("{:X};q\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()
                })
                .collect();
            body.extend(b"0\r\nT: r\r\n\r\n");
            (Some("transfer-encoding: CHUNKED".to_owned()), body)
        }),
    ];
    let forwarded = prop::option::of("[0-9a-f.:]{1,9}");
    (
        "[A-BE-FI-NP-SU-Z][A-Z]{0,6}",
        "/[!-~]{0,20}",
        fields,
        body,
        forwarded,
        any::<bool>(),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(method, target, mut fields, (length, body), forwarded, lf, position)| {
            let line_end = if lf { "\n" } else { "\r\n" };
            let has_body = length.is_some() && !body.is_empty();
            fields.extend(length);
            let position = position.index(fields.len() + 1);
            let text = |fields: &[String], line_end: &str| {
                let mut head = format!("{method} {target} HTTP/1.1{line_end}");
                fields.iter().for_each(|field| head.push_str(&format!("{field}{line_end}")));
                head + line_end
            };
            let (mut before, mut after) = (fields.clone(), fields);
            let list = forwarded.as_ref().map_or(String::new(), |list| format!("{list}, "));
            if let Some(list) = &forwarded {
                before.insert(position, format!("X-forwarded-for: {list}"));
            }
            after.extend([
                "X-Forwarded-Proto: http".into(),
                format!("X-Forwarded-For: {list}{CLIENT}"),
            ]);
            let end_after = if has_body { "\r\n" } else { line_end };
            (
                [text(&before, line_end).as_bytes(), &body].concat(),
                [text(&after, end_after).as_bytes(), &body].concat(),
            )
        })
}

/// Bytes that are often almost requests.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /x HTTP/1.1\r\n", "CONNECT h:1 \
             HTTP/1.1\r\n", "OPTIONS * \
                 HTTP/1.0\n", "HEAD / HTTP/1.1\r\n", "\r\n", "\n", "\r", " ", "\t",
            "Content-Length: \
             3\r\n", "Content-Length: \
                 x\r\n", "Transfer-Encoding: chunked\r\n", "Upgrade: x\r\n", "Host: x\r\n",
            "X-Forwarded-For: \
             1\r\n", "X-Forwarded-For:\t\n", "X-Forwarded-Proto: \
                 y\r\n", "X_Forwarded_For: 1\r\n", "Connection: x-forwarded-for\r\n",
            "Upgrade: h2c\r\n", "Content-Type: \
             multipart/x\r\n", "3\r\nabc\r\n", "0\r\n\r\n", "abc", "HTTP/1.1",
            "PRI * HTTP/2.0\r\n\r\n",
        ]).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

/// Cuts a text at these positions.
fn pieces<'t>(text: &'t [u8], cuts: &[prop::sample::Index]) -> Vec<&'t [u8]> {
    let mut slots: Vec<usize> =
        cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
    slots.sort_unstable();
    slots.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// Reads the server's input as generously as some servers do, body by body, and checks that each
/// request has one field with the client's address at the end.
fn assert_named(got: &str) {
    let mut rest = got;
    while let Some(end) = rest.find("\r\n\r\n").into_iter().chain(rest.find("\n\n")).min() {
        let head = &rest[..end];
        let names = |line: &&str| {
            let name: String = line
                .split(':')
                .next()
                .unwrap_or("")
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .collect();
            name.eq_ignore_ascii_case("xforwardedfor")
        };
        let lists: Vec<&str> = head.lines().skip(1).filter(names).collect();
        assert!(
            lists.len() == 1 && lists[0].ends_with(CLIENT) && head.ends_with(lists[0]),
            "{head:?} in {got:?}"
        );
        let field = |wanted: &str| {
            let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(wanted));
            line.map(|line| line[wanted.len()..].trim().to_owned())
        };
        rest = &rest[end + if rest[end..].starts_with('\r') { 4 } else { 2 }..];
        if let Some(length) = field("content-length:") {
            rest = rest.get(length.parse::<usize>().unwrap()..).unwrap_or("");
        } else if field("transfer-encoding:").is_some() {
            rest = after_chunks(rest);
        }
    }
}

/// The rest after a chunked body, whose trailers must not contain the added fields.
fn after_chunks(mut rest: &str) -> &str {
    while let Some((line, after)) = rest.split_once("\r\n") {
        let digits: String = line.chars().take_while(char::is_ascii_hexdigit).collect();
        match usize::from_str_radix(&digits, 16).unwrap() {
            0 => {
                let end = if after.starts_with("\r\n") {
                    2
                } else {
                    after.find("\r\n\r\n").map_or(after.len(), |end| end + 4)
                };
                assert!(!after[..end].to_ascii_lowercase().contains("forwarded"), "{after:?}");
                return &after[end..];
            }
            size => rest = after.get(size + 2..).unwrap_or(""),
        }
    }
    ""
}

proptest! {
    #[test]
    fn requests_come_out_as_told_however_they_are_cut(
        requests in prop::collection::vec(request(), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (input, expected): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let (input, expected) = (input.concat(), expected.concat());
        let expected: String = expected.into_iter().map(char::from).collect();
        prop_assert_eq!(through(pieces(&input, &cuts)), (expected, None));
    }

    #[test]
    fn every_cut_gives_the_same_and_every_request_is_named(
        input in nearly(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (whole, refused) = through([&input[..]]);
        prop_assert_eq!(through(pieces(&input, &cuts)), (whole.clone(), refused));
        prop_assert_eq!(through(input.chunks(1)), (whole.clone(), refused));
        assert_named(&whole);
    }

    #[test]
    fn a_head_that_passes_has_a_strict_first_line(input in nearly()) {
        let mut out = Vec::new();
        let sender = Sender { address: CLIENT.into(), https: false };
        if let Some(end) = head::end(&input, 0)
            && request::rebuild(&input[..end], &sender, &mut out).is_ok()
        {
            prop_assert_eq!(RequestLine::Start.follow(&input), RequestLine::Whole);
            prop_assert_eq!(RequestLine::Start.follow(&out), RequestLine::Whole);
        }
    }

    #[test]
    fn answers_never_stop_a_connection(
        requests in nearly(),
        answers in prop::collection::vec(prop_oneof![nearly(), Just(b"HTTP/1.1 101 \
            X\r\n\r\n".to_vec()), Just(b"HTTP/1.1 200 X\r\nContent-Length: \
                2\r\n\r\nab".to_vec())], 0..6),
    ) {
        let (mut exchange, mut out) = (exchange(), Vec::new());
        let mut got = exchange.request(&requests, &mut out).to_vec();
        for answer in answers {
            exchange.answer(&answer);
            got.extend(exchange.resume(&mut out));
        }
        exchange.answers_end();
        got.extend(exchange.resume(&mut out));
        // Requests behind it ask again, but no answer comes.
        prop_assert!(!exchange.is_asking());
        got.extend(exchange.end(&mut out));
        prop_assert!(got.len() <= requests.len() + (requests.len() / 10 + 1) * ADDED.len());
    }
}
