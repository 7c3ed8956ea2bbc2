//! The end of the process: by order, for another one, or because the supervisor is gone.

use pen_status::Status;

use super::*;

#[test]
fn who_leaves_answers_what_is_under_way_and_lets_the_others_come_again() {
    let process = Process::plain();
    // It takes longer to encode than a status is fresh.
    let large = Status { listen: "x".repeat(8 << 20), ..well() };
    let encoded = memory(&codec::encode_large(&large).unwrap());
    let [mut slow, mut known, mut idle] =
        ["/status.json", "/health", "/x"].map(|path| process.gets(path));
    let serial = process.asked();
    assert_eq!(response(&mut idle, true).status, 404);
    process.tells(&ToPage::Status { serial }, Some(&encoded));
    assert_eq!(response(&mut known, true).status, 200);
    let mut stream = process.gets("/events");
    head(&mut stream);
    process.asked();
    process.tells(&ToPage::Leave, None);
    rest(&mut stream);
    // A request that comes now is answered by what was known.
    known.write_all(b"GET /health HTTP/1.1\r\nHost: pen\r\n\r\n").unwrap();
    let got = response(&mut known, true);
    assert!(got.status == 200 && got.has("Connection: close"), "{got:?}");
    // The connection that asks for nothing is closed, although another one gets its response.
    assert_eq!(rest(&mut idle), "");
    let got = response(&mut slow, true);
    assert_eq!(serde_json::from_str::<Status>(&got.body).unwrap(), large);
    drop((known, slow));
    assert_eq!(process.ends(), 0);
}

#[test]
fn who_leaves_without_an_answer_says_so() {
    let process = Process::plain();
    let mut waiting = process.gets("/health");
    process.asked();
    process.tells(&ToPage::Leave, None);
    let got = response(&mut waiting, true);
    assert_eq!((got.status, &got.body[..]), (503, "pen is being upgraded\n"));
    assert_eq!(rest(&mut waiting), "");
    drop(waiting);
    assert_eq!(process.ends(), 0);
}

#[test]
fn readers_wait_while_the_process_accepts_nobody() {
    let process = Process::plain();
    process.tells(&ToPage::Pause, None);
    process.tells(&ToPage::Ping { serial: 1 }, None);
    assert_eq!(message(&process.channel), FromPage::Pong { serial: 1 });
    let mut reader = process.gets("/x");
    process.tells(&ToPage::Ping { serial: 2 }, None);
    assert_eq!(message(&process.channel), FromPage::Pong { serial: 2 });
    process.tells(&ToPage::Begin, None);
    assert_eq!(response(&mut reader, true).status, 404);
}

#[test]
fn it_ends_when_the_supervisor_says_nonsense_or_is_gone() {
    let process = Process::plain();
    process.tells(&ToPage::Status { serial: 0 }, Some(&memory(b"no status")));
    assert_eq!(process.ends(), 1);
    let process = Process::plain();
    process.tells(&ToPage::Settings, None);
    assert_eq!(process.ends(), 1);
    let mut process = Process::plain();
    let (other, _) = Channel::pair().unwrap();
    drop(std::mem::replace(&mut process.channel, other));
    assert_eq!(process.ends(), 0);
}
