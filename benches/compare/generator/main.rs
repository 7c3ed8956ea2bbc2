//! The load generator of the side-by-side benchmark. Clients and servers are one program, and each
//! is a single thread around epoll(7), so that the generator uses little of the machine.
//!
//! ```text
//! generator serve ADDRESS COUNT                servers on COUNT ports from ADDRESS on
//! generator short ADDRESS [options]            a connection, a request, an answer, the end
//! generator requests ADDRESS [options]         requests on open connections
//! generator down|up ADDRESS [options]          a stream without end
//! generator hold ADDRESS [options]             an exchange on each connection, then silence
//! ```
//!
//! Options have the form `name=value`, and all values are numbers. `at-once`: simultaneous
//! connections (64). `milliseconds`: duration of the run (2000). `units`: the run stops after this
//! number. `clients`: different client addresses 127.1.x.y (1). `bytes`: size of an answer (1024).
//! `pieces`: writes for one answer (1). `rate`: new connections per second, instead of `at-once`.
//! `tls`: the TLS version of the clients, 12 or 13. `resume` 1: clients resume their last session.
//! The results are printed as one line of JSON.
//!
//! It runs on a test machine only, and reads only its own data.

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

/// Raises the descriptor limit to the highest that this user may have.
fn raise_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}
