//! The records of names that servers follow, as they are found; and what an operator sets of a slot
//! that follows a name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::address::HostAddress;
use crate::checks::{Records, ServerCheck, ServerMode};
use crate::tls::servers::ServerTransport;

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
    /// See [`crate::settings::Server::soft`].
    pub soft: u32,
    /// See [`crate::settings::Server::hard`].
    pub hard: u32,
    /// See [`crate::settings::Server::weight`]. An SRV record says it itself.
    pub weight: u32,
    /// See [`crate::settings::Server::prio`]. An SRV record says it itself.
    pub prio: u32,
    /// See [`crate::settings::Server::acl`].
    pub acl: u8,
    /// See [`crate::settings::Server::check`].
    #[serde(default)]
    pub check: ServerCheck,
    /// See [`crate::settings::Server::mode`].
    #[serde(default)]
    pub mode: ServerMode,
    /// See [`crate::settings::Server::transport`].
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
