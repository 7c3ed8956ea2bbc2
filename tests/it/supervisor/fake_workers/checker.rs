//! A fake checker: obeys, and sends what a test wants to see refused.

use std::time::Duration;

use pen_ipc::channel::{Channel, Received};
use pen_ipc::checks::{CheckFault, CheckResult, CheckState, FaultClass, Verdict};
use pen_ipc::message::{FromChecker, FromStartingWorker, ToChecker};
use pen_ipc::start::CheckerStart;

use crate::worker::read_settings;
use crate::{BEHAVIOUR, sandbox};

/// Obeys until it is told to stop.
pub fn entry(start: CheckerStart) -> i32 {
    if let ["try", "checker", action] = BEHAVIOUR[..] {
        let reason = sandbox::attempt(action);
        start.channel.send(&FromStartingWorker::Failed { reason }, None).unwrap();
        return 1;
    }
    start.channel.send(&FromStartingWorker::Ready, None).unwrap();
    let channel = start.channel.into_phase::<FromChecker, ToChecker>();
    let mut generation = start.settings.generation;
    // The first ping comes when the start is over.
    let (mut begun, mut settled) = (false, false);
    loop {
        if let ["checker", lie] = BEHAVIOUR[..] {
            settled = settled || begun && tell(&channel, lie, generation);
        }
        std::thread::sleep(Duration::from_millis(20));
        match channel.receive() {
            Ok(Received::Message(ToChecker::Settings, Some(memory))) => {
                generation = read_settings(memory).generation;
                channel.send(&FromChecker::Applied { generation }, None).unwrap();
            }
            Ok(Received::Message(ToChecker::Ping { .. }, _))
                if BEHAVIOUR[..] == ["checker", "hangs"] => {}
            Ok(Received::Message(ToChecker::Ping { serial }, _)) => {
                begun = true;
                channel.send(&FromChecker::Pong { serial }, None).unwrap();
            }
            Ok(Received::Message(ToChecker::Settings, None)) => panic!("settings without settings"),
            Ok(Received::Message(ToChecker::Stop | ToChecker::Leave, _) | Received::Closed) => {
                return 0;
            }
            Ok(
                Received::Message(
                    ToChecker::Begin
                    | ToChecker::Pause
                    | ToChecker::Suspect { .. }
                    | ToChecker::Address { .. }
                    | ToChecker::ServerTls
                    | ToChecker::NoServerTls,
                    _,
                )
                | Received::Empty,
            ) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Tells what the test asks for. Returns whether that was all.
fn tell(channel: &Channel<FromChecker, ToChecker>, lie: &str, generation: u64) -> bool {
    let result = |server, state, text: &str| CheckResult {
        server,
        generation,
        began: u64::MAX,
        micros: 1,
        verdict: Verdict { state, streak: 0 },
        fault: match state {
            CheckState::Up => None,
            CheckState::Down | CheckState::Unknown => {
                Some(CheckFault { class: FaultClass::Other, number: 0, text: text.to_owned() })
            }
        },
    };
    let down = |server| result(server, CheckState::Down, "a lie");
    let results = match lie {
        // It says nothing and does not hang.
        "is-silent" | "hangs" => return true,
        "says-down" => vec![down(0)],
        // Servers that do not exist, and those that are never checked; then one that does.
        "invents" => [-1, -2, 1, 4095, 4096, i32::MIN, i32::MAX, 0].map(down).to_vec(),
        "is-early" => vec![CheckResult { generation: 0, ..down(0) }],
        "shouts" => vec![result(0, CheckState::Down, "two\nlines")],
        "sends-nothing" => Vec::new(),
        // More often than the supervisor reads.
        "floods" => {
            for _ in 0..1000 {
                let state = [CheckState::Up, CheckState::Down];
                for state in state {
                    let _ = channel.send(&FromChecker::Results(vec![result(0, state, "x")]), None);
                }
            }
            return false;
        }
        other => panic!("no such behaviour: {other}"),
    };
    channel.send(&FromChecker::Results(results), None).unwrap();
    true
}
