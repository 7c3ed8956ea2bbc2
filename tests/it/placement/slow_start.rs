//! `slow_start`: a server that is new or comes back begins with a tenth of its share.

use serde_json::Value;

use crate::harness::{Backend, Pen, eventually};
use crate::placement::{client, pen_with};

/// How many of some clients, who come one after the other, the server "b" gets.
fn share(pen: &Pen, from: u16, clients: u16) -> usize {
    let names = (from..from + clients).map(|number| pen.ask(client(number)).unwrap());
    names.filter(|name| name == "b").count()
}

#[test]
fn a_server_that_comes_back_has_a_tenth_of_its_share_and_then_more() {
    let farm = Backend::farm(["a", "b"]);
    // One that was drained had its clients elsewhere too.
    for (method, mode) in [("roundrobin", "maint"), ("p2c", "drain")] {
        let commands = [method, "slow_start 1000", "blacklist 1"];
        let pen = pen_with(&commands, &[(&farm[0], 1), (&farm[1], 1)]);
        let whole = share(&pen, 0, 60);
        assert!(whole >= 15, "{method}: at the start servers have their whole share: {whole}");

        pen.tells(&format!("server 1 state {mode}"), "");
        pen.tells("server 1 state ready", "");
        let rows: Value = serde_json::from_str(&pen.tell("servers json")).unwrap();
        assert!(rows[0]["slow_start"].is_null(), "{rows}");
        assert!((10..20).contains(&rows[1]["slow_start"].as_u64().unwrap()), "{rows}");
        let status: Value = serde_json::from_str(&pen.tell("overview")).unwrap();
        assert_eq!(status["method"], method);
        let sample = format!("\npen_placement_info{{method=\"{method}\"}} 1\n");
        assert!(pen.tell("metrics").contains(&sample), "{method}");
        // One in eleven, on average.
        let slow = share(&pen, 100, 60);
        assert!(slow <= 20, "{method}: {slow}");
        // It draws by chance, and the turn may be that of the other server.
        let mut number = 1000;
        eventually("an explanation names it", || {
            number += 1;
            share(&pen, number, 1);
            pen.tell("explain 192.0.2.1").contains("(slow_start)")
        });

        pen.tells("slow_start 0", "0");
        let rows: Value = serde_json::from_str(&pen.tell("servers json")).unwrap();
        assert!(rows[1]["slow_start"].is_null(), "{rows}");
        let whole = share(&pen, 200, 60);
        assert!(whole >= 15, "{method}: {whole}");
    }
}

#[test]
fn new_servers_and_those_that_failed_begin_slowly_too() {
    let farm = Backend::farm(["a", "b"]);
    let commands = ["leastconn", "slow_start 1000", "blacklist 1"];
    let pen = pen_with(&commands, &[(&farm[0], 1)]);
    pen.tells(&format!("server 1 address 127.0.0.1 port {}", farm[1].address().port()), "");
    let at = |pen: &Pen, from: u16| {
        let all: Vec<_> =
            (from..from + 44).map(|number| pen.hold(client(number)).unwrap()).collect();
        all.iter().filter(|(_, name)| name == "b").count()
    };
    let new = at(&pen, 0);
    assert!((2..=7).contains(&new), "{new}: it has a tenth of the weight");
    eventually("they are gone", || pen.tell("servers").matches("conn 0 ").count() == 2);

    farm[1].stop();
    pen.tells("slow_start 0", "0");
    let _ = share(&pen, 100, 6);
    farm[1].start();
    let mut number = 200;
    eventually("it is used again", || {
        number += 1;
        share(&pen, number, 1) == 1
    });
    pen.tells("slow_start 1000", "1000");
    eventually("they are gone", || pen.tell("servers").matches("conn 0 ").count() == 2);
    let returned = at(&pen, 1000);
    assert!((2..=7).contains(&returned), "{returned}");
}

#[test]
fn it_is_written_and_warned_of_where_it_has_no_effect() {
    let server = Backend::named("a");
    let pen = pen_with(&["slow_start 30", "maglev"], &[(&server, 1)]);
    pen.tells("slow_start", "30");
    assert!(pen.tell("write -").contains("\nslow_start 30\n"));
    let said = pen.said();
    assert!(said.contains("slow_start 30 has no effect: with maglev"), "{said}");
}
