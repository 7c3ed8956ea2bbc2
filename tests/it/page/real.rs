//! The page of a running pen in a real browser.

use serde_json::{Value, json};

use crate::harness::browser::{Browser, Script};
use crate::harness::{Backend, Pen, Port, eventually, hold, until};

/// What the page says and `/status.json` too, as one value each.
fn shown(browser: &Browser) -> Value {
    browser.value(
        "({ connections: Number(document.getElementById('connections').textContent), \
            clients: Number(document.getElementById('clients').textContent), \
            servers: [...document.querySelector('table.servers').tBodies[0].rows].map(row => \
                [Number(row.id.slice(1)), row.dataset.state, Number(row.cells[2].dataset.v), \
                 Number(row.cells[6].dataset.v), Number(row.cells[7].dataset.v)]) })",
    )
}

/// The same of `/status.json`, asked from within the page.
fn told(browser: &Browser) -> Value {
    browser.value(
        "globalThis.json = null; \
         fetch('status.json').then(answer => answer.json()).then(json => globalThis.json = json)",
    );
    let json: Value = until("status.json is there", || {
        let json = browser.value("globalThis.json");
        (!json.is_null()).then_some(json)
    });
    let number = |value: &Value| value.as_u64().unwrap();
    let servers = json["servers"].as_array().unwrap().iter().map(|server| {
        let failures = server["connect_failures"].as_array().unwrap().iter();
        let failures: u64 = failures.map(|part| number(&part["count"])).sum();
        let bytes = number(&server["sent"]) + number(&server["received"]);
        json!([server["number"], server["state"], server["connections"], failures, bytes])
    });
    let servers: Vec<Value> = servers.collect();
    json!({ "connections": json["connections"], "clients": json["clients"], "servers": servers })
}

#[test]
fn the_page_shows_what_pen_does_and_says_when_pen_is_gone() {
    let Some(browser) = Browser::start(Script::On) else { return };
    let (up, down) = (Backend::named("up"), Backend::down("down"));
    let page = Port::reserve();
    let pen = Pen::builder()
        .control()
        .options(["-O", &format!("page {}", page.address())])
        .servers([&down, &up])
        .start();
    browser.open(&format!("http://{}/", page.address()));
    let headline = "document.querySelector('h1').textContent";
    assert_eq!(browser.text(headline), "2 of 2 servers are up");
    // Several, so that one of them is for the server that is down.
    let client = |number| hold(pen.address(), [127, 1, 1, number].into()).unwrap();
    let clients: Vec<_> = (1..=4).map(client).collect();
    eventually("the page shows the clients and the server that is down", || {
        browser.text(headline) == "1 of 2 servers are up" && shown(&browser)["connections"] == 4
    });
    eventually("the page and status.json say the same", || shown(&browser) == told(&browser));
    let events = "document.querySelector('section.events').textContent";
    assert!(browser.text(events).contains("connection refused"), "{}", browser.text(events));
    assert_eq!(browser.messages(), Vec::<String>::new());
    browser.value(
        "fetch('').then(answer => answer.headers.get('content-security-policy'))\
         .then(policy => globalThis.policy = policy)",
    );
    let policy = until("the headers are there", || {
        browser.value("globalThis.policy").as_str().map(str::to_owned)
    });
    assert_eq!(policy, pen_status::page::CONTENT_SECURITY_POLICY);
    drop(clients);
    drop(pen);
    eventually("the page says that pen is gone", || {
        browser.text("document.getElementById('lost').textContent").contains("cannot be reached")
    });
}
