//! Each kind over answers of real servers (OpenSMTPD 6.8, Redis 7.0, PostgreSQL 15, MariaDB 10.11,
//! slapd 2.5, Knot DNS 3.2, nginx 1.22) and over faults. However the bytes are cut, the same is
//! sent, and the result is the same.

use pen_config::checks::{CheckText, StatusRange};
use pen_ipc::checks::{CheckFault, FaultClass};
use proptest::prelude::*;

use super::*;

/// What became of a check.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Result {
    Well(Farewell),
    Fault(CheckFault),
    /// It waits for more.
    Waits,
}

/// What a machine sent, and what became of it, if the server sends these pieces.
fn talk<'s>(
    check: &Check,
    pieces: impl IntoIterator<Item = &'s [u8]>,
) -> (Vec<u8>, Result, Machine) {
    let mut machine = machine(check, &Address::Inet(([192, 0, 2, 1], 8080).into()));
    let mut sent = Vec::new();
    let mut step = machine.connected();
    let mut pieces = pieces.into_iter();
    loop {
        match step {
            Step::Send(bytes) => sent.extend(bytes),
            Step::Await => {}
            Step::Done(farewell) => return (sent, Result::Well(farewell), machine),
            Step::Fail(fault) => return (sent, Result::Fault(fault), machine),
        }
        let Some(piece) = pieces.next() else { return (sent, Result::Waits, machine) };
        step = machine.received(piece);
    }
}

/// All that was sent, the farewell included, and the result. How much of an unexpected answer a
/// fault shows depends on how much had come.
fn summary((mut sent, result, _): (Vec<u8>, Result, Machine)) -> (Vec<u8>, Result) {
    match result {
        Result::Well(Farewell::Close(last)) => {
            sent.extend(last);
            (sent, Result::Well(Farewell::Close(Vec::new())))
        }
        // What would have been sent is of no interest.
        Result::Fault(CheckFault { class: FaultClass::Unexpected, .. }) => {
            let fault =
                CheckFault { class: FaultClass::Unexpected, number: 0, text: String::new() };
            (Vec::new(), Result::Fault(fault))
        }
        Result::Fault(fault) => (Vec::new(), Result::Fault(fault)),
        Result::Well(Farewell::Reset | Farewell::Handshake) | Result::Waits => (sent, result),
    }
}

/// What was sent and the result, which are the same at every split point and byte by byte.
fn outcome(kind: CheckKind, stream: &[u8]) -> (Vec<u8>, Result) {
    let check = of(kind);
    let whole = talk(&check, [stream]);
    let (sent, result) = (whole.0.clone(), whole.1.clone());
    let whole = summary(whole);
    for at in 0..=stream.len() {
        let (before, after) = stream.split_at(at);
        assert_eq!(summary(talk(&check, [before, after])), whole, "cut at {at}");
    }
    assert_eq!(summary(talk(&check, stream.chunks(1))), whole, "byte by byte");
    (sent, result)
}

/// The text of the fault.
fn fault(kind: CheckKind, stream: &[u8]) -> String {
    match outcome(kind, stream).1 {
        Result::Fault(fault) => {
            assert!(fault.is_proper(), "{fault:?}");
            fault.text
        }
        result => panic!("{result:?}"),
    }
}

/// Whether the server is well, and not before its last byte: an answer that is cut off is none.
fn is_well(kind: CheckKind, stream: &[u8]) -> bool {
    let well = matches!(outcome(kind.clone(), stream).1, Result::Well(_));
    let cut = talk(&of(kind), [&stream[..stream.len() - 1]]).1;
    well && cut == Result::Waits
}

fn of(kind: CheckKind) -> Check {
    Check { kind, host: None, port: None, proxy: ProxyOut::Off }
}

fn text(bytes: &[u8]) -> CheckText {
    CheckText::new(bytes).unwrap()
}

fn get(body: Option<&[u8]>) -> CheckKind {
    let body = body.map(text);
    CheckKind::Http(HttpQuestion { path: "/health".into(), status: StatusRange::default(), body })
}

fn mysql() -> CheckKind {
    CheckKind::Mysql { user: "penny".into() }
}

fn dns(name: &str) -> CheckKind {
    CheckKind::Dns { name: name.into() }
}

fn exchange() -> CheckKind {
    CheckKind::Exchange { send: text(b"PING\r\n"), expect: text(b"PONG") }
}

fn kinds() -> Vec<CheckKind> {
    vec![
        CheckKind::Tcp,
        CheckKind::Tls,
        get(None),
        get(Some(b"fine")),
        CheckKind::Smtp,
        CheckKind::Pgsql,
        mysql(),
        CheckKind::Redis(RedisRole::Any),
        CheckKind::Redis(RedisRole::Master),
        CheckKind::Ldap,
        dns("www.example"),
        exchange(),
    ]
}

const NOTHING: Farewell = Farewell::Close(Vec::new());

#[test]
fn tcp_and_tls_ask_nothing() {
    assert_eq!(outcome(CheckKind::Tcp, b"").1, Result::Well(Farewell::Reset));
    assert_eq!(outcome(CheckKind::Tls, b"").1, Result::Well(NOTHING));
}

#[test]
fn a_proxy_header_names_nobody() {
    let header = |proxy| proxy_header(&Check { proxy, ..of(CheckKind::Tcp) });
    assert_eq!(header(ProxyOut::Off), b"");
    assert_eq!(header(ProxyOut::V1), b"PROXY UNKNOWN\r\n");
    // Signature; version 2 and LOCAL; unspecified family; no addresses.
    assert_eq!(header(ProxyOut::V2), b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x20\0\0\0");
    assert_eq!(header(ProxyOut::V2).len(), 16);
}

const NGINX: &[u8] =
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 29 Nov 2026 23:00:00 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 12\r\nConnection: close\r\n\r\n";

#[test]
fn http_is_decided_by_the_status_alone() {
    let (sent, result) = outcome(get(None), NGINX);
    assert_eq!(result, Result::Well(NOTHING));
    assert_eq!(
        sent.escape_ascii().to_string(),
        "GET /health HTTP/1.1\\r\\nHost: 192.0.2.1:8080\\r\\nUser-Agent: pen\\r\\nAccept: */*\\r\\n\
         Connection: close\\r\\n\\r\\n"
    );
    assert!(is_well(get(None), NGINX));
    assert!(is_well(get(None), b"HTTP/1.0 399 \r\n\r\n"));
    assert!(is_well(get(None), b"HTTP/1.1 200 OK\nA: b\n\n"));
    assert!(is_well(
        get(None),
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 None\r\n\r\n"
    ));
    for (answer, text) in [
        (&b"HTTP/1.1 503 Service Unavailable\r\nServer: nginx\r\n\r\n"[..], "status 503"),
        (b"HTTP/1.1 400 \r\n\r\n", "status 400"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101"),
        (b"HTTP/1.1 abc\r\n\r\n", "expected an HTTP answer, got \"HTTP/1.1 abc\""),
        (b"HTTP/2 200\r\n\r\n", "expected an HTTP answer, got \"HTTP/2 200\""),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "expected an HTTP answer, got \"SSH-2.0-OpenSSH_9.2\""),
    ] {
        assert_eq!(fault(get(None), answer), text);
    }
    // Fields without number do not hide the status.
    let fields = "X: y\r\n".repeat(1000);
    let check = of(get(None));
    let many = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
    assert_eq!(talk(&check, [many.as_bytes()]).1, Result::Well(NOTHING));
}

#[test]
fn http_looks_for_a_text_in_the_body_only() {
    let answer = |body: &str| [NGINX, body.as_bytes()].concat();
    assert!(is_well(get(Some(b"fine")), &answer("all is fine")));
    assert!(is_well(get(Some(b"f")), &answer("f")));
    assert_eq!(outcome(get(Some(b"nginx")), &answer("all is fine\n")).1, Result::Waits);
    let (_, result, machine) = talk(&of(get(Some(b"nginx"))), [&answer("no")[..]]);
    assert_eq!(result, Result::Waits);
    assert_eq!(machine.ended().text, "no \"nginx\" in the body");
    assert_eq!(machine.late().class, FaultClass::Unexpected);
    // The status comes first.
    let down = b"HTTP/1.1 503 No\r\n\r\nfine";
    assert_eq!(fault(get(Some(b"fine")), down), "status 503");
}

#[test]
fn the_host_line_is_what_a_browser_would_send() {
    let host = |kind: CheckKind, host: Option<&str>, address: Address| {
        let check = Check { host: host.map(str::to_owned), ..of(kind) };
        let Step::Send(request) = machine(&check, &address).connected() else { panic!() };
        let request = String::from_utf8(request).unwrap();
        request.lines().nth(1).unwrap().to_owned()
    };
    let inet = |text: &str| Address::Inet(text.parse().unwrap());
    let CheckKind::Http(question) = get(None) else { panic!() };
    let https = CheckKind::Https(question);
    for (kind, given, address, line) in [
        (get(None), None, inet("192.0.2.1:80"), "Host: 192.0.2.1"),
        (get(None), None, inet("192.0.2.1:443"), "Host: 192.0.2.1:443"),
        (https.clone(), None, inet("192.0.2.1:443"), "Host: 192.0.2.1"),
        (https, None, inet("[2001:db8::1]:443"), "Host: [2001:db8::1]"),
        (get(None), None, inet("[fe80::1%3]:81"), "Host: [fe80::1]:81"),
        (get(None), None, Address::Unix("/run/x".into()), "Host: localhost"),
        (get(None), Some("www.example"), inet("192.0.2.1:81"), "Host: www.example"),
    ] {
        assert_eq!(host(kind, given, address), line);
    }
}

const OPENSMTPD: &[u8] = b"220 mail.example ESMTP OpenSMTPD\r\n\
    250-mail.example Hello localhost [127.0.0.1], pleased to meet you\r\n250-8BITMIME\r\n\
    250-ENHANCEDSTATUSCODES\r\n250-SIZE 36700160\r\n250-DSN\r\n250 HELP\r\n";

#[test]
fn smtp_greets_and_quits() {
    let (sent, result) = outcome(CheckKind::Smtp, OPENSMTPD);
    // Both come in one piece, so the farewell has all.
    assert_eq!(sent, b"");
    assert_eq!(result, Result::Well(Farewell::Close(b"EHLO localhost\r\nQUIT\r\n".to_vec())));
    assert!(is_well(CheckKind::Smtp, OPENSMTPD));
    assert!(is_well(CheckKind::Smtp, b"220-a\r\n220-b\r\n220 c\r\n250\r\n"));
    for (answer, text) in [
        (&b"554 no service\r\n"[..], "error 554"),
        (b"421 4.3.2 too many\r\n", "error 421"),
        (b"220 a\r\n502 5.5.1 what?\r\n", "error 502"),
        (b"+OK dovecot ready.\r\n", "expected an SMTP greeting, got \"+OK dovecot ready.\""),
        (b"220x\r\n", "expected an SMTP greeting, got \"220x\""),
        (b"220 a\r\nhello", "expected a reply to EHLO, got \"hello\""),
        (b"\r\n", "expected an SMTP greeting, got \"\""),
        (b"\x16\x03\x01", "expected an SMTP greeting, got \"\\x16\\x03\\x01\""),
    ] {
        assert_eq!(fault(CheckKind::Smtp, answer), text);
    }
    let endless = [b"220 ".as_slice(), &[b'x'; 5000]].concat();
    assert_eq!(fault(CheckKind::Smtp, &endless), "answer too long");
}

#[test]
fn pgsql_is_answered_by_a_byte() {
    let (sent, result) = outcome(CheckKind::Pgsql, b"N");
    assert_eq!(sent, [0, 0, 0, 8, 4, 210, 22, 47]);
    assert_eq!(result, Result::Well(NOTHING));
    assert_eq!(outcome(CheckKind::Pgsql, b"S").1, Result::Well(Farewell::Handshake));
    assert_eq!(
        fault(CheckKind::Pgsql, b"E\0\0\0\x2aSFATAL\0"),
        "expected an answer to SSLRequest, got \"E\\x00\\x00\\x00*SFATAL\\x00\""
    );
}

const PONG: &[u8] = b"+PONG\r\n";
const MASTER: &[u8] = b"+PONG\r\n*3\r\n$6\r\nmaster\r\n";
const REPLICA: &[u8] =
    b"+PONG\r\n*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:26379\r\n$9\r\nconnected\r\n:112\r\n";

#[test]
fn redis_answers_and_has_a_role() {
    let (any, master) = (CheckKind::Redis(RedisRole::Any), CheckKind::Redis(RedisRole::Master));
    assert_eq!(
        outcome(any.clone(), PONG),
        (b"*1\r\n$4\r\nPING\r\n".to_vec(), Result::Well(NOTHING))
    );
    assert!(is_well(any.clone(), PONG));
    assert!(is_well(any.clone(), b"-NOAUTH Authentication required.\r\n"));
    assert!(is_well(master.clone(), MASTER));
    let rest =
        [MASTER, b":112\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$5\r\n26380\r\n$3\r\n112\r\n"].concat();
    assert_eq!(
        outcome(master.clone(), &rest).1,
        Result::Well(Farewell::Close(b"*1\r\n$4\r\nROLE\r\n".to_vec()))
    );
    for (kind, answer, text) in [
        (&master, REPLICA, "expected role \"master\", got \"slave\""),
        (
            &master,
            b"+PONG\r\n*1\r\n$8\r\nsentinel\r\n",
            "expected role \"master\", got \"sentinel\"",
        ),
        (
            &master,
            b"-NOAUTH Authentication required.\r\n-NOAUTH Authentication required.\r\n",
            "expected a role, got \"-NOAUTH Authentication required.\"",
        ),
        (
            &any,
            b"-LOADING Redis is loading the dataset in memory\r\n",
            "expected \"PONG\", got \"-LOADING Redis is loading the dataset in memory\"",
        ),
        (
            &any,
            b"-ERR max number of clients reached\r\n",
            "expected \"PONG\", got \"-ERR max number of clients reached\"",
        ),
        (
            &any,
            b"HTTP/1.1 400 Bad Request\r\n",
            "expected \"PONG\", got \"HTTP/1.1 400 Bad Request\"",
        ),
        (&any, b"\0\0\0", "expected a Redis reply, got \"\\x00\\x00\\x00\""),
    ] {
        assert_eq!(fault(kind.clone(), answer), text);
    }
    let role = CheckFault::told(FaultClass::Role, 0, "expected role \"master\", got \"slave\"");
    assert_eq!(outcome(master, REPLICA).1, Result::Fault(role));
}

const BOUND: &[u8] = b"0\x0c\x02\x01\x01a\x07\x0a\x01\0\x04\0\x04\0";

#[test]
fn ldap_binds_and_unbinds() {
    let (sent, result) = outcome(CheckKind::Ldap, BOUND);
    assert_eq!(sent, b"0\x0c\x02\x01\x01`\x07\x02\x01\x03\x04\0\x80\0");
    assert_eq!(result, Result::Well(Farewell::Close(b"0\x05\x02\x01\x02B\0".to_vec())));
    assert!(is_well(CheckKind::Ldap, BOUND));
    // As Active Directory writes it.
    let long = b"0\x84\0\0\0\x10\x02\x01\x01a\x84\0\0\0\x07\x0a\x01\0\x04\0\x04\0";
    assert!(is_well(CheckKind::Ldap, long));
    let refused = b"0%\x02\x01\x01a \x0a\x010\x04\0\x04\x19anonymous bind disallowed";
    assert_eq!(fault(CheckKind::Ldap, refused), "error 48");
    // A notice of disconnection: message 0, unavailable.
    let leaves = b"0\x24\x02\x01\0x\x1f\x0a\x014\x04\0\x04\0\x8a\x161.3.6.1.4.1.1466.20036";
    assert_eq!(fault(CheckKind::Ldap, leaves), "error 52");
    for bad in [
        &b"SSH-2.0-x\r\n"[..],
        b"0\x80",
        b"0\x85\0\0\0\0\x01",
        b"0\x84\x7f\xff\xff\xff",
        b"0\0",
        b"0\x03\x02\x01\x01",
        // Of another message, another operation, without a code, with a code that is not one.
        b"0\x0c\x02\x01\x02a\x07\x0a\x01\0\x04\0\x04\0",
        b"0\x0c\x02\x01\x01e\x07\x0a\x01\0\x04\0\x04\0",
        b"0\x05\x02\x01\x01a\0",
        b"0\x07\x02\x01\x01a\x02\x0a\0",
        b"0\x0a\x02\x01\x01a\x05\x0a\x03\x01\x01\x01",
    ] {
        assert!(
            fault(CheckKind::Ldap, bad).starts_with("expected an LDAP answer, got "),
            "{bad:?}"
        );
    }
}

const FOUND: &[u8] = b"\0=pe\x85\0\0\x01\0\x02\0\0\0\0\x03www\x07example\0\0\x01\0\x01\
    \xc0\x0c\0\x01\0\x01\0\0\0<\0\x04\xc0\0\x02\x01\xc0\x0c\0\x01\0\x01\0\0\0<\0\x04\xc0\0\x02\x02";
const NO_SUCH_NAME: &[u8] = b"\0Ppe\x85\x03\0\x01\0\0\0\x01\0\0\x04nope\x07example\0\0\x01\0\x01\
    \xc0\x11\0\x06\0\x01\0\0\0<\0&\x02ns\xc0\x11\x0ahostmaster\xc0\x11\
    \0\0\0\x01\0\0\0<\0\0\0<\0\0\0<\0\0\0<";
const REFUSED: &[u8] = b"\0\x1ape\x81\x05\0\x01\0\0\0\0\0\0\x03www\x04test\0\0\x01\0\x01";

#[test]
fn dns_answers_without_an_error() {
    let (sent, result) = outcome(dns("www.example"), FOUND);
    assert_eq!(sent, b"\0\x1dpe\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x01\0\x01");
    assert_eq!(result, Result::Well(NOTHING));
    assert!(is_well(dns("WWW.example."), FOUND));
    assert_eq!(fault(dns("nope.example"), NO_SUCH_NAME), "NXDOMAIN");
    assert_eq!(fault(dns("www.test"), REFUSED), "REFUSED");
    let expected = "expected a DNS answer, got ";
    // Of another name, a question, another id, too short, more records than bytes, garbage.
    assert!(fault(dns("other.example"), FOUND).starts_with(expected));
    assert!(fault(dns("www.example"), &sent).starts_with(expected));
    let changed = |at: usize, byte: u8| {
        let mut answer = FOUND.to_vec();
        answer[at] = byte;
        answer
    };
    assert!(fault(dns("www.example"), &changed(3, b'x')).starts_with(expected));
    assert!(fault(dns("www.example"), &changed(8, 0xff)).starts_with(expected));
    assert!(fault(dns("www.example"), &changed(9, 3)).starts_with(expected));
    assert!(fault(dns("www.example"), b"\0\x0bpe").starts_with(expected));
    assert!(fault(dns("www.example"), b"HTTP/1.1 400 Bad").starts_with(expected));
    // Errors may come without the question, and some have no name here.
    assert_eq!(fault(dns("www.example"), b"\0\x0cpe\x80\x02\0\0\0\0\0\0\0\0"), "SERVFAIL");
    assert_eq!(fault(dns("www.example"), b"\0\x0cpe\x80\x09\0\0\0\0\0\0\0\0"), "error 9");
    assert!(fault(dns("www.example"), b"\0\x0cpe\x80\0\0\0\0\0\0\0\0\0").starts_with(expected));
}

#[test]
fn dns_asks_for_any_name_of_the_grammar() {
    for name in [".", "a", "_x._tcp.example", &["a"; 126].join("."), &"a".repeat(63)] {
        let Step::Send(query) = machine(&of(dns(name)), &Address::Unix("/x".into())).connected()
        else {
            panic!("{name}");
        };
        assert_eq!(usize::from(u16::from_be_bytes([query[0], query[1]])), query.len() - 2);
    }
    let check = of(dns(&"a".repeat(64)));
    let (_, result, _) = talk(&check, []);
    let fault = CheckFault::told(FaultClass::Other, 0, "name cannot be asked for");
    assert_eq!(result, Result::Fault(fault));
}

const MARIADB: &[u8] = b"d\0\0\0\x0a5.5.5-10.11.19-MariaDB-0+deb12u1\0\x04\0\0\0e:0!S^`E\0\
    \xfe\xf7\x08\x02\0\xff\x81\x15\0\0\0\0\0\0\x1d\0\0\0zV\"BdRPv'Wcl\0mysql_native_password\0";
const MYSQL: &[u8] = b"I\0\0\0\x0a8.4.3\0\x08\0\0\0GS.\x01mL@\x16\0\xff\xff\xff\x02\0\xff\xdf\x15\
    \0\0\0\0\0\0\0\0\0\0Bd\x07I>E%rP\x05cY\0caching_sha2_password\0";
const LOGGED_IN: &[u8] = b"\x07\0\0\x02\0\0\0\x02\0\0\0";
const SWITCHED: &[u8] = b"\x2c\0\0\x02\xfecaching_sha2_password\0Bd\x07I>E%rP\x05cY12345678\0";

fn login(plugin: &str, end: &[u8]) -> Vec<u8> {
    let mut payload = b"\x01\x82\x08\0\0\0\x01\0\x21".to_vec();
    payload.extend([0; 23]);
    payload.extend(b"penny\0\0");
    payload.extend(plugin.as_bytes());
    payload.push(0);
    let length = u8::try_from(payload.len()).unwrap();
    [&[length, 0, 0, 1], &payload[..], end].concat()
}

#[test]
fn mysql_logs_in_and_quits() {
    let quit = b"\x01\0\0\0\x01";
    let well =
        |end: &[u8], plugin| Result::Well(Farewell::Close(login(plugin, &[end, quit].concat())));
    let answer = [MARIADB, LOGGED_IN].concat();
    assert_eq!(outcome(mysql(), &answer).1, well(b"", "mysql_native_password"));
    assert!(is_well(mysql(), &answer));
    // Another method than the one proposed; an empty password of the method of MySQL is a byte.
    let to_sha2 = [MARIADB, SWITCHED, b"\x07\0\0\x04\0\0\0\x02\0\0\0"].concat();
    assert_eq!(outcome(mysql(), &to_sha2).1, well(b"\x01\0\0\x03\0", "mysql_native_password"));
    let to_native = [
        MYSQL,
        b"\x2c\0\0\x02\xfemysql_native_password\0Bd\x07I>E%rP\x05cY12345678\0",
        b"\x07\0\0\x04\0\0\0\x02\0\0\0",
    ]
    .concat();
    assert_eq!(outcome(mysql(), &to_native).1, well(b"\0\0\0\x03", "caching_sha2_password"));
    let cached = [MYSQL, b"\x02\0\0\x02\x01\x03", b"\x07\0\0\x03\0\0\0\x02\0\0\0"].concat();
    assert_eq!(outcome(mysql(), &cached).1, well(b"", "caching_sha2_password"));
    // It wants the password itself: an empty one ends the handshake.
    let refused = b"\x09\0\0\x04\xff\x15\x04#28000";
    let asked = [MYSQL, b"\x02\0\0\x02\x01\x04", refused].concat();
    assert_eq!(fault(mysql(), &asked), "error 1045");
}

#[test]
fn mysql_tells_errors_by_their_number() {
    let denied = b"4\0\0\x02\xff\xa2\x06#28000Access denied for user 'nobody'@'localhost'";
    assert_eq!(fault(mysql(), &[MARIADB, denied].concat()), "error 1698");
    let full = b"\x17\0\0\0\xff\x10\x04Too many connections";
    assert_eq!(fault(mysql(), full), "error 1040");
    for (answer, start) in [
        (&b"SSH-2.0-OpenSSH"[..], "expected a MySQL greeting, got \"SSH-2.0"),
        (b"\0\0\0\0", "expected a MySQL greeting"),
        (b"\x01\0\0\x01\x0a", "expected a MySQL greeting"),
        (b"\x01\0\0\0\x0a", "expected a MySQL greeting"),
        (b"\x01\0\0\0\x09", "expected a MySQL greeting"),
        (b"\x01\0\0\0\xff", "expected an error with its number"),
        (&[MARIADB, b"\x01\0\0\x02\x55"].concat(), "expected an answer to the login"),
        (&[MARIADB, b"\x01\0\0\xff\x01"].concat(), "expected an answer to the login"),
        // Of a server without protocol 4.1.
        (b"\x16\0\0\0\x0a3.23\0\x01\0\0\0abcdefgh\0\x2c\0\x08\0\0", "expected a MySQL greeting"),
    ] {
        let text = fault(mysql(), answer);
        assert!(text.starts_with(start), "{text}");
    }
}

#[test]
fn an_exchange_looks_for_its_text() {
    let (sent, result) = outcome(exchange(), b"+PONG");
    assert_eq!((sent.as_slice(), result), (&b"PING\r\n"[..], Result::Well(NOTHING)));
    assert!(is_well(exchange(), b"x PONPONG"));
    let (_, result, machine) = talk(&of(exchange()), [&b"-LOADING Redis\r\nPON"[..]]);
    assert_eq!(result, Result::Waits);
    assert_eq!(machine.ended().text, "expected \"PONG\", got \"-LOADING Redis\"");
    assert_eq!(machine.late(), machine.ended());
    let (_, _, machine) = talk(&of(exchange()), []);
    assert_eq!((machine.ended().text, machine.late().text), ("closed".into(), "timeout".into()));
}

#[test]
fn a_server_without_end_fails() {
    let flood = vec![b'a'; MOST_READ + 1];
    let most = &flood[..MOST_READ];
    assert_eq!(talk(&of(exchange()), [most]).1, Result::Waits);
    let too_long = Result::Fault(CheckFault::of(FaultClass::TooLong));
    assert_eq!(talk(&of(exchange()), [&flood[..]]).1, too_long);
    assert_eq!(talk(&of(exchange()), flood.chunks(7)).1, too_long);
    // The text at the end of what is read still counts, and one behind it does not.
    let found = [&flood[..MOST_READ - 4], b"PONGaaa"].concat();
    assert_eq!(talk(&of(exchange()), [&found[..]]).1, Result::Well(NOTHING));
    let behind = [&flood[..MOST_READ - 3], b"PONGaaa"].concat();
    assert_eq!(talk(&of(exchange()), [&behind[..]]).1, too_long);
}

#[test]
fn long_answers_are_shown_in_part() {
    let answer = [b"x".repeat(100), b"\n".to_vec()].concat();
    let text = fault(CheckKind::Redis(RedisRole::Any), &answer);
    let refused = fault(CheckKind::Redis(RedisRole::Any), b"-ERR 'a' \"b\" \\'\r\n");
    assert_eq!(refused, r#"expected "PONG", got "-ERR 'a' \"b\" \\'""#);
    assert_eq!(text, format!("expected \"PONG\", got \"{}...\"", "x".repeat(60)));
}

/// Beginnings of good answers, so that garbage comes at every place.
fn good(kind: &CheckKind) -> Vec<u8> {
    match kind {
        CheckKind::Tcp | CheckKind::Tls | CheckKind::Pgsql => Vec::new(),
        CheckKind::Http(_) | CheckKind::Https(_) => NGINX.to_vec(),
        CheckKind::Smtp => OPENSMTPD.to_vec(),
        CheckKind::Mysql { .. } => [MARIADB, SWITCHED, LOGGED_IN].concat(),
        CheckKind::Redis(_) => MASTER.to_vec(),
        CheckKind::Ldap => BOUND.to_vec(),
        CheckKind::Dns { .. } => FOUND.to_vec(),
        CheckKind::Exchange { .. } => b"PON".to_vec(),
    }
}

proptest! {
    #[test]
    fn garbage_ends_the_same_way_however_it_is_cut(
        kind in prop::sample::select(kinds()),
        kept in any::<prop::sample::Index>(),
        garbage in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[ -~\r\n]{0,200}".prop_map(String::into_bytes),
        ],
        size in 1_usize..20,
    ) {
        let check = of(kind.clone());
        let mut stream = good(&kind);
        stream.truncate(kept.index(stream.len() + 1));
        stream.extend(garbage);
        let whole = talk(&check, [&stream[..]]);
        if let Result::Fault(fault) = &whole.1 {
            prop_assert!(fault.is_proper(), "{:?}", fault);
        }
        prop_assert!(whole.2.ended().is_proper() && whole.2.late().is_proper());
        let whole = summary(whole);
        prop_assert_eq!(&summary(talk(&check, stream.chunks(size))), &whole);
        prop_assert_eq!(&summary(talk(&check, stream.chunks(1))), &whole);
    }
}
