//! Servers that follow the records of a name (`servers_from`): the records, and what an operator
//! sets of a slot whatever its address is. `assign` says which record gets which slot, and `changes`
//! what that changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::HostAddress;
use crate::checks::{Records, ServerCheck, ServerMode, ServersFrom};
use crate::ids::ServerId;
use crate::server_tls::ServerTransport;
use crate::settings::{Server, Settings};

pub use crate::followed::assign::{answered, assign, unanswered};
pub(crate) use crate::followed::assign::{keep, retain_followed};
pub use crate::followed::changes::{SlotChange, SlotChangeKind, changes};

mod assign;
mod changes;

/// Whether a server follows a record of a name, and whether that record is there. The names of the
/// variants stand in the state of an upgrade, so they never change.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// It has an address of its own.
    #[default]
    Own,
    /// Its record is there.
    Present,
    /// Its record is not there any more: it gets no new clients.
    Gone,
}

/// A record of a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct NameRecord {
    /// The address.
    pub address: HostAddress,
    /// What an SRV record says besides; `None` for a record that is an address only.
    pub service: Option<SrvFields>,
}

/// The fields of an SRV record (RFC 2782).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SrvFields {
    /// The port; 0 = the port of `servers_from`.
    pub port: u16,
    /// The share of clients among the records of one priority.
    pub weight: u16,
    /// The rank, lowest first.
    pub priority: u16,
}

/// Most records of one name that are taken from an answer. There are no more slots than half of
/// it, and a DNS message has no room for more.
pub const MOST_RECORDS: usize = 8192;

/// The answers for each name that servers follow, by name and type of records: the records, or why
/// there are none.
pub type Answers = BTreeMap<(String, Records), Result<Vec<NameRecord>, String>>;

/// What an operator sets of a slot that follows a name, whatever its address is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct SlotKeys {
    /// See [`Server::soft`].
    pub soft: u32,
    /// See [`Server::hard`].
    pub hard: u32,
    /// See [`Server::weight`]. An SRV record says it itself.
    pub weight: u32,
    /// See [`Server::prio`]. An SRV record says it itself.
    pub prio: u32,
    /// See [`Server::acl`].
    pub acl: u8,
    /// See [`Server::check`].
    #[serde(default)]
    pub check: ServerCheck,
    /// See [`Server::mode`].
    #[serde(default)]
    pub mode: ServerMode,
    /// See [`Server::transport`].
    #[serde(default)]
    pub transport: ServerTransport,
}

impl Default for SlotKeys {
    fn default() -> SlotKeys {
        SlotKeys {
            soft: 0,
            hard: 0,
            weight: 1,
            prio: 0,
            acl: 0,
            check: ServerCheck::Default,
            mode: ServerMode::Ready,
            transport: ServerTransport::Default,
        }
    }
}

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

    /// The keys that an operator sets of a slot: of one that follows SRV records, weight and prio
    /// are the record's.
    pub(crate) fn for_records(self, records: Records) -> SlotKeys {
        match records {
            Records::Addresses => self,
            Records::Srv => {
                let SlotKeys { weight, prio, .. } = SlotKeys::default();
                SlotKeys { weight, prio, ..self }
            }
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
