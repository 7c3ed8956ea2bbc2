//! Servers that follow the records of a name (`servers_from`): the records, and what an operator
//! sets of a slot whatever its address is. `assign` says which record gets which slot, and
//! `changes` what that changed.

use crate::checks::{Records, ServerMode, ServersFrom};
use crate::ids::ServerId;
use crate::settings::{Server, Settings};

pub use crate::checks::records::{Answers, MOST_RECORDS, NameRecord, Record, SlotKeys, SrvFields};
pub use crate::followed::assign::{answered, assign, unanswered};
pub(crate) use crate::followed::assign::{keep, retain_followed};
pub use crate::followed::changes::{SlotChange, SlotChangeKind, changes};

mod assign;
mod changes;

impl SlotKeys {
    /// The keys of a server.
    pub fn of(server: &Server) -> SlotKeys {
        SlotKeys {
            soft: server.soft,
            hard: server.hard,
            weight: server.weight,
            prio: server.prio,
            acl: server.acl,
            check: server.check.clone(),
            mode: server.mode,
            transport: server.transport,
        }
    }

    /// Gives them to a server: weight and prio only if its record does not say them.
    pub(crate) fn give_to(self, server: &mut Server, records: Records) {
        let SlotKeys { soft, hard, weight, prio, acl, check, mode, transport } = self;
        (server.soft, server.hard, server.acl) = (soft, hard, acl);
        (server.check, server.mode, server.transport) = (check, mode, transport);
        match records {
            Records::Addresses => (server.weight, server.prio) = (weight, prio),
            Records::Srv => {}
        }
    }
}

impl Server {
    /// The state that it is in: that of the operator, or at least drain while its record is gone.
    pub fn mode_in_effect(&self) -> ServerMode {
        match (self.mode, self.record) {
            (ServerMode::Ready, Record::Gone) => ServerMode::Drain,
            (mode, Record::Own | Record::Present | Record::Gone) => mode,
        }
    }
}

/// How many servers a name has by its last answer, and how many of them have a slot.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Placed {
    /// How many servers its records are.
    pub records: u32,
    /// How many of them have a slot.
    pub placed: u32,
}

impl Placed {
    /// How many have none.
    pub fn unplaced(self) -> u32 {
        self.records.saturating_sub(self.placed)
    }

    /// The warning about those without a slot, if there are such.
    pub fn warning(self, name: &str) -> Option<String> {
        let (unplaced, records) = (self.unplaced(), self.records);
        (unplaced > 0).then(|| format!("{unplaced} of {records} addresses of {name} have no slot"))
    }
}

impl Settings {
    /// How many of a name's servers have a slot.
    pub fn placed(&self, from: &ServersFrom) -> Placed {
        let slots = self.servers.get(usize::from(from.first)..=usize::from(from.last));
        let slots = slots.unwrap_or_default().iter().flatten();
        let placed = slots.filter(|server| server.record == Record::Present).count();
        Placed {
            records: self.answered.get(&from.name).copied().unwrap_or(0),
            placed: u32::try_from(placed).unwrap_or(u32::MAX),
        }
    }

    /// What an operator sets of a slot that follows a name.
    pub fn slot_keys(&self, from: &ServersFrom, slot: u16) -> SlotKeys {
        let server = self.servers.get(ServerId(slot).index()).and_then(Option::as_ref);
        let keys = match server {
            Some(server) => SlotKeys::of(server),
            None => self.vacant.get(&slot).cloned().unwrap_or_default(),
        };
        keys.for_records(from.records)
    }
}

#[cfg(test)]
mod tests;
