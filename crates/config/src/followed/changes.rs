//! What differs between two settings of servers that follow names, for those who tell of it.

use crate::address::Address;
use crate::checks::Records;
use crate::followed::Record;
use crate::ids::ServerId;
use crate::settings::{Server, Settings};

/// A change of a slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SlotChange {
    /// The number of the slot.
    pub server: ServerId,
    /// The address of the server of which the change tells.
    pub address: Address,
    /// The name that the slot follows, or followed before.
    pub name: String,
    /// What changed.
    pub kind: SlotChangeKind,
}

/// What changed of a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SlotChangeKind {
    /// It has this server now.
    Added,
    /// The record of its server is gone, so that it drains.
    Gone,
    /// The record of its server is there again.
    Back,
    /// Its server has left it.
    Freed,
    /// The record of its server says this weight and priority.
    Ranked {
        /// The weight.
        weight: u32,
        /// The priority.
        prio: u32,
    },
}

/// The changes of all slots that follow names, in the order of their numbers.
pub fn changes(before: &Settings, after: &Settings) -> Vec<SlotChange> {
    let mut all = Vec::new();
    for (index, new) in after.servers.iter().enumerate() {
        let old = before.servers.get(index).and_then(Option::as_ref);
        let (old, new) = (old.filter(is_followed), new.as_ref().filter(is_followed));
        if old.is_none() && new.is_none() {
            continue;
        }
        // Below MAX_SERVERS.
        let server = ServerId(index as u16);
        let name = |settings: &Settings| settings.followed(server).map(|from| from.name.clone());
        let mut note = |of: &Server, settings: &Settings, kind| {
            let (address, name) = (of.address.clone(), name(settings).unwrap_or_default());
            all.push(SlotChange { server, address, name, kind });
        };
        match (old, new) {
            (Some(old), Some(new)) if old.address == new.address => {
                match (old.record, new.record) {
                    (Record::Present, Record::Gone) => note(new, after, SlotChangeKind::Gone),
                    (Record::Gone, Record::Present) => note(new, after, SlotChangeKind::Back),
                    (Record::Own | Record::Present | Record::Gone, _) => {}
                }
                let follows_srv =
                    after.followed(server).is_some_and(|from| from.records == Records::Srv);
                if follows_srv && (old.weight, old.prio) != (new.weight, new.prio) {
                    let (weight, prio) = (new.weight, new.prio);
                    note(new, after, SlotChangeKind::Ranked { weight, prio });
                }
            }
            (old, new) => {
                old.into_iter().for_each(|old| note(old, before, SlotChangeKind::Freed));
                new.into_iter().for_each(|new| note(new, after, SlotChangeKind::Added));
            }
        }
    }
    all
}

fn is_followed(server: &&Server) -> bool {
    match server.record {
        Record::Own => false,
        Record::Present | Record::Gone => true,
    }
}
