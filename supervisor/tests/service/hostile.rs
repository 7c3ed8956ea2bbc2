//! A worker under an attacker's control, which writes random data everywhere: over the whole table,
//! and into the channel. The supervisor and the other worker go on, the bad one is replaced, and
//! nothing panics.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pen_ipc::channel::Channel;
use pen_ipc::codec;
use pen_ipc::message::{
    ConnectFailure, Event, FromStartingWorker, FromWorker, ReportPage, ShortageDuring, ToWorker,
};
use pen_ipc::stats::{ConnectionInfo, Counters};
use pen_table::Table;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::harness::{Pen, await_report, is_alive, is_root, wait_for};
use crate::steering::ask;

pub const TESTS: &[(&str, fn())] = crate::tests![a_hostile_worker_is_replaced_and_nobody_else_is];

/// The number of hostile workers in a run of the tests; PEN_TEST_SEEDS sets it for longer runs.
const SEEDS: u64 = 24;

fn a_hostile_worker_is_replaced_and_nobody_else_is() {
    let seeds = std::env::var("PEN_TEST_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let pen = Pen::new("is hostile");
        let path = pen.path("control.sock").display().to_string();
        let pen = pen.with("control", path).with("seed", seed);
        let pen = if is_root() { pen.with("user", "nobody") } else { pen };
        let mut pen = pen.foreground();
        let (stranger, other) = {
            let children = pen.workers();
            (children[0], children[1])
        };
        // The reports are read while the table holds random data.
        let deadline = Instant::now() + Duration::from_secs(30);
        while is_alive(stranger) {
            assert!(Instant::now() < deadline, "seed {seed}: the stranger lives: {}", pen.errors());
            for line in [
                "status",
                "status json",
                "servers",
                "recent",
                "connection 0",
                "close 1",
                "clients_max 64",
            ] {
                assert!(!ask(&pen, line).contains("killed"), "seed {seed}: {line}");
            }
            pen.signal(Signal::SIGUSR1);
        }
        let died = format!("worker 0 (pid {stranger}) ");
        wait_for("a message", || pen.errors().contains(&died));
        wait_for("a replacement", || pen.pen.read("pen.log").matches("started\n").count() >= 2);
        assert!(is_alive(other), "seed {seed}: {}", pen.errors());
        assert_eq!(ask(&pen, "blacklist 17"), "17\n", "seed {seed}");
        assert!(!pen.errors().contains("panicked"), "seed {seed}: {}", pen.errors());
        pen.signal(Signal::SIGTERM);
        assert_eq!(pen.wait(), Some(0), "seed {seed}");
    }
}

// The code from here on runs in the process under test.

/// Whether no hostile worker ran before: one is enough. Afterwards, at least one of the marks is
/// not zero.
pub fn is_first(table: &Table) -> bool {
    marks(table).all(|mark| mark.load(Relaxed) == 0)
}

/// Unused words at the far end of the table's capacity.
pub fn marks(table: &Table) -> impl Iterator<Item = &AtomicU32> {
    table.words().iter().rev().step_by(1024).take(16)
}

/// Runs the hostile worker. In the end it exits by itself, as if by a fault in its own code.
pub fn live(channel: Channel<FromStartingWorker, ToWorker>, table: &Table) -> i32 {
    let seed: u64 = crate::harness::setting("seed").unwrap().parse().unwrap();
    marks(table).for_each(|mark| mark.store(1, Relaxed));
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    // Before this message it serves no client, so no attacker can control it.
    channel.send(&FromStartingWorker::Ready, None).unwrap();
    // Waits until the test knows its pid.
    await_report(&channel);
    for _ in 0..random.below(300) + 50 {
        match random.below(8) {
            0 => spoil(table, &mut random),
            1 => send(&channel, &random.bytes(200), &mut random),
            // Longer than any message; the kernel takes it.
            2 if random.below(8) == 0 => send(&channel, &random.bytes(100_000), &mut random),
            3 => {
                let mut lie = encoded(&lie(&mut random));
                let at = random.below(lie.len() as u64) as usize;
                lie[at] = random.next() as u8;
                send(&channel, &lie, &mut random);
            }
            4 if random.below(16) == 0 => send(&channel, b"", &mut random),
            _ => {
                let lie = encoded(&lie(&mut random));
                send(&channel, &lie, &mut random);
            }
        }
    }
    while rustix::net::send(&channel, &encoded(&lie(&mut random)), SendFlags::NOSIGNAL).is_ok() {}
    spoil(table, &mut random);
    101
}

/// Writes over the whole used part of the table, and over some words of the unused part: filling
/// all of that would only use up memory.
fn spoil(table: &Table, random: &mut Random) {
    const USED: usize = 1 << 21;
    let words = table.words();
    let (fixed, style) = (random.next() as u32, random.below(4));
    let value = |random: &mut Random| match style {
        0 => fixed,
        1 => random.below(70) as u32,
        _ => random.next() as u32,
    };
    words.iter().take(USED).for_each(|word| word.store(value(random), Relaxed));
    for _ in 0..2000 {
        let at = random.below(words.len() as u64) as usize;
        words[at].store(value(random), Relaxed);
    }
}

fn send(channel: &Channel<FromStartingWorker, ToWorker>, bytes: &[u8], random: &mut Random) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let gifts = vec![channel.as_fd(); [0, 0, 0, 1, 8][random.below(5) as usize]];
    let gifts: &[BorrowedFd<'_>] = &gifts;
    if !gifts.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(gifts));
    }
    // If the channel is full or closed, the message is dropped.
    let _ = sendmsg(
        channel,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    );
}

fn encoded(message: &FromWorker) -> Vec<u8> {
    let mut buffer = vec![0; codec::LIMIT];
    let length = codec::encode(message, &mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// A message that decodes and contains only false values.
fn lie(random: &mut Random) -> FromWorker {
    let info = |random: &mut Random| ConnectionInfo {
        number: random.odd() as u32,
        state: random.next() as u8,
        downfd: random.odd() as i32,
        upfd: random.odd() as i32,
        pending_down: random.odd() as u32,
        pending_up: random.odd() as u32,
        client: random.odd() as i32,
        server: random.odd() as i32,
    };
    match random.below(9) {
        0 => FromWorker::Counters(counters(random)),
        1 => FromWorker::Report(ReportPage {
            serial: random.below(20) as u32,
            last: random.below(2) == 0,
            counters: counters(random),
            connections: (0..random.below(400)).map(|_| info(random)).collect(),
        }),
        2 => FromWorker::Applied { generation: random.odd() },
        3 => FromWorker::Listening,
        4 => FromWorker::Explained {
            serial: random.below(20) as u32,
            text: String::from_utf8_lossy(&random.bytes(1000)).into_owned(),
        },
        5 => FromWorker::Pong { serial: random.odd() as u32 },
        _ => FromWorker::Event(event(random)),
    }
}

fn event(random: &mut Random) -> Event {
    let during = [ShortageDuring::Accept, ShortageDuring::Connect, ShortageDuring::Watch]
        [random.below(3) as usize];
    match random.below(7) {
        5 => Event::AddressChanged {
            server: random.odd() as i32,
            from: random.odd() as u32,
            to: random.odd() as u32,
            reason: ConnectFailure::Timeout,
        },
        0 => Event::LockStuck,
        1 => Event::Shortage { errno: random.odd() as i32, during },
        2 => Event::Blacklisted {
            server: random.odd() as i32,
            seconds: random.odd() as u32,
            reason: [ConnectFailure::Errno(random.odd() as i32), ConnectFailure::Timeout]
                [random.below(2) as usize],
        },
        3 => Event::LogLost { lines: random.odd(), errno: random.odd() as i32 },
        4 => Event::BackInUse { server: random.odd() as i32 },
        _ => Event::TableRebuilt { kept: random.odd() as u32 },
    }
}

fn counters(random: &mut Random) -> Counters {
    Counters { accepted: random.odd(), unserved: random.odd(), ..Counters::default() }
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A number that is often a boundary value.
    fn odd(&mut self) -> u64 {
        match self.below(5) {
            0 => self.below(4),
            1 => u64::MAX - self.below(3),
            2 => 1 << self.below(64),
            3 => u64::from(u32::MAX >> self.below(32)),
            _ => self.next(),
        }
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.next() as u8).collect()
    }
}
