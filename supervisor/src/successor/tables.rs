//! The shared tables of a program that takes over: it uses the table of the earlier one, or makes
//! another one and copies the content.
//!
//! Nothing is written into a table of another layout, so the earlier program can go on with it.

#![forbid(unsafe_code)]

use std::fs::File;

use pen_ipc::text::error_text;
use pen_table::{ForeignTable, LAYOUT, Table, TableDescription, TableError};

use crate::handover::clients;
use crate::handover::state::{CarriedExport, CarriedOldTable, CarriedTable, State};
use crate::handover::{Build, TableTransfer};
use crate::processes::old_tables::{OldTable, TableNumber};
use crate::startup::shape;
use crate::successor::descriptors::Descriptors;

/// The tables.
pub(in crate::successor) struct Tables {
    /// The table in use.
    pub(in crate::successor) table: Table,
    /// Those in which old workers go on.
    pub(in crate::successor) old: Vec<OldTable>,
    /// The number of the table that was in use before, if it is another one.
    pub(in crate::successor) replaced: Option<TableNumber>,
}

impl Tables {
    /// Opens the tables of a state.
    ///
    /// # Errors
    /// One line: a table is not as the state says, or there is no memory for another one.
    pub(in crate::successor) fn open(
        state: &mut State,
        from: &mut Descriptors,
        build: &Build,
    ) -> Result<Tables, String> {
        check_rows(state, build)?;
        let old = std::mem::take(&mut state.old_tables);
        let mut old = old
            .into_iter()
            .map(|table| open_old(table, from))
            .collect::<Result<Vec<OldTable>, String>>()?;
        if state.table.description.layout == build.table_layout {
            let CarriedTable { memory, ref description, .. } = state.table;
            let description = TableDescription { layout: LAYOUT, ..description.clone() };
            let table = Table::adopt(from.take(memory)?, description);
            return Ok(Tables { table: table.map_err(|error| text(&error))?, old, replaced: None });
        }
        let number = old.iter().map(|table| table.number.0).max().map_or(0, |last| last + 1);
        let number = TableNumber(number);
        old.push(replaced(state, number, from, build)?);
        for (row, table) in (0..).zip(&mut old) {
            table.row = row;
        }
        let table = Table::create(shape(&state.settings)).map_err(|error| text(&error))?;
        // Without it, this is a rehearsal.
        if let Some(export) = state.export.take() {
            fill(&table, export, from)?;
        }
        Ok(Tables { table, old, replaced: Some(number) })
    }

    /// What happens to the table of the earlier program.
    pub(in crate::successor) fn transfer(&self) -> TableTransfer {
        match self.replaced {
            None => TableTransfer::Adopted,
            Some(_) => TableTransfer::Copied,
        }
    }
}

/// Checks that no table has more rows than this program knows. In a table of its own, a program
/// with fewer rows might have none for some of its workers.
fn check_rows(state: &State, build: &Build) -> Result<(), String> {
    let in_use = state.table.description.shape.rows;
    let rows = state.old_tables.iter().map(|table| table.counts.rows).max();
    let rows = rows.map_or(in_use, |rows| rows.max(in_use));
    match rows <= build.table_rows {
        true => Ok(()),
        false => Err(format!(
            "the shared table has {rows} rows, and pen {} knows {} at most: it needs a restart",
            build.version, build.table_rows
        )),
    }
}

/// The table that was in use until now.
fn replaced(
    state: &State,
    number: TableNumber,
    from: &mut Descriptors,
    build: &Build,
) -> Result<OldTable, String> {
    let CarriedTable { memory, description: TableDescription { layout, .. }, counts } =
        &state.table;
    let counts = counts.ok_or_else(|| {
        format!(
            "the shared table has layout {layout}, which pen {} does not know: it needs a restart",
            build.version
        )
    })?;
    let rows = state.export.as_ref().map_or(Vec::new(), |export| export.rows.clone());
    open_old(CarriedOldTable { number, memory: *memory, counts, rows, row: 0 }, from)
}

fn open_old(table: CarriedOldTable, from: &mut Descriptors) -> Result<OldTable, String> {
    let CarriedOldTable { number, memory, counts, rows, row } = table;
    let table = ForeignTable::open(from.take(memory)?, counts).map_err(|error| text(&error))?;
    Ok(OldTable { number, table, rows, row })
}

/// Copies what the earlier program wrote down into a new table.
fn fill(table: &Table, export: CarriedExport, from: &mut Descriptors) -> Result<(), String> {
    table.import_servers(&export.servers);
    let clients = File::from(from.take(export.clients)?);
    clients::read(&clients, |clients| table.import_clients(clients)).map(drop)
}

fn text(error: &TableError) -> String {
    match error {
        TableError::System { step, bytes, source } => {
            format!("shared table of {bytes} bytes: {step}: {}", error_text(source))
        }
        TableError::Shape(_) | TableError::Foreign(_) => error.to_string(),
    }
}
