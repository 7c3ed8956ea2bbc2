//! What was counted of the connections to a server: how many reached it or failed, how long a
//! connect took, and how long a connection lasted.
//!
//! There are counts per row and server, with one writer, the worker that has the row. They only
//! grow, and outlive the worker. One row behind those of the workers is the supervisor's. It holds
//! what is added to their sum: what another table counted, and the negative of what belongs to the
//! server that had the number before. All sums wrap, so such a negative is a plain number.
//!
//! Rows that nobody had are not cleared before a worker gets one, because that would make the
//! kernel allocate them for all servers. A hostile worker can write false counts there. It can
//! write them into any other row too.

use serde::{Deserialize, Serialize};

use crate::parts::{BUCKETS, COUNTS, Statistics};
use crate::sync::{AtomicU64, Ordering::*};
use crate::view::View;

/// Why a connect failed, in classes that are few enough to be counted one by one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FailureClass {
    /// Nobody listens there.
    Refused,
    /// There was no answer in time.
    Timeout,
    /// There is no way to it: no route, or a host or network that is down.
    Unreachable,
    /// Anything else.
    Other,
}

/// A duration with its bucket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timed {
    /// The duration, in microseconds.
    pub micros: u64,
    /// The bucket of the histogram; one that does not exist counts nothing.
    pub bucket: usize,
}

/// How many durations fell into each bucket, and their sum.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Durations {
    /// The durations in each bucket alone.
    pub buckets: [u64; BUCKETS],
    /// The sum of all, in microseconds.
    pub sum: u64,
}

/// What all workers together counted of a server, since it has its number.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(from = "StatisticsLists", into = "StatisticsLists")]
pub struct ServerStatistics {
    /// Connections of clients that reached it.
    pub reached: u64,
    /// Clients that were passed on to another server, because this one was not usable.
    pub failovers: u64,
    /// Connects that failed, in the order of [`FailureClass::ALL`].
    pub failures: [u64; FailureClass::ALL.len()],
    /// How long connects took that succeeded.
    pub connect: Durations,
    /// How long connections lasted that reached it and ended.
    pub length: Durations,
}

/// What is asked of a server again and again: few of its counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Connections of clients that reached it.
    pub reached: u64,
    /// Bytes sent to the server.
    pub sent: u64,
    /// Bytes received from it.
    pub received: u64,
}

/// [`ServerStatistics`] as other releases read them. Each list is append-only; what is missing at
/// its end is 0.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct StatisticsLists {
    counts: Vec<u64>,
    connect: Vec<u64>,
    length: Vec<u64>,
}

impl FailureClass {
    /// All classes, in the order of their numbers. Append only, because other releases read them.
    pub const ALL: [FailureClass; 4] = [
        FailureClass::Refused,
        FailureClass::Timeout,
        FailureClass::Unreachable,
        FailureClass::Other,
    ];

    /// The class as one word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            FailureClass::Refused => "refused",
            FailureClass::Timeout => "timeout",
            FailureClass::Unreachable => "unreachable",
            FailureClass::Other => "other",
        }
    }
}

impl ServerStatistics {
    /// How many connects failed in a way.
    pub fn failures(&self, class: FailureClass) -> u64 {
        self.failures[class as usize]
    }

    /// The words in the order of [`Statistics`], which other releases know.
    fn words(&self) -> Words {
        let [refused, timeout, unreachable, other] = self.failures;
        Words {
            counts: [
                self.reached,
                self.failovers,
                refused,
                timeout,
                unreachable,
                other,
                self.connect.sum,
                self.length.sum,
            ],
            connect: self.connect.buckets,
            length: self.length.buckets,
        }
    }
}

/// The words of one row for one server, or sums of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Words {
    pub counts: [u64; COUNTS],
    pub connect: [u64; BUCKETS],
    pub length: [u64; BUCKETS],
}

impl Words {
    fn combine(&mut self, other: &Words, how: fn(u64, u64) -> u64) {
        let own = self.counts.iter_mut().chain(&mut self.connect).chain(&mut self.length);
        let others = other.counts.iter().chain(&other.connect).chain(&other.length);
        own.zip(others).for_each(|(own, other)| *own = how(*own, *other));
    }

    pub fn add(&mut self, other: &Words) {
        self.combine(other, u64::wrapping_add);
    }

    pub fn subtract(&mut self, other: &Words) {
        self.combine(other, u64::wrapping_sub);
    }
}

impl From<Words> for ServerStatistics {
    fn from(Words { counts, connect, length }: Words) -> ServerStatistics {
        let [reached, failovers, refused, timeout, unreachable, other, connects, lengths] = counts;
        ServerStatistics {
            reached,
            failovers,
            failures: [refused, timeout, unreachable, other],
            connect: Durations { buckets: connect, sum: connects },
            length: Durations { buckets: length, sum: lengths },
        }
    }
}

impl From<ServerStatistics> for StatisticsLists {
    fn from(statistics: ServerStatistics) -> StatisticsLists {
        let Words { counts, connect, length } = statistics.words();
        StatisticsLists {
            counts: without_zeroes(&counts),
            connect: without_zeroes(&connect),
            length: without_zeroes(&length),
        }
    }
}

impl From<StatisticsLists> for ServerStatistics {
    fn from(lists: StatisticsLists) -> ServerStatistics {
        let mut words = Words::default();
        copy(&mut words.counts, &lists.counts);
        copy(&mut words.connect, &lists.connect);
        copy(&mut words.length, &lists.length);
        words.into()
    }
}

/// A list without the zeroes at its end.
fn without_zeroes(list: &[u64]) -> Vec<u64> {
    let used = list.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1);
    list[..used].to_vec()
}

/// Copies the words that both lists have.
fn copy(to: &mut [u64], from: &[u64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// Adds to a word that has one writer, so this needs no read-modify-write.
fn raise(word: &AtomicU64, by: u64) {
    word.store(word.load(Relaxed).wrapping_add(by), Relaxed);
}

impl Statistics {
    fn reached(&self) -> u64 {
        self.counts[0].load(Relaxed)
    }

    pub fn count_reached(&self) {
        raise(&self.counts[0], 1);
    }

    pub fn count_failover(&self) {
        raise(&self.counts[1], 1);
    }

    pub fn count_failure(&self, class: FailureClass) {
        raise(&self.counts[2 + class as usize], 1);
    }

    pub fn count_connect(&self, time: Timed) {
        count_time(&self.connect, &self.counts[COUNTS - 2], time);
    }

    pub fn count_length(&self, time: Timed) {
        count_time(&self.length, &self.counts[COUNTS - 1], time);
    }

    pub fn words(&self) -> Words {
        let counts = self.counts.each_ref().map(|word| word.load(Acquire));
        Words {
            counts,
            connect: self.connect.each_ref().map(|word| word.load(Relaxed)),
            length: self.length.each_ref().map(|word| word.load(Relaxed)),
        }
    }

    /// Whether these are the counts, for a mirror. With equal counts, the buckets are equal too,
    /// because each duration changes a sum after its bucket. Only a duration whose worker was
    /// killed before it changed the sum comes over later, with the next count of any row. The first
    /// look has it already, unless nothing else was ever counted of the server.
    #[cfg(not(loom))]
    pub fn has_counts(&self, counts: &[u64; COUNTS]) -> bool {
        self.counts.iter().zip(counts).all(|(word, count)| word.load(Relaxed) == *count)
    }

    pub fn set(&self, words: &Words) {
        let own = self.counts.iter().chain(&self.connect).chain(&self.length);
        let values = words.counts.iter().chain(&words.connect).chain(&words.length);
        for (word, value) in own.zip(values) {
            // Most are 0 and stay so.
            if word.load(Relaxed) != *value {
                word.store(*value, Relaxed);
            }
        }
    }
}

/// Counts a duration: in its bucket first, and then in the sum.
///
/// A worker that is killed between the two leaves a duration that lacks in the sum for ever. The
/// number of durations is stored nowhere: who shows it adds up the buckets that it shows. So it
/// never disagrees with them, and as no bucket ever falls, it does not fall either.
fn count_time(buckets: &[AtomicU64; BUCKETS], sum: &AtomicU64, time: Timed) {
    let Some(bucket) = buckets.get(time.bucket) else { return };
    raise(bucket, 1);
    // The sum rises with each duration and after its bucket: see `has_counts`.
    sum.store(sum.load(Relaxed).wrapping_add(time.micros.max(1)), Release);
}

impl View<'_> {
    /// What was counted of a server.
    pub fn server_statistics(self, server: u32) -> ServerStatistics {
        self.counted(server).into()
    }

    /// What was counted of a server, as far as it is asked again and again.
    pub fn server_traffic(self, server: u32) -> Traffic {
        let Some(state) = self.server(server) else { return Traffic::default() };
        let (sent, received) = state.bytes_without_former(self.bytes(server));
        let rows = (0..self.rows_used()).filter_map(|row| self.statistics(row, server));
        let counts = rows.chain(self.base_statistics(server)).map(Statistics::reached);
        Traffic { reached: counts.fold(0, u64::wrapping_add), sent, received }
    }

    /// Counts everything of a server from 0 again. Only one process calls it.
    pub fn reset_statistics(self, server: u32) {
        self.import_statistics(server, &ServerStatistics::default());
    }

    /// Makes the counts of a server what they were in another table.
    pub fn import_statistics(self, server: u32, statistics: &ServerStatistics) {
        let Some(base) = self.base_statistics(server) else { return };
        let mut words = statistics.words();
        // What the rows have, without what is added to it now.
        words.subtract(&self.counted(server));
        words.add(&base.words());
        base.set(&words);
    }

    /// What was counted of a server, without the rows `left_out`.
    ///
    /// Those rows are not read: their workers may be counting. Taken from the sum of all rows by a
    /// second look at them, what they counted between the two looks would be lost.
    pub fn statistics_without(self, server: u32, left_out: &[u32]) -> ServerStatistics {
        self.counted_without(server, left_out).into()
    }

    fn counted(self, server: u32) -> Words {
        self.counted_without(server, &[])
    }

    fn counted_without(self, server: u32, left_out: &[u32]) -> Words {
        let mut sum = Words::default();
        let kept = (0..self.rows_used()).filter(|row| !left_out.contains(row));
        let rows = kept.filter_map(|row| self.statistics(row, server));
        rows.chain(self.base_statistics(server)).for_each(|each| sum.add(&each.words()));
        sum
    }
}
