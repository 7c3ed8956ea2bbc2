//! The table of a program whose layout is another one, as far as this program reads it: the counts,
//! bytes, statistics and connection numbers of each row. It finds them by a description, which does
//! not change with the layout.

use std::mem::size_of;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::layout::Region;
use crate::map::{Mapping, Plain};
use crate::parts::{BUCKETS, COUNTS, Figures, Globals, HighWater, Statistics};
use crate::servers::statistics::Words;
use crate::shape::{MAX_CONNECTIONS, MAX_ROWS, MAX_SERVERS, Mismatch, TableError};
use crate::sync::{AtomicU32, AtomicU64, Ordering::*};
use crate::table::Table;

/// Where a table has its counts, for a program with another layout. All releases read it: fields
/// may be added with a default, and none changes. All numbers are bytes unless they say something
/// else, and all words have the byte order of the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CountsDescription {
    /// The size of the memory.
    pub bytes: u64,
    /// How many rows there are.
    pub rows: u32,
    /// How many servers there are.
    pub servers: u32,
    /// From the start of the memory to the figures of row 0 for server 0.
    pub figures: u64,
    /// From the figures of one row to those of the next row for the same server.
    pub row_stride: u64,
    /// From the figures of one server to those of the next one in the same row.
    pub server_stride: u64,
    /// Within the figures, a word of 32 bits: open and pending connections.
    pub connections: u64,
    /// Within the figures, a word of 32 bits: not 0 if the most connects are pending.
    pub pending: u64,
    /// Within the figures, a word of 64 bits: bytes sent to the server.
    pub sent: u64,
    /// Within the figures, a word of 64 bits: bytes received from the server.
    pub received: u64,
    /// From the start of the memory to the owners of connection numbers. Each word of 64 bits holds
    /// eight numbers, the lowest one in its lowest bits. The eight bits of a number are its row +
    /// 1, or 0 if it is free.
    pub owners: u64,
    /// How many words of owners there are.
    pub owner_words: u64,
    /// From the start of the memory to a word of 32 bits: all numbers ever taken are below it.
    pub numbers_used: u64,
    /// Where the statistics are; none in a table of layout 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<StatisticsDescription>,
}

/// Where a table has the statistics of each row for each server. All numbers are bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct StatisticsDescription {
    /// From the start of the memory to the statistics of row 0 for server 0.
    pub start: u64,
    /// From the statistics of one row to those of the next row for the same server.
    pub row_stride: u64,
    /// From the statistics of one server to those of the next one in the same row.
    pub server_stride: u64,
    /// Connections that reached the server, clients passed on from it, failed connects by class,
    /// the sum of the connect times, the sum of the lengths, in this order.
    pub counts: WordsDescription,
    /// The connect times by bucket.
    pub connect: WordsDescription,
    /// The lengths of connections by bucket.
    pub length: WordsDescription,
}

/// Where words of 64 bits are that follow each other. Later releases may append some.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct WordsDescription {
    /// Bytes from the start of the statistics.
    pub position: u64,
    /// How many words there are.
    pub words: u32,
}

/// The table of another program, of which only the counts are read. Nothing is written to it.
/// Children that are forked later do not have it.
#[derive(Debug)]
pub struct ForeignTable {
    mapping: Mapping,
    counts: CountsDescription,
}

/// The figures of one row for one server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ForeignFigures {
    pub connections: u32,
    pub pending: bool,
    pub sent: u64,
    pub received: u64,
}

impl Table {
    /// Where this table has its counts.
    pub fn counts(&self) -> CountsDescription {
        let layout = &self.layout;
        let figures = size_of::<Figures>() as u64;
        let used =
            std::mem::offset_of!(Globals, high_water) + std::mem::offset_of!(HighWater, numbers);
        CountsDescription {
            bytes: layout.bytes as u64,
            rows: layout.shape.rows,
            servers: layout.shape.servers,
            figures: layout.figures.offset as u64,
            row_stride: u64::from(layout.row_stride) * figures,
            server_stride: figures,
            connections: std::mem::offset_of!(Figures, connections) as u64,
            pending: std::mem::offset_of!(Figures, pending) as u64,
            sent: std::mem::offset_of!(Figures, sent) as u64,
            received: std::mem::offset_of!(Figures, received) as u64,
            owners: layout.owners.offset as u64,
            owner_words: layout.owners.count as u64,
            numbers_used: (layout.globals.offset + used) as u64,
            statistics: Some(self.described_statistics()),
        }
    }

    fn described_statistics(&self) -> StatisticsDescription {
        let words = |position: usize, words: usize| WordsDescription {
            position: position as u64,
            words: words as u32,
        };
        let stride = size_of::<Statistics>() as u64;
        StatisticsDescription {
            start: self.layout.statistics.offset as u64,
            row_stride: u64::from(self.layout.shape.servers) * stride,
            server_stride: stride,
            counts: words(std::mem::offset_of!(Statistics, counts), COUNTS),
            connect: words(std::mem::offset_of!(Statistics, connect), BUCKETS),
            length: words(std::mem::offset_of!(Statistics, length), BUCKETS),
        }
    }
}

impl ForeignTable {
    /// Opens the table of another program. Its workers may use it meanwhile.
    ///
    /// # Errors
    /// The memory is not sealed, has another size, or cannot be mapped; or the description says
    /// what cannot be.
    pub fn open(memory: OwnedFd, counts: CountsDescription) -> Result<ForeignTable, TableError> {
        counts.check()?;
        let bytes = usize::try_from(counts.bytes).map_err(|_| Mismatch::Description)?;
        let mapping = Mapping::adopt(memory, bytes)?;
        mapping.keep_from_children()?;
        Ok(ForeignTable { mapping, counts })
    }

    /// The descriptor of the memory; close-on-exec.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.mapping.descriptor()
    }

    /// Where the table has its counts.
    pub fn counts(&self) -> CountsDescription {
        self.counts
    }

    /// The row that has this connection number; `None` if the number is free.
    pub fn connection_owner(&self, number: u32) -> Option<u32> {
        let word = self.owners(number / 8);
        let owner = (word >> (number % 8 * 8) & 0xff) as u32;
        owner.checked_sub(1).filter(|row| *row < self.counts.rows)
    }

    /// The figures of a row for a server; none if there is no such row or server.
    pub(super) fn figures(&self, row: u32, server: u32) -> Option<ForeignFigures> {
        let CountsDescription { rows, servers, figures, row_stride, server_stride, .. } =
            self.counts;
        if row >= rows || server >= servers {
            return None;
        }
        // `CountsDescription::check` has found the last of them inside the memory.
        let at = figures + u64::from(row) * row_stride + u64::from(server) * server_stride;
        Some(ForeignFigures {
            connections: self.word::<AtomicU32>(at + self.counts.connections)?.load(Acquire),
            pending: self.word::<AtomicU32>(at + self.counts.pending)?.load(Relaxed) != 0,
            sent: self.word::<AtomicU64>(at + self.counts.sent)?.load(Relaxed),
            received: self.word::<AtomicU64>(at + self.counts.received)?.load(Relaxed),
        })
    }

    /// The counts of a row for a server, without the buckets; all 0 where there are none.
    pub(super) fn counts_of(&self, row: u32, server: u32) -> [u64; COUNTS] {
        let mut counts = [0; COUNTS];
        if let Some((description, start)) = self.statistics(row, server) {
            self.read(start, description.counts, &mut counts);
        }
        counts
    }

    /// The statistics of a row for a server; all 0 where there are none.
    pub(super) fn words_of(&self, row: u32, server: u32) -> Words {
        let mut words = Words { counts: self.counts_of(row, server), ..Words::default() };
        if let Some((description, start)) = self.statistics(row, server) {
            self.read(start, description.connect, &mut words.connect);
            self.read(start, description.length, &mut words.length);
        }
        words
    }

    /// Where the statistics of a row for a server are.
    fn statistics(&self, row: u32, server: u32) -> Option<(StatisticsDescription, u64)> {
        let description = self.counts.statistics?;
        if row >= self.counts.rows || server >= self.counts.servers {
            return None;
        }
        // `CountsDescription::check` has found the last of them inside the memory.
        let rows = u64::from(row) * description.row_stride;
        let servers = u64::from(server) * description.server_stride;
        Some((description, description.start + rows + servers))
    }

    /// Reads the words that both releases know. The counts are read before the buckets, because
    /// their writer writes them later.
    fn read(&self, start: u64, words: WordsDescription, to: &mut [u64]) {
        let known = to.len().min(words.words as usize);
        let Ok(position) = usize::try_from(start + words.position) else { return };
        let theirs = self.mapping.slice(&Region::<AtomicU64>::new(position, known));
        to.iter_mut().zip(theirs).for_each(|(to, word)| *to = word.load(Acquire));
    }

    /// A word of the owners of connection numbers; 0 beyond the last.
    pub(super) fn owners(&self, index: u32) -> u64 {
        let exists = u64::from(index) < self.counts.owner_words;
        let at = self.counts.owners + u64::from(index) * 8;
        let word = exists.then(|| self.word::<AtomicU64>(at)).flatten();
        word.map_or(0, |word| word.load(Acquire))
    }

    /// A number below which all numbers are that were ever taken. It comes from the memory, so it
    /// is limited.
    pub(super) fn numbers_used(&self) -> u32 {
        let used = self.word::<AtomicU32>(self.counts.numbers_used);
        used.map_or(0, |used| used.load(Relaxed)).min(MAX_CONNECTIONS)
    }

    /// The word at a position; none if it does not lie in the memory or is not aligned.
    fn word<T: Plain>(&self, at: u64) -> Option<&T> {
        let size = size_of::<T>() as u64;
        let is_inside = at.is_multiple_of(size) && at.checked_add(size)? <= self.counts.bytes;
        let position = usize::try_from(at).ok().filter(|_| is_inside)?;
        self.mapping.slice(&Region::<T>::new(position, 1)).first()
    }
}

impl CountsDescription {
    /// Checks that every word lies in the memory and is aligned.
    fn check(&self) -> Result<(), Mismatch> {
        let sizes = [
            (u64::from(self.rows), u64::from(MAX_ROWS)),
            (u64::from(self.servers), u64::from(MAX_SERVERS)),
            (self.owner_words, u64::from(MAX_CONNECTIONS) / 8),
        ];
        let is_inside = self.ends().is_some_and(|ends| ends.iter().all(|end| *end <= self.bytes))
            && self.statistics.is_none_or(|statistics| statistics.is_inside(self));
        // A bit that is set in one of them is set here.
        let of_64 = self.figures | self.row_stride | self.server_stride | self.sent;
        let of_64 = of_64 | self.received | self.owners;
        let of_32 = self.connections | self.pending | self.numbers_used;
        let are_aligned = of_64.is_multiple_of(8)
            && of_32.is_multiple_of(4)
            && self.statistics.is_none_or(StatisticsDescription::is_aligned);
        let are_small = sizes.iter().all(|(size, most)| size <= most);
        (is_inside && are_aligned && are_small).then_some(()).ok_or(Mismatch::Description)
    }

    /// Where the last word of each kind ends; none if that is no position.
    fn ends(&self) -> Option<[u64; 6]> {
        let figures = self.last(self.figures, self.row_stride, self.server_stride)?;
        let within = |position: u64, size| figures.checked_add(position)?.checked_add(size);
        Some([
            within(self.connections, 4)?,
            within(self.pending, 4)?,
            within(self.sent, 8)?,
            within(self.received, 8)?,
            self.owners.checked_add(self.owner_words.checked_mul(8)?)?,
            self.numbers_used.checked_add(4)?,
        ])
    }

    /// Where the part for the last row and the last server begins.
    fn last(&self, start: u64, row_stride: u64, server_stride: u64) -> Option<u64> {
        let last = |count: u32, stride: u64| u64::from(count).saturating_sub(1).checked_mul(stride);
        start
            .checked_add(last(self.rows, row_stride)?)?
            .checked_add(last(self.servers, server_stride)?)
    }
}

impl StatisticsDescription {
    fn runs(self) -> [WordsDescription; 3] {
        [self.counts, self.connect, self.length]
    }

    /// Whether all words lie in the memory.
    fn is_inside(self, counts: &CountsDescription) -> bool {
        let Some(last) = counts.last(self.start, self.row_stride, self.server_stride) else {
            return false;
        };
        self.runs().iter().all(|run| {
            let end = last.checked_add(run.position);
            let end = end.and_then(|start| start.checked_add(u64::from(run.words) * 8));
            end.is_some_and(|end| end <= counts.bytes)
        })
    }

    fn is_aligned(self) -> bool {
        let positions = self.runs().map(|run| run.position);
        let all = [self.start, self.row_stride, self.server_stride];
        all.iter().chain(&positions).all(|position| position.is_multiple_of(8))
    }
}
