//! What a worker does to place one client, by method and number of servers: the choice, and the
//! counts when the client comes and when it leaves. Ten clients come in a millisecond, and each
//! server has five at a time.
//!
//! `cargo bench -p pen-worker --bench placement` prints nanoseconds for all. With a method, a
//! number of servers and a number of clients as arguments it does that alone. So callgrind can
//! count the instructions: the difference of two runs with unequal numbers of clients.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use pen_config::address::Address;
use pen_config::ids::ClientKey;
use pen_config::settings::{Maglev, Selection, Server, Settings};
use pen_table::{Shape, Table};
use pen_worker::measured::select::choices::Choices;
use pen_worker::measured::select::{Candidate, Placement};
use pen_worker::measured::upstream::Upstreams;
use pen_worker::measured::upstream::servers::Servers;

const METHODS: [&str; 8] =
    ["roundrobin", "hash", "prio", "p2c", "maglev", "weight", "leastconn", "bounded"];

fn selection(method: &str) -> Selection {
    let none = Selection::default();
    match method {
        "roundrobin" => Selection { roundrobin: true, ..none },
        "hash" => Selection { hash: true, ..none },
        "prio" => Selection { prio: true, ..none },
        "p2c" => Selection { p2c: true, ..none },
        "maglev" => Selection { maglev: Maglev::On, ..none },
        "weight" => Selection { weight: true, ..none },
        "leastconn" => Selection { leastconn: true, ..none },
        "bounded" => Selection { maglev: Maglev::Bounded(125), ..none },
        other => panic!("{other} is none of {METHODS:?}"),
    }
}

/// Servers of different weights.
fn settings(method: &str, servers: u32) -> Settings {
    let server = |number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        let address = Address::Inet(([10, 0, high, low], 80).into());
        Some(Server { weight: 1 + number % 5, ..Server::at(address) })
    };
    let selection = selection(method);
    Settings { servers: (0..servers).map(server).collect(), selection, ..Settings::default() }
}

/// The time for one of so many clients.
fn place(method: &str, servers: u32, clients: u32) -> Duration {
    let settings = settings(method, servers);
    let shape = Shape { clients: 64, servers: servers + 2, rows: 4, connections: 64 };
    let table = Table::create(shape).expect("memory for a table");
    (0..2).for_each(|row| table.use_row(row));
    let (worker_table, upstreams) = (table.worker_table(0), Upstreams::new(servers + 2));
    let choices = RefCell::new(Choices::new(&settings, 0));
    let mut open = VecDeque::new();
    let begun = Instant::now();
    for number in 0..clients {
        let farm = Servers {
            worker_table: &worker_table,
            upstreams: &upstreams,
            choices: &choices,
            pending_max: 100,
            now: u64::from(number / 10) + 1,
            examined: Cell::new(0),
            passed_over: Cell::new(None),
        };
        let key = ClientKey::from_ip(Ipv4Addr::from(0x0a00_0000 + number).into());
        let candidate = Candidate { key, port: 1, recorded: None, permitted: true };
        let mut placement = Placement::new(&settings, &farm, candidate, &mut |_, _| ());
        let trial = placement.next(&settings, &farm).expect("a server");
        assert!(placement.judge(&settings, &farm, key, trial).is_ok());
        let row = trial.target.row(servers);
        assert!(worker_table.reserve(row, None));
        choices.borrow_mut().note(row);
        open.push_back(row);
        if open.len() > 5 * servers as usize
            && let Some(left) = open.pop_front()
        {
            worker_table.release(left);
            choices.borrow_mut().note(left);
        }
    }
    begun.elapsed() / clients.max(1)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [method, servers, clients] = &arguments[..] {
        let number = |text: &String| text.parse().expect("a number");
        println!("{:?}", place(method, number(servers), number(clients)));
        return;
    }
    println!("ns for a client     2     16    200   1000 servers");
    for method in METHODS {
        // The least disturbed of several.
        let least = |servers| (0..7).map(|_| place(method, servers, 60_000)).min();
        let times = [2, 16, 200, 1000].map(|servers| least(servers).unwrap_or_default());
        let [few, some, many, most] = times.map(|time| time.as_nanos());
        println!("{method:<12} {few:>9} {some:>6} {many:>6} {most:>6}");
    }
}
