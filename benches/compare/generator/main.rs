//! The load generator of the side-by-side benchmark: clients and servers in one program, each a
//! single thread around epoll(7), so that little of the machine goes to them.
//!
//! ```text
//! generator serve ADDRESS COUNT                servers on COUNT ports from ADDRESS on
//! generator short ADDRESS [options]            a connection, a request, an answer, the end
//! generator requests ADDRESS [options]         requests on open connections
//! generator down|up ADDRESS [options]          a stream without end
//! generator hold ADDRESS [options]             one exchange on each connection, then silence until standard input ends
//! ```
//!
//! Options are `name=value`, all of them numbers: `at-once` connections at a time (64),
//! `milliseconds` to go on (2000), `units` to stop after, `clients` of different addresses
//! 127.1.x.y (1), `bytes` of an answer (1024), `pieces` that it is written in (1), `rate` of new
//! connections a second, instead of `at-once` at a time; `tls` 12 or 13 is the version of TLS that
//! clients speak, and with `resume` 1 they go on with their last session. What was measured comes
//! out as one line of JSON.
//!
//! Runs on the tester's machine alone; what it reads is its own.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on says why and ends")]

mod link;
mod load;
mod request;
mod serve;
mod times;

use std::collections::HashMap;
use std::net::SocketAddrV4;

use link::Tls;
use load::{Load, Work};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(mode), Some(address)) = (words.first(), words.get(1)) else { usage() };
    let Ok(address) = address.parse::<SocketAddrV4>() else { usage() };
    raise_limit();
    if mode == "serve" {
        let count = words.get(2).and_then(|count| count.parse().ok()).unwrap_or(1);
        return serve::serve(address, count);
    }
    let options = options(&words[2..]);
    let option = |name: &str, default: u64| options.get(name).copied().unwrap_or(default);
    let work = match mode.as_str() {
        "short" => Work::Short,
        "requests" => Work::Requests,
        "down" => Work::Down,
        "up" => Work::Up,
        "hold" => Work::Hold,
        _ => usage(),
    };
    let load = Load {
        work,
        address,
        at_once: option("at-once", 64) as usize,
        milliseconds: option("milliseconds", 2000),
        units: option("units", u64::MAX),
        clients: option("clients", 1) as u32,
        bytes: option("bytes", 1024) as usize,
        pieces: option("pieces", 1) as u8,
        rate: options.get("rate").copied(),
        tls: options
            .get("tls")
            .map(|version| Tls { version: *version, resumes: option("resume", 0) != 0 }),
    };
    println!("{}", load.run());
}

fn usage() -> ! {
    eprintln!(
        "usage: generator serve|short|requests|down|up|hold ADDRESS:PORT [COUNT | name=value ...]"
    );
    std::process::exit(1)
}

fn options(words: &[String]) -> HashMap<String, u64> {
    let option = |word: &String| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_string(), value.parse().ok()?))
    };
    words.iter().map(|word| option(word).unwrap_or_else(|| usage())).collect()
}

/// As many descriptors as this user may have.
fn raise_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}
