//! Whole connections through [`Exchange`]: the examples that the behaviour is told by, and properties over generated ones.

use proptest::prelude::*;

use super::*;

const CLIENT: &str = "127.0.0.5";

fn exchange() -> Exchange {
    Exchange::new(ClientKey::from_ip(CLIENT.parse().unwrap()), false)
}

/// What the server gets for what a client sends in these pieces, end of file included; and why it is refused, if it is.
fn through<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> (String, Option<Why>) {
    let (mut exchange, mut out, mut got) = (exchange(), Vec::new(), Vec::<u8>::new());
    for piece in pieces {
        got.extend(exchange.request(piece, &mut out));
    }
    got.extend(exchange.end(&mut out));
    // One byte, one char, so that comparing and showing are exact.
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
    // Pipelined, any method, no field at all, empty lines before.
    let odd = "purge!it * HTTP/1.0\r\n";
    assert_eq!(sent(&format!("{get}\r\n\r\n\n{odd}\r\n")), format!("{get}{ADDED}\r\n\r\n\n{odd}{ADDED}\r\n"));
    // LF alone.
    let lf = |added: &str| format!("GET / HTTP/1.1\nHost: x\n{added}\n");
    assert_eq!(sent(&lf("")), lf(&ADDED.replace('\r', "")));
    // Another's list is appended to, at its last line; another's protocol stays.
    let forged =
        |list: &str| format!("GET / HTTP/1.1\r\nx-forwarded-for: a\r\nX-Forwarded-For: 6.6.6.6{list}\r\nHost: x\r\n");
    assert_eq!(
        sent(&format!("{}\r\n", forged(""))),
        format!("{}X-Forwarded-Proto: http\r\n\r\n", forged(", 127.0.0.5"))
    );
    let empty = |value: &str| format!("GET / HTTP/1.1\r\nX-Forwarded-For:{value}\r\nX-Forwarded-Proto: odd\r\n\r\n");
    assert_eq!(sent(&empty("")), empty(" 127.0.0.5"));
}

#[test]
fn clients_are_named_as_they_are() {
    for (key, https, expected) in [
        (ClientKey::from_ip("2001:db8::7".parse().unwrap()), true, ("2001:db8::7", "https")),
        (ClientKey::from_ip("::ffff:1.2.3.4".parse().unwrap()), false, ("1.2.3.4", "http")),
        (ClientKey::UNIX, false, ("unknown", "http")),
    ] {
        let mut out = Vec::new();
        let got = Exchange::new(key, https).request(b"GET / HTTP/1.1\r\n\r\n", &mut out).to_vec();
        let (address, proto) = expected;
        let wanted = format!("GET / HTTP/1.1\r\nX-Forwarded-Proto: {proto}\r\nX-Forwarded-For: {address}\r\n\r\n");
        assert_eq!(String::from_utf8(got).unwrap(), wanted);
    }
}

#[test]
fn bodies_pass_whatever_they_look_like() {
    let trap = "GET /trap HTTP/1.1\r\nHost: x\r\n\r\n";
    let next = "GET /next HTTP/1.1\r\n";
    let length = format!("PUT / HTTP/1.1\r\nContent-Length: {}\r\n", trap.len());
    assert_eq!(sent(&format!("{length}\r\n{trap}{next}\r\n")), format!("{length}{ADDED}\r\n{trap}{next}{ADDED}\r\n"));
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

#[test]
fn what_is_not_http_passes_untouched_and_at_once() {
    for text in [
        "EHLO there\r\nGET / HTTP/1.1\r\n\r\n",
        "GET /\r\nGET / HTTP/1.1\r\n\r\n",
        "\x16\x03\x01 HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        "SSH-2.0-x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    ] {
        assert_eq!(sent(text), text);
    }
    let (mut exchange, mut out) = (exchange(), Vec::new());
    for piece in [&b"\x16"[..], b"", b"GET / HTTP/1.1\r\n\r\n"] {
        assert_eq!(exchange.request(piece, &mut out), piece);
    }
    assert!(exchange.is_over());
    // After requests, too.
    let get = "GET / HTTP/1.1\r\n";
    assert_eq!(
        sent(&format!("{get}\r\n\0GET / HTTP/1.1\r\n\r\n")),
        format!("{get}{ADDED}\r\n\0GET / HTTP/1.1\r\n\r\n")
    );
}

#[test]
fn nothing_of_a_refused_request_reaches_the_server() {
    let get = "GET / HTTP/1.1\r\n";
    let before = format!("{get}{ADDED}\r\n");
    let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(head::LIMIT));
    for (bad, why) in [
        ("POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", Why::TwoLengths),
        ("POST / HTTP/1.1\r\nX: y\r\n folded\r\n\r\n", Why::Head),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Why::Head),
        ("\rGET / HTTP/1.1\r\n\r\n", Why::Head),
        (&long, Why::TooLong),
    ] {
        let input = format!("{get}\r\n{bad}{get}\r\n");
        assert_eq!(through([input.as_bytes()]), (before.clone(), Some(why)), "{bad:?}");
        for cut in 0..input.len().min(200) {
            let (one, two) = input.as_bytes().split_at(cut);
            assert_eq!(through([one, two]), (before.clone(), Some(why)), "{bad:?} at {cut}");
        }
    }
    // Of a body, what was good.
    let put = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n";
    let (got, why) = through([format!("{put}\r\n1\r\nx\nGET / HTTP/1.1\r\n\r\n").as_bytes()]);
    assert_eq!((got, why), (format!("{put}{ADDED}\r\n1\r\nx"), Some(Why::ChunkEnd)));
}

#[test]
fn the_limit_is_exact() {
    let head = |length: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(length - 23));
    for (length, refused) in [(head::LIMIT, None), (head::LIMIT + 1, Some(Why::TooLong))] {
        let input = format!("{}\r\n", head(length));
        assert_eq!(input.len(), length);
        for piece in [1, 7, 4096, length] {
            let (got, why) = through(input.as_bytes().chunks(piece));
            assert_eq!(why, refused, "{length} in pieces of {piece}");
            assert_eq!(got, if refused.is_none() { format!("{}{ADDED}\r\n", head(length)) } else { String::new() });
        }
    }
    let line = "x".repeat(head::LIMIT + 1) + "\r\n";
    assert_eq!(through([line.as_bytes()]).1, Some(Why::TooLong));
    assert_eq!(through(line.as_bytes().chunks(1000)).1, Some(Why::TooLong));
}

#[test]
fn an_unfinished_head_ends_with_its_connection() {
    for (text, expected) in [
        ("GET / HTTP/1.0\r\nX-Forwarded-For: 6.6.6.6\r\n", ""),
        ("GET / HTTP/1.0", ""),
        ("QUIT", "QUIT"),
        ("GET /", "GET /"),
        ("\r", "\r"),
    ] {
        assert_eq!(sent(text), expected, "{text:?}");
    }
}

/// A request that asks for a switch, as it comes out, and one that pretends.
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
const FORGED: &str = "GET /x HTTP/1.1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";

/// The request, what waits behind it, and what becomes of that after the server's answers.
fn switching(request: &str, answers: &[&str]) -> (bool, String) {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    let got = exchange.request(format!("{request}\r\n{FORGED}").as_bytes(), &mut out).to_vec();
    assert_eq!(String::from_utf8(got).unwrap(), format!("{request}{ADDED}\r\n"));
    assert!(exchange.is_asking());
    let mut resumed = false;
    for answer in answers {
        assert!(exchange.is_asking());
        resumed = exchange.answer(answer.as_bytes());
    }
    assert_eq!(resumed, !exchange.is_asking());
    let got = exchange.resume(&mut out).to_vec();
    assert_eq!(exchange.resume(&mut out), b"");
    (exchange.is_over(), String::from_utf8(got).unwrap())
}

#[test]
fn only_a_server_that_agrees_ends_the_rewriting() {
    let named =
        FORGED.replace("6.6.6.6", "6.6.6.6, 127.0.0.5").replace("\r\n\r\n", "\r\nX-Forwarded-Proto: http\r\n\r\n");
    let connect = "CONNECT a:1 HTTP/1.1\r\n";
    let switched =
        |request, answers: &[&str]| assert_eq!(switching(request, answers), (true, FORGED.into()), "{answers:?}");
    switched(UPGRADE, &["HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"]);
    switched(
        UPGRADE,
        &["HTTP/1.1 1", "00 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r", "\nHTTP/1.1 101 X\r\n", "\r\n\x00\x01"],
    );
    switched(connect, &["HTTP/1.1 200 Connection established\r\n\r\n"]);
    switched(connect, &["HTTP/1.0 201\r\n", "\r\n"]);
    let stays =
        |request, answers: &[&str]| assert_eq!(switching(request, answers), (false, named.clone()), "{answers:?}");
    stays(UPGRADE, &["HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n"]);
    stays(connect, &["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]);
    stays(connect, &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"]);
    stays(connect, &["HTTP/1.1 204 No Content\r\n\r\n"]);
    stays(UPGRADE, &["HTTP/1.1 426 No\r\n", "\r\n"]);
    stays(UPGRADE, &["nonsense"]);
    stays(connect, &["HTTP/1.1 101 X\r\n\r\n"]);
    stays(connect, &["HTTP/1.1 405 Not Allowed\r\nContent-Length: 0\r\n\r\n"]);
}

#[test]
fn an_earlier_answer_is_not_taken_for_the_switch() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    let asked = format!("HEAD /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n{UPGRADE}\r\n");
    exchange.request(asked.as_bytes(), &mut out);
    let body = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    // A body that looks like the answer, of a known length, in chunks, and one that HEAD leaves out.
    exchange.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n");
    exchange.answer(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    exchange.answer(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()).as_bytes());
    assert_eq!(exchange.unseen_answer(), body.len() as u64);
    exchange.skip_answer(10);
    assert!(!exchange.answer(&body.as_bytes()[10..]) && !exchange.answer(b"\r\n0\r\n\r\n") && exchange.is_asking());
    assert!(exchange.answer(body.as_bytes()));
    assert!(exchange.is_over());
}

#[test]
fn answers_that_cannot_be_followed_allow_no_switch() {
    for answers in [
        "220 hello\r\n",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end HTTP/1.1 101 X\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 408 Too Late\r\nContent-Length: 0\r\n\r\n",
    ] {
        let (mut exchange, mut out) = (exchange(), Vec::new());
        exchange.request(b"GET / HTTP/1.1\r\n\r\n", &mut out);
        exchange.answer(answers.as_bytes());
        exchange.request(format!("{UPGRADE}\r\n").as_bytes(), &mut out);
        exchange.answer(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        let got = exchange.request(FORGED.as_bytes(), &mut out);
        assert!(String::from_utf8_lossy(got).contains("6.6.6.6, 127.0.0.5"), "{answers:?}");
        // But a protocol that is none of HTTP's gets through.
        assert_eq!(exchange.request(b"\x81\x85abcd", &mut out), b"\x81\x85abcd");
    }
    // A server that goes away without an answer.
    let (mut exchange, mut out) = (exchange(), Vec::new());
    exchange.request(format!("{UPGRADE}\r\n").as_bytes(), &mut out);
    assert!(!exchange.is_answered() && exchange.answers_end());
    assert!(!exchange.is_asking() && exchange.is_resumed());
}

#[test]
fn what_waited_goes_on_once_and_is_not_forgotten() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    exchange.request(format!("{UPGRADE}\r\nearly").as_bytes(), &mut out);
    assert!(exchange.answer(b"HTTP/1.1 101 X\r\n\r\n") && exchange.is_resumed());
    // More comes before anybody had time to send it, and the end.
    assert!(!exchange.answer(b"more") && !exchange.answers_end());
    assert!(exchange.is_resumed() && !exchange.is_over());
    assert_eq!(exchange.resume(&mut out), b"early");
    assert!(!exchange.is_resumed() && exchange.is_over());
}

#[test]
fn an_answer_may_come_before_the_body_is_over() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    exchange.request(format!("{UPGRADE}Content-Length: 5\r\n\r\nab").as_bytes(), &mut out);
    assert!(!exchange.is_asking() && !exchange.answer(b"HTTP/1.1 101 X\r\n\r\n"));
    assert_eq!(exchange.request(b"cdeGET / HTTP/1.1\r\n\r\n", &mut out), b"cdeGET / HTTP/1.1\r\n\r\n");
    assert!(exchange.is_over());
}

#[test]
fn many_requests_without_an_answer_cost_little() {
    let (mut exchange, mut out) = (exchange(), Vec::new());
    for _ in 0..3000 {
        exchange.request(b"GET / HTTP/1.1\r\n\r\n", &mut out);
    }
    for _ in 0..3000 {
        assert!(!exchange.is_answered());
        exchange.answer(b"HTTP/1.1 204 X\r\n\r\n");
    }
    assert!(exchange.is_answered());
    // Beyond a bound nobody knows any more which answer is whose, and no switch is recognised.
    for _ in 0..3000 {
        exchange.request(b"GET / HTTP/1.1\r\n\r\nHEAD / HTTP/1.1\r\n\r\n", &mut out);
    }
    assert_eq!(exchange.unseen_answer(), u64::MAX);
    exchange.request(format!("{UPGRADE}\r\n").as_bytes(), &mut out);
    assert!(!exchange.is_asking());
}

/// A request with what should become of it.
fn request() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let fields = prop::collection::vec("[A-Wa-w][A-Za-z-]{0,8}:[ -~]{0,20}", 0..4).prop_map(|fields| {
        fields.into_iter().filter(|field| !field.starts_with(['u', 'U', 'c', 'C', 't', 'T'])).collect::<Vec<_>>()
    });
    let body = prop_oneof![
        Just((None, Vec::new())),
        prop::collection::vec(any::<u8>(), 0..60)
            .prop_map(|body| (Some(format!("Content-Length: {}", body.len())), body)),
        prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..4).prop_map(|chunks| {
            let mut body: Vec<u8> = chunks
                .iter()
                .flat_map(|chunk| [format!("{:X};q\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat())
                .collect();
            body.extend(b"0\r\nT: r\r\n\r\n");
            (Some("transfer-encoding: CHUNKED".to_owned()), body)
        }),
    ];
    let forwarded = prop::option::of("[0-9a-f.:]{1,9}");
    ("[A-BD-Z]{1,7}", "/[!-~]{0,20}", fields, body, forwarded, any::<bool>(), any::<prop::sample::Index>()).prop_map(
        |(method, target, mut fields, (length, body), forwarded, lf, place)| {
            let line_end = if lf { "\n" } else { "\r\n" };
            fields.extend(length);
            let place = place.index(fields.len() + 1);
            let text = |fields: &[String]| {
                let mut head = format!("{method} {target} HTTP/1.1{line_end}");
                fields.iter().for_each(|field| head.push_str(&format!("{field}{line_end}")));
                head + line_end
            };
            let (mut before, mut after) = (fields.clone(), fields);
            match &forwarded {
                Some(list) => {
                    before.insert(place, format!("X-forwarded-for: {list}"));
                    after.insert(place, format!("X-forwarded-for: {list}, {CLIENT}"));
                    after.push("X-Forwarded-Proto: http".into());
                }
                None => after.extend(["X-Forwarded-Proto: http".into(), format!("X-Forwarded-For: {CLIENT}")]),
            }
            ([text(&before).as_bytes(), &body].concat(), [text(&after).as_bytes(), &body].concat())
        },
    )
}

/// Bytes that are often nearly requests.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        4 => prop::sample::select(vec![
            "GET / HTTP/1.1\r\n", "POST /x HTTP/1.1\r\n", "CONNECT h:1 HTTP/1.1\r\n", "HEAD * HTTP/1.0\n", "\r\n", "\n", "\r", " ", "\t",
            "Content-Length: 3\r\n", "Content-Length: x\r\n", "Transfer-Encoding: chunked\r\n", "Upgrade: x\r\n", "Host: x\r\n",
            "X-Forwarded-For: 1\r\n", "X-Forwarded-For:\t\n", "X-Forwarded-Proto: y\r\n", "3\r\nabc\r\n", "0\r\n\r\n", "abc", "HTTP/1.1", "PRI * HTTP/2.0\r\n\r\n",
        ]).prop_map(|word| word.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

/// Cuts a text at these places.
fn pieces<'t>(text: &'t [u8], cuts: &[prop::sample::Index]) -> Vec<&'t [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
    places.sort_unstable();
    places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// Removes what was added, by the simplest means, to see that nothing else was. An empty list of the client's with nothing at all in it would be
/// taken for an added one; there is none in [`nearly`].
fn without_added(text: &str) -> String {
    text.replace("X-Forwarded-Proto: http\r\n", "")
        .replace("X-Forwarded-Proto: http\n", "")
        .replace("X-Forwarded-For: 127.0.0.5\r\n", "")
        .replace("X-Forwarded-For: 127.0.0.5\n", "")
        .replace(", 127.0.0.5", "")
        .replace(" 127.0.0.5", "")
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
    fn every_cut_gives_the_same_and_only_additions_differ(
        input in nearly(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (whole, refused) = through([&input[..]]);
        prop_assert_eq!(through(pieces(&input, &cuts)), (whole.clone(), refused));
        prop_assert_eq!(through(input.chunks(1)), (whole.clone(), refused));
        let text: String = input.iter().copied().map(char::from).collect();
        let bare = without_added(&whole);
        prop_assert!(text.starts_with(&bare), "{:?} is not where {:?} begins", bare, text);
    }

    #[test]
    fn answers_never_stop_a_connection(
        requests in nearly(),
        answers in prop::collection::vec(prop_oneof![nearly(), Just(b"HTTP/1.1 101 X\r\n\r\n".to_vec()), Just(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nab".to_vec())], 0..6),
    ) {
        let (mut exchange, mut out) = (exchange(), Vec::new());
        let mut got = exchange.request(&requests, &mut out).to_vec();
        for answer in answers {
            let (asking, resumed) = (exchange.is_asking(), exchange.answer(&answer));
            prop_assert_eq!(resumed, asking && !exchange.is_asking());
            got.extend(exchange.resume(&mut out));
        }
        exchange.answers_end();
        got.extend(exchange.resume(&mut out));
        // Requests that came behind ask again, but nobody answers.
        prop_assert!(!exchange.is_asking());
        got.extend(exchange.end(&mut out));
        let bare = without_added(&got.into_iter().map(char::from).collect::<String>());
        let text: String = requests.into_iter().map(char::from).collect();
        prop_assert!(text.starts_with(&bare));
    }
}
