//! The size of a table, its limits, and why a table cannot be made.

use serde::{Deserialize, Serialize};

/// The size of a table when it is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Client slots, 1 to 16777216. Up to 65536 slots the replacement is exactly LRU to the second.
    /// Larger tables are divided by a hash of the client into equal shards of at most 65536 slots,
    /// each LRU by itself. [`crate::Table::grow_clients`] makes the shards larger, not more.
    pub clients: u32,
    /// Servers: regular servers, then emergency, then abuse; 1 to 4098.
    pub servers: u32,
    /// Rows, 1 to 194: one for each worker process that uses the table at a time. That is enough
    /// for three generations of workers, and for two other purposes.
    pub rows: u32,
    /// Most connections at the beginning, 1 to 1048576. There is always room for all 1048576
    /// numbers, so a higher limit needs no change of the table.
    pub connections: u32,
}

/// The table cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A system call failed.
    #[error("shared table of {bytes} bytes: {step}: {source}")]
    System {
        /// The name of the system call.
        step: &'static str,
        /// The requested size, in bytes.
        bytes: usize,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// The shape is out of range.
    #[error("shared table: {0}")]
    Shape(&'static str),
    /// A memory cannot be used as the table that its description says.
    #[error("shared table of another program: {0}")]
    Foreign(#[from] Mismatch),
}

/// Why a memory is not the described table of this layout.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// Another program lays tables out in another way.
    #[error("it has layout {theirs}, and this program knows layout {ours}")]
    Layout {
        /// The number in the description.
        theirs: u32,
        /// [`crate::LAYOUT`].
        ours: u32,
    },
    /// The descriptor has no seals (fcntl(2), F_GET_SEALS).
    #[error("its descriptor is not one of shared memory: {0}")]
    NotMemory(std::io::Error),
    /// The memory could change its size, and an access to it could kill this process.
    #[error("its memory is not sealed against a change of size (seals {0:#x})")]
    Unsealed(u32),
    /// The description says that something is where it cannot be.
    #[error("its description is wrong")]
    Description,
    /// The memory does not have the size of the described table.
    #[error("its memory has {bytes} bytes, and its shape needs {needed}")]
    Size {
        /// The size of the memory.
        bytes: u64,
        /// The size by the description.
        needed: usize,
    },
}

impl Shape {
    /// Checks that every size is in its range.
    pub(crate) fn check(&self) -> Result<(), TableError> {
        let limits = [
            (self.clients, MAX_CLIENTS, "client slots must be 1 to 16777216"),
            (self.servers, MAX_SERVERS, "servers must be 1 to 4098"),
            (self.rows, MAX_ROWS, "rows must be 1 to 194"),
            (self.connections, MAX_CONNECTIONS, "connections must be 1 to 1048576"),
        ];
        match limits.iter().find(|(value, most, _)| *value == 0 || value > most) {
            Some((_, _, rule)) => Err(TableError::Shape(rule)),
            None => Ok(()),
        }
    }
}

pub(crate) const MAX_CLIENTS: u32 = 1 << 24;
pub(crate) const MAX_SERVERS: u32 = 4096 + 2;

/// Most rows: three generations of 64 workers, and two. So after an upgrade there is room for the
/// next one, and nobody has to end before it has succeeded. A row is a byte of an owner.
pub const MAX_ROWS: u32 = 3 * 64 + 2;
pub(crate) const MAX_CONNECTIONS: u32 = 1 << 20;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn shapes_out_of_range_are_refused() {
        let good = Shape { clients: 1, servers: 18, rows: 2, connections: 256 };
        good.check().unwrap();
        Shape { rows: 194, ..good }.check().unwrap();
        for bad in [
            Shape { clients: 0, ..good },
            Shape { clients: MAX_CLIENTS + 1, ..good },
            Shape { servers: 0, ..good },
            Shape { servers: 4099, ..good },
            Shape { rows: 0, ..good },
            Shape { rows: 195, ..good },
            Shape { connections: 0, ..good },
            Shape { connections: MAX_CONNECTIONS + 1, ..good },
        ] {
            assert!(matches!(bad.check(), Err(TableError::Shape(_))), "{bad:?}");
        }
    }
}
