//! What an explanation sees of the servers: the same as a choice, and nothing is changed.

use std::cell::{Cell, RefCell};

use pen_config::settings::Settings;
use pen_table::{Knows, ServerView};

use crate::relay::select::choices::{Choices, Choosing};
use crate::relay::select::farm::{Farm, Hindrance};

/// A read-only view of a farm.
pub(super) struct Looked<'f, F> {
    farm: &'f F,
    cursor: Cell<u32>,
    choices: RefCell<Choices>,
}

impl<'f, F: Choosing> Looked<'f, F> {
    /// A view of a farm as it is now.
    pub(super) fn new(farm: &'f F, settings: &Settings) -> Looked<'f, F> {
        let choices = RefCell::new(farm.choices().borrow().anew(settings, farm.now()));
        Looked { farm, cursor: Cell::new(farm.cursor()), choices }
    }
}

impl<F: Farm> Farm for Looked<'_, F> {
    fn server(&self, row: u32) -> ServerView {
        self.farm.server(row)
    }

    fn connections(&self, row: u32) -> u32 {
        self.farm.connections(row)
    }

    fn cursor(&self) -> u32 {
        self.cursor.get()
    }

    fn advance_cursor(&self, _: u32, to: u32) -> bool {
        self.cursor.set(to);
        true
    }

    fn now(&self) -> u64 {
        self.farm.now()
    }

    fn returned(&self, row: u32) -> u64 {
        self.farm.returned(row)
    }

    fn hindrance(&self, row: u32) -> Option<Hindrance> {
        self.farm.hindrance(row)
    }

    /// Each server has its line.
    fn is_left_out(&self, _: u32, _: Knows) -> bool {
        false
    }
}

impl<F: Farm> Choosing for Looked<'_, F> {
    fn choices(&self) -> &RefCell<Choices> {
        &self.choices
    }
}
