//! A worker under an attacker's control. It writes random data everywhere: over the whole table,
//! and into the channel.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use pen_ipc::channel::Channel;
use pen_ipc::codec;
use pen_ipc::message::{
    ConnectFailure, Event, FromStartingWorker, FromWorker, LastingFromWorker, ReportPage,
    ShortageDuring, ToWorker,
};
use pen_ipc::start::WorkerStart;
use pen_ipc::stats::{ConnectionInfo, Counters};
use pen_table::Table;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::numbers::{Bytes, Numbers};
use crate::worker::await_report;

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
pub fn live(start: WorkerStart, table: &Table, seed: u64) -> i32 {
    marks(table).for_each(|mark| mark.store(1, Relaxed));
    let mut random = Numbers::new(seed);
    // Before this message it serves no client, so no attacker can control it.
    start.channel.send(&FromStartingWorker::Ready, None).unwrap();
    let channel = start.channel.into_phase::<FromWorker, ToWorker>();
    // Waits until the test knows its pid.
    await_report(&channel);
    for _ in 0..random.below(300) + 50 {
        match random.below(8) {
            0 => spoil(table, &mut random),
            1 => send(&channel, &bytes(&mut random, 200), &mut random),
            // Longer than any message; the kernel takes it.
            2 if random.below(8) == 0 => send(&channel, &bytes(&mut random, 100_000), &mut random),
            3 => {
                let mut lie = encoded(&lie(&mut random));
                let at = random.below(lie.len());
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
fn spoil(table: &Table, random: &mut Numbers) {
    const USED: usize = 1 << 21;
    let words = table.words();
    let (fixed, style) = (random.next() as u32, random.below(4));
    let value = |random: &mut Numbers| match style {
        0 => fixed,
        1 => random.below(70) as u32,
        _ => random.next() as u32,
    };
    words.iter().take(USED).for_each(|word| word.store(value(random), Relaxed));
    for _ in 0..2000 {
        let at = random.below(words.len());
        words[at].store(value(random), Relaxed);
    }
}

fn send(channel: &Channel<FromWorker, ToWorker>, bytes: &[u8], random: &mut Numbers) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = vec![channel.as_fd(); [0, 0, 0, 1, 8][random.below(5)]];
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
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
fn lie(random: &mut Numbers) -> FromWorker {
    let info = |random: &mut Numbers| ConnectionInfo {
        number: odd(random) as u32,
        state: random.next() as u8,
        downfd: odd(random) as i32,
        upfd: odd(random) as i32,
        pending_down: odd(random) as u32,
        pending_up: odd(random) as u32,
        client: odd(random) as i32,
        server: odd(random) as i32,
    };
    match random.below(10) {
        0 => LastingFromWorker::from(counters(random)).into(),
        1 => FromWorker::Report(ReportPage {
            serial: random.below(20) as u32,
            last: random.below(2) == 0,
            counters: counters(random).into(),
            connections: (0..random.below(400)).map(|_| info(random)).collect(),
        }),
        2 => FromWorker::Applied { generation: odd(random) },
        3 => FromWorker::Listening,
        4 => FromWorker::Explained {
            serial: random.below(20) as u32,
            text: String::from_utf8_lossy(&bytes(random, 1000)).into_owned(),
        },
        6 => LastingFromWorker::Rebalanced {
            serial: random.below(20) as u32,
            closed: odd(random) as u32,
        }
        .into(),
        5 => LastingFromWorker::Pong { serial: odd(random) as u32 }.into(),
        _ => LastingFromWorker::Event(event(random)).into(),
    }
}

fn event(random: &mut Numbers) -> Event {
    let during =
        [ShortageDuring::Accept, ShortageDuring::Connect, ShortageDuring::Watch][random.below(3)];
    match random.below(7) {
        5 => Event::AddressChanged {
            server: odd(random) as i32,
            from: odd(random) as u32,
            to: odd(random) as u32,
            reason: ConnectFailure::Timeout,
        },
        0 => Event::LockStuck,
        1 => Event::Shortage { errno: odd(random) as i32, during },
        2 => Event::Blacklisted {
            server: odd(random) as i32,
            seconds: odd(random) as u32,
            reason: [ConnectFailure::Errno(odd(random) as i32), ConnectFailure::Timeout]
                [random.below(2)],
        },
        3 => Event::LogLost { lines: odd(random), errno: odd(random) as i32 },
        4 => Event::BackInUse { server: odd(random) as i32 },
        _ => Event::TableRebuilt { kept: odd(random) as u32 },
    }
}

fn counters(random: &mut Numbers) -> Counters {
    Counters { accepted: odd(random), unserved: odd(random), ..Counters::default() }
}

/// A number that is often a boundary value.
fn odd(random: &mut Numbers) -> u64 {
    match random.below(5) {
        0 => random.below(4) as u64,
        1 => u64::MAX - random.below(3) as u64,
        2 => 1 << random.below(64),
        3 => u64::from(u32::MAX >> random.below(32)),
        _ => random.next(),
    }
}

/// Random bytes, fewer than `limit`.
fn bytes(random: &mut Numbers, limit: usize) -> Vec<u8> {
    let length = random.below(limit);
    Bytes::new(random.next()).take(length)
}
