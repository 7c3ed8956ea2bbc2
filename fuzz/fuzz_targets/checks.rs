//! Input: the answers of a server that is checked, after a byte for the kind and one for the size
//! of the pieces in which they come. However they are cut, the same is sent and the result is the
//! same, and a check ends within its limit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_config::address::Address;
use pen_config::checks::{Check, CheckKind, CheckText, HttpQuestion, RedisRole, StatusRange};
use pen_config::proxy::ProxyOut;
use pen_ipc::checks::{FaultClass, LONGEST_FAULT};
use pen_worker::parts::checks::{Farewell, MOST_READ, Step, machine};

fn kind(number: u8) -> CheckKind {
    let text = |text: &str| CheckText::new(text).expect("it is short");
    let question = |body| HttpQuestion { path: "/".into(), status: StatusRange::default(), body };
    match number % 12 {
        0 => CheckKind::Http(question(None)),
        1 => CheckKind::Http(question(Some(text("fine")))),
        2 => CheckKind::Smtp,
        3 => CheckKind::Pgsql,
        4 => CheckKind::Mysql { user: "pen".into() },
        5 => CheckKind::Redis(RedisRole::Any),
        6 => CheckKind::Redis(RedisRole::Master),
        7 => CheckKind::Ldap,
        8 => CheckKind::Dns { name: "www.example".into() },
        9 => CheckKind::Exchange { send: text("PING"), expect: text("PONG") },
        10 => CheckKind::Tcp,
        _ => CheckKind::Tls,
    }
}

/// How a check ended.
#[derive(Debug, Eq, PartialEq)]
enum End {
    /// With a reset, a handshake, or a close.
    Well(Farewell),
    Fault(FaultClass, u16),
    /// It waits for more.
    Waits,
}

/// What is sent, and the end. The words of a fault depend on how much of an answer has come.
fn talk(check: &Check, input: &[u8], size: usize) -> (Vec<u8>, End) {
    let mut machine = machine(check, &Address::Inet(([127, 0, 0, 1], 80).into()));
    let (mut sent, mut read) = (Vec::new(), 0);
    let mut step = machine.connected();
    let mut pieces = input.chunks(size);
    loop {
        match step {
            Step::Send(bytes) => sent.extend(bytes),
            Step::Await => {}
            Step::Done(Farewell::Close(last)) => {
                sent.extend(last);
                return (sent, End::Well(Farewell::Close(Vec::new())));
            }
            Step::Done(farewell) => return (sent, End::Well(farewell)),
            Step::Fail(fault) => {
                assert!(fault.is_proper() && fault.text.len() <= LONGEST_FAULT, "{fault:?}");
                // What was to be sent does not matter.
                return (Vec::new(), End::Fault(fault.class, fault.number));
            }
        }
        assert!(read <= MOST_READ && sent.len() <= 8 * MOST_READ);
        let Some(piece) = pieces.next() else {
            assert!(machine.ended().is_proper() && machine.late().is_proper());
            return (sent, End::Waits);
        };
        read += piece.len();
        step = machine.received(piece);
    }
}

fuzz_target!(|data: &[u8]| {
    let [number, size, input @ ..] = data else { return };
    let check = Check { kind: kind(*number), host: None, port: None, proxy: ProxyOut::Off };
    let whole = talk(&check, input, usize::MAX);
    assert_eq!(talk(&check, input, usize::from(*size).max(1)), whole);
    assert_eq!(talk(&check, input, 1), whole);
    // A server that goes on for ever does not keep a check.
    let endless: Vec<u8> = input.iter().copied().cycle().take(MOST_READ + 1).collect();
    if !input.is_empty() {
        assert_ne!(talk(&check, &endless, 4096).1, End::Waits);
    }
});
