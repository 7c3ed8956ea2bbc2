//! Certificates that expire: each is an event once for each threshold.

use std::fs;

use rustix::process::Signal;

use crate::harness::events::{event, events, has};
use crate::harness::tls::{Authority, Identity};
use crate::harness::{Backend, Pen, eventually};

#[test]
fn a_certificate_is_told_of_when_it_comes_nearer_to_its_end_and_not_again() {
    let server = Backend::named("a");
    let builder = Pen::builder().control().server(&server).file("blacklist 1\n");
    let (path, authority) = (builder.directory().join("www.pem"), Authority::root("root"));
    let write = |identity: &Identity| {
        fs::write(&path, format!("{}{}", identity.key, identity.chain)).unwrap();
    };
    write(&authority.issue_until(&["a.test"], 20 * 24));
    let pen = builder.options(["-E", path.to_str().unwrap()]).start();
    let told = |pen: &Pen| {
        events(pen).iter().filter(|event| event["kind"] == "certificate_expires").count()
    };
    assert_eq!(told(&pen), 0);
    let reload = |pen: &Pen| {
        let count = |pen: &Pen| pen.said().matches("reloaded ").count();
        let before = count(pen);
        pen.supervisor().signal(Signal::HUP);
        eventually("it was read again", || count(pen) > before);
    };
    for (n, (hours, days, text)) in [
        (13 * 24 + 1, 13, "expires in 13 days, at "),
        (6 * 24 + 1, 6, "expires in 6 days, at "),
        (13, 0, "expires in "),
        (-25, -2, "has expired: it was valid until "),
    ]
    .into_iter()
    .enumerate()
    {
        write(&authority.issue_until(&["a.test"], hours));
        reload(&pen);
        let line = |event: &serde_json::Value| event["text"].as_str().unwrap().contains(text);
        let expires = event(&pen, "certificate_expires", line);
        has(
            &pen,
            &expires,
            &[
                ("certificate", "CN=a.test".into()),
                ("file", path.to_str().unwrap().into()),
                ("used", "server".into()),
                ("days", days.into()),
            ],
        );
        // The log is reminded of it, and events are not.
        let line = expires["text"].as_str().unwrap();
        let lines = pen.said().matches("the certificate of 'CN=a.test' ").count();
        reload(&pen);
        eventually("the log has it again", || {
            pen.said().matches("the certificate of 'CN=a.test' ").count() > lines
        });
        assert_eq!(told(&pen), n + 1, "once: {line}");
    }
}

#[test]
fn a_certificate_in_trouble_at_the_start_is_an_event_then() {
    let server = Backend::named("a");
    let builder = Pen::builder().control().server(&server);
    let (path, authority) = (builder.directory().join("www.pem"), Authority::root("root"));
    let identity = authority.issue_until(&["a.test"], 49);
    fs::write(&path, format!("{}{}", identity.key, identity.chain)).unwrap();
    let pen = builder.options(["-E", path.to_str().unwrap()]).start();
    let expires = event(&pen, "certificate_expires", |_| true);
    has(&pen, &expires, &[("days", 2.into()), ("used", "server".into())]);
    let told = events(&pen);
    let same = |event: &&serde_json::Value| event["text"] == expires["text"];
    assert_eq!(told.iter().filter(same).count(), 1, "{told:?}");
    assert_eq!(pen.said().matches("the certificate of 'CN=a.test' ").count(), 1);
}
