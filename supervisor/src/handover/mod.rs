//! The handover from one program to the next in the same process: the state that passes, and the
//! memory that holds it.
//!
//! The supervisor executes another pen in its own place (execveat(2)). Its descriptors and children
//! stay. The state says what each of them is. The same state serves the old program when the new
//! one fails and gives back.

#![forbid(unsafe_code)]

pub(crate) mod clients;
pub(crate) mod descriptors;
pub(crate) mod marker;
pub(crate) mod memory;
pub(crate) mod state;

/// The identity of a program: the part that another one must know before it hands over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Build {
    /// The version that messages show.
    pub version: &'static str,
    /// The format of the state that it writes and reads (`FORMAT`).
    pub format: u32,
    /// The features that it has, among those that a state may require.
    pub features: &'static [&'static str],
    /// The layout of its shared table ([`pen_table::LAYOUT`]).
    pub table_layout: u32,
    /// Most rows of a shared table ([`pen_table::MAX_ROWS`]).
    pub table_rows: u32,
}

impl Build {
    /// This pen.
    pub const OWN: Build = Build {
        version: env!("CARGO_PKG_VERSION"),
        format: FORMAT,
        features: &state::FEATURES,
        table_layout: pen_table::LAYOUT,
        table_rows: pen_table::MAX_ROWS,
    };
}

/// The format of the state. Another number means: a restart is needed. Fields may be added without
/// a new number if a program that lacks them goes on correctly, and one that misses them has a
/// default.
pub const FORMAT: u32 = 1;

/// What a program that takes over does with the shared table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TableTransfer {
    /// It has the same layout and uses the table itself.
    Adopted,
    /// It has another layout and copies what was written down.
    Copied,
}
