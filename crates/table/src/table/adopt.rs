//! The table across exec(2): the next program of the supervisor adopts the memory with everything
//! in it, while workers of the earlier program go on with theirs.

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::hash::HashKey;
use crate::layout::LAYOUT;
use crate::shape::{Mismatch, Shape, TableError};
use crate::table::rows::Rows;
use crate::table::{Table, TableKind};
use crate::view::Memory;

/// What a program must know to use a table that another program made. It comes from
/// [`Table::description`] and is not in the shared memory, so no worker can change it.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
pub struct TableDescription {
    /// The number of the layout: [`crate::LAYOUT`] of the program that made the table.
    pub layout: u32,
    /// The shape with which the table was made.
    pub shape: Shape,
    /// Whether it has room to grow.
    pub kind: TableKind,
    /// The secret of the hash: the two halves of the key that a new table draws.
    pub key: [u64; 2],
    /// The number below which all rows are that ever had a worker.
    pub rows_used: u32,
    /// The rows that have a worker.
    pub rows: Vec<u32>,
}

impl Table {
    /// The descriptor of the memory; close-on-exec. The process that made or adopted the table has
    /// it, and every child until it closes its descriptors.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.memory.descriptor()
    }

    /// What another program must know to adopt the table as it is now. The rows change with
    /// [`Table::use_row`] and [`Table::reclaim`].
    pub fn description(&self) -> TableDescription {
        TableDescription {
            layout: LAYOUT,
            shape: self.layout.shape,
            kind: self.kind,
            key: self.hash_key.0,
            rows_used: self.rows.used(),
            rows: (0..self.layout.shape.rows).filter(|row| self.rows.has_worker(*row)).collect(),
        }
    }

    /// The table in a memory that another program made, with all its content; nothing is written.
    /// Workers may use it meanwhile. Their rows stay theirs: the caller gives back with
    /// [`Table::reclaim`] those whose worker is dead.
    ///
    /// # Errors
    /// The memory has another layout or size, is not sealed, or cannot be mapped. A table of
    /// another layout is of no use to this program.
    pub fn adopt(memory: OwnedFd, description: TableDescription) -> Result<Table, TableError> {
        let TableDescription { layout, shape, kind, key, rows_used, rows } = description;
        if layout != LAYOUT {
            return Err(Mismatch::Layout { theirs: layout, ours: LAYOUT }.into());
        }
        let layout = kind.layout(shape)?;
        let memory = Memory::adopt(&layout, memory)?;
        let exist = rows.into_iter().filter(|row| *row < shape.rows);
        let rows = Rows::new(rows_used.min(shape.rows), exist);
        Ok(Table { layout, hash_key: HashKey(key), memory, kind, rows })
    }
}

impl fmt::Debug for TableDescription {
    /// Leaves out the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TableDescription { layout, shape, kind, key: _, rows_used, rows } = self;
        f.debug_struct("TableDescription")
            .field("layout", layout)
            .field("shape", shape)
            .field("kind", kind)
            .field("rows_used", rows_used)
            .field("rows", rows)
            .finish_non_exhaustive()
    }
}
