//! Tests of a table that is read by its description only.

use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::numbers;
use crate::sync::Ordering::*;
use crate::{
    CountsDescription, Durations, ForeignTable, ServerStatistics, Shape, StatisticsDescription,
    Table, WordsDescription,
};

const SHAPE: Shape = Shape { clients: 4, servers: 3, rows: 6, connections: 64 };

/// A table as a program with another layout sees it.
pub(super) fn opened(table: &Table) -> ForeignTable {
    let text = serde_json::to_string(&table.counts()).unwrap();
    let memory = table.descriptor().try_clone_to_owned().unwrap();
    ForeignTable::open(memory, serde_json::from_str(&text).unwrap()).unwrap()
}

/// What a row of a table has: connection numbers, and open and pending connections.
pub(super) fn held(table: &Table, row: u32) -> (u32, u32) {
    let connections = table.view().row(row).iter().map(|figures| figures.connections.load(Relaxed));
    (numbers::taken_by(table.view(), row), connections.fold(0, u32::saturating_add))
}

/// A memory with this content, as tables have it.
fn memory(bytes: &[u8]) -> OwnedFd {
    let memory = memfd_create(c"foreign", MemfdFlags::ALLOW_SEALING).unwrap();
    let file = std::fs::File::from(memory);
    file.write_all_at(bytes, 0).unwrap();
    let memory = OwnedFd::from(file);
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memory, seals).unwrap();
    memory
}

/// A layout that no pen has: servers before rows, and all figures in another order.
const STRANGE: CountsDescription = CountsDescription {
    bytes: 1024,
    rows: 2,
    servers: 3,
    figures: 64,
    row_stride: 40,
    server_stride: 128,
    connections: 28,
    pending: 0,
    sent: 16,
    received: 8,
    owners: 512,
    owner_words: 2,
    numbers_used: 4,
    statistics: Some(STRANGE_STATISTICS),
};

/// Statistics of a release that has fewer counts and more buckets.
const STRANGE_STATISTICS: StatisticsDescription = StatisticsDescription {
    start: 584,
    row_stride: 216,
    server_stride: 72,
    counts: WordsDescription { position: 40, words: 2 },
    connect: WordsDescription { position: 0, words: 1 },
    length: WordsDescription { position: 8, words: 3 },
};

#[test]
fn counts_are_found_where_the_description_says() {
    let mut bytes = vec![0; 1024];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    // Row 1 for server 2, and row 0 for server 0.
    let (figures, first) = (64 + 40 + 2 * 128, 64);
    put(figures + 28, &7u32.to_ne_bytes());
    put(figures, &1u32.to_ne_bytes());
    put(figures + 16, &100u64.to_ne_bytes());
    put(figures + 8, &200u64.to_ne_bytes());
    put(first + 28, &1u32.to_ne_bytes());
    put(first + 16, &5u64.to_ne_bytes());
    // Numbers 2 and 9 are of row 1, and number 3 of row 0.
    put(512, &(0x0001_0200_0000_u64 >> 8).to_ne_bytes());
    put(520, &0x0200_u64.to_ne_bytes());
    put(4, &16u32.to_ne_bytes());
    // The statistics of both rows for server 2.
    let statistics = 584 + 2 * 72;
    for (at, words) in [(0, [1, 0, 2, 3, 0, 4, 5]), (216, [10, 0, 20, 30, 0, 40, 50])] {
        for (place, word) in (0..).zip(words) {
            put(statistics + at + place * 8, &u64::to_ne_bytes(word));
        }
    }
    let theirs = ForeignTable::open(memory(&bytes), STRANGE).unwrap();
    let owners = [1, 2, 3, 9, 16, 1 << 20, u32::MAX].map(|number| theirs.connection_owner(number));
    assert_eq!(owners, [None, Some(1), Some(0), Some(1), None, None, None]);

    let table = Table::create(SHAPE).unwrap();
    assert!(!table.mirror(0, &theirs, &[0, 1], |_| true));
    assert_eq!(held(&table, 0), (3, 8));
    let totals = [0, 1, 2].map(|server| {
        let totals = table.server_totals(server);
        (totals.connections, totals.sent, totals.received, totals.is_pending)
    });
    assert_eq!(totals, [(1, 5, 0, false), (0, 0, 0, false), (7, 100, 200, true)]);
    let statistics = strange_sum();
    let counted = [0, 1, 2, 3].map(|server| table.server_statistics(server));
    let nothing = ServerStatistics::default();
    assert_eq!(counted, [nothing, nothing, statistics, nothing]);
    // Row 1 died. Its bytes and counts stay.
    assert!(!table.mirror(0, &theirs, &[0, 1], |row| row == 0));
    assert_eq!(held(&table, 0), (1, 1));
    let totals = table.server_totals(2);
    assert_eq!((totals.connections, totals.sent, totals.is_pending), (0, 100, false));
    assert_eq!(table.server_statistics(2), statistics);
}

/// What both rows of the strange table counted of server 2.
fn strange_sum() -> ServerStatistics {
    let mut statistics = ServerStatistics { reached: 44, failovers: 55, ..Default::default() };
    statistics.connect.buckets[0] = 11;
    statistics.length.buckets[..3].copy_from_slice(&[0, 22, 33]);
    statistics
}

#[test]
fn statistics_are_written_down_as_lists_that_may_grow() {
    let mut statistics = strange_sum();
    statistics.failures[3] = 7;
    let text = "{\"counts\":[44,55,0,0,0,7],\"connect\":[11],\"length\":[0,22,33]}";
    assert_eq!(serde_json::to_string(&statistics).unwrap(), text);
    let later =
        text.replace("0,7]", "0,7,0,0,1,1]").replace("{\"counts\"", "{\"more\":[1],\"counts\"");
    for text in [text, &later] {
        assert_eq!(serde_json::from_str::<ServerStatistics>(text).unwrap(), statistics);
    }
    assert_eq!(serde_json::from_str::<ServerStatistics>("{}").unwrap(), Default::default());
    let full = ServerStatistics {
        reached: 1,
        failovers: 2,
        failures: [3, 4, 5, 6],
        connect: Durations { buckets: [7; 24], sum: 8 },
        length: Durations { buckets: [9; 24], sum: 10 },
    };
    let text = serde_json::to_string(&full).unwrap();
    assert!(text.starts_with("{\"counts\":[1,2,3,4,5,6,8,10],\"connect\":[7,"), "{text}");
    assert_eq!(serde_json::from_str::<ServerStatistics>(&text).unwrap(), full);
}

/// A pen of the release before statistics says nothing of them.
#[test]
fn a_table_of_layout_1_has_no_statistics() {
    let layout_1 = CountsDescription { statistics: None, ..STRANGE };
    let text = serde_json::to_string(&layout_1).unwrap();
    assert!(text.ends_with(",\"numbers_used\":4}"), "{text}");
    assert_eq!(serde_json::from_str::<CountsDescription>(&text).unwrap(), layout_1);
    let theirs = ForeignTable::open(memory(&[1; 1024]), layout_1).unwrap();
    let table = Table::create(SHAPE).unwrap();
    let _ = table.mirror(0, &theirs, &[0, 1], |_| true);
    assert_ne!(table.server_totals(2).sent, 0);
    assert_eq!(table.server_statistics(2), ServerStatistics::default());
}

/// If this fails, earlier releases would read a wrong place: add fields with a default only.
#[test]
fn the_names_in_a_description_never_change() {
    let text = "{\"bytes\":1024,\"rows\":2,\"servers\":3,\"figures\":64,\"row_stride\":40,\
                \"server_stride\":128,\"connections\":28,\"pending\":0,\"sent\":16,\"received\":8,\
                \"owners\":512,\"owner_words\":2,\"numbers_used\":4,\"statistics\":{\"start\":584,\
                \"row_stride\":216,\"server_stride\":72,\
                \"counts\":{\"position\":40,\"words\":2},\
                \"connect\":{\"position\":0,\"words\":1},\
                \"length\":{\"position\":8,\"words\":3}}}";
    assert_eq!(serde_json::to_string(&STRANGE).unwrap(), text);
    let later = text.replace("{\"bytes\"", "{\"of_a_later_release\":1,\"bytes\"");
    assert_eq!(serde_json::from_str::<CountsDescription>(&later).unwrap(), STRANGE);
}

#[test]
fn a_description_of_what_cannot_be_is_refused() {
    ForeignTable::open(memory(&[0; 1024]), STRANGE).unwrap();
    let statistics = |wrong| CountsDescription { statistics: Some(wrong), ..STRANGE };
    let run = |position, words| WordsDescription { position, words };
    for wrong in [
        statistics(StatisticsDescription { start: 588, ..STRANGE_STATISTICS }),
        statistics(StatisticsDescription { start: 616, ..STRANGE_STATISTICS }),
        statistics(StatisticsDescription { start: u64::MAX - 7, ..STRANGE_STATISTICS }),
        statistics(StatisticsDescription { row_stride: 1 << 63, ..STRANGE_STATISTICS }),
        statistics(StatisticsDescription { server_stride: 76, ..STRANGE_STATISTICS }),
        statistics(StatisticsDescription { counts: run(40, 17), ..STRANGE_STATISTICS }),
        statistics(StatisticsDescription { connect: run(4, 1), ..STRANGE_STATISTICS }),
        statistics(StatisticsDescription { length: run(8, u32::MAX), ..STRANGE_STATISTICS }),
        statistics(StatisticsDescription { length: run(u64::MAX - 7, 3), ..STRANGE_STATISTICS }),
        CountsDescription { rows: 195, ..STRANGE },
        CountsDescription { servers: 4099, ..STRANGE },
        CountsDescription { owner_words: 131_073, bytes: 1 << 30, ..STRANGE },
        CountsDescription { figures: 68, ..STRANGE },
        CountsDescription { row_stride: 12, ..STRANGE },
        CountsDescription { sent: 12, ..STRANGE },
        CountsDescription { connections: 30, ..STRANGE },
        CountsDescription { figures: 704, ..STRANGE },
        CountsDescription { owners: 1016, ..STRANGE },
        CountsDescription { numbers_used: 1024, ..STRANGE },
        CountsDescription { figures: u64::MAX - 7, ..STRANGE },
        CountsDescription { row_stride: 1 << 63, ..STRANGE },
        CountsDescription { received: u64::MAX - 7, ..STRANGE },
    ] {
        let said = ForeignTable::open(memory(&[0; 1024]), wrong).unwrap_err().to_string();
        assert_eq!(said, "shared table of another program: its description is wrong", "{wrong:?}");
    }
    let said = ForeignTable::open(memory(&[0; 1000]), STRANGE).unwrap_err().to_string();
    assert!(said.contains("its memory has 1000 bytes, and its shape needs 1024"), "{said}");
}

fn small() -> impl Strategy<Value = u64> {
    prop_oneof![0..2000u64, (0..300u64).prop_map(|n| n * 8), any::<u64>()]
}

proptest! {
    /// A hostile worker can write any byte. A description can be wrong only by a mistake.
    #[test]
    fn nothing_outside_the_memory_is_read(
        content in prop::collection::vec(any::<u8>(), 1024),
        sizes in (0..200u32, 0..5000u32, small()),
        positions in prop::array::uniform9(small()),
        places in prop::option::of((prop::array::uniform6(small()), 0..100u32)),
    ) {
        let [figures, row_stride, server_stride, connections, pending, sent, received, owners,
            numbers_used] = positions;
        let (rows, servers, owner_words) = sizes;
        let counts = CountsDescription {
            bytes: 1024, rows, servers, figures, row_stride, server_stride, connections, pending,
            sent, received, owners, owner_words, numbers_used,
            statistics: places.map(|([start, row_stride, server_stride, a, b, c], words)| {
                StatisticsDescription {
                    start, row_stride, server_stride,
                    counts: WordsDescription { position: a, words },
                    connect: WordsDescription { position: b, words },
                    length: WordsDescription { position: c, words },
                }
            }),
        };
        let statistics_only = CountsDescription { statistics: counts.statistics, ..STRANGE };
        for counts in [counts, STRANGE, statistics_only] {
            let Ok(theirs) = ForeignTable::open(memory(&content), counts) else { continue };
            let table = Table::create(SHAPE).unwrap();
            let rows: Vec<u32> = (0..200).collect();
            let _ = table.mirror(1, &theirs, &rows, |row| row != 3);
            prop_assert!(held(&table, 1).0 <= SHAPE.connections);
            let _ = theirs.connection_owner(u32::MAX);
        }
    }
}
