//! Whether a target can be used for a client. Every such decision is made here.

use pen_config::ids::{ClientKey, ServerId, Target};
use pen_config::settings::{Server, Settings};
use pen_table::{Checks, DownCode, Knows, Patience, ServerView, Unusable, Usable, can_use};

use crate::relay::select::Trial;
use crate::relay::select::farm::{Farm, Hindrance};

/// Why a target cannot be used for a client now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SelectionRefusal {
    /// It has no address.
    Absent,
    /// It is in maintenance.
    Maintenance,
    /// It drains, and does not know the client.
    Draining,
    /// It is blacklisted until this monotonic millisecond.
    Blacklisted(u64),
    /// Another connection is probing it after its blacklist time.
    Probed,
    /// It is down by its check.
    Down(DownCode),
    /// Its access list refuses the client.
    Acl(u8),
    /// It has reached its connection limit for this client.
    Full {
        /// Its present connections.
        connections: u32,
        /// Its connection limit.
        most: u32,
    },
    /// This worker must pass it over now.
    Hindered(Hindrance),
    /// In weight mode, a server with weight 0 is no first choice. It may be tried when the others
    /// cannot be used.
    NoWeight,
    /// It came back a short time ago, and gets this share of the new clients, in thousandths.
    SlowStart(u32),
    /// With a bound: it has more than this percentage of the mean.
    Crowded {
        /// Its present connections.
        connections: u32,
        /// The bound.
        percent: u32,
    },
}

impl From<Unusable> for SelectionRefusal {
    fn from(unusable: Unusable) -> SelectionRefusal {
        match unusable {
            Unusable::Blacklisted(until) => SelectionRefusal::Blacklisted(until),
            Unusable::Probed => SelectionRefusal::Probed,
            Unusable::Down(code) => SelectionRefusal::Down(code),
            Unusable::Draining => SelectionRefusal::Draining,
            Unusable::Maintenance => SelectionRefusal::Maintenance,
        }
    }
}

/// Who asks for a target.
#[derive(Clone, Copy, Debug)]
pub(in crate::relay::select) struct Asks {
    pub client: ClientKey,
    /// Whether the target is the client's recorded server.
    pub known: bool,
    /// Whether clients are tracked.
    pub tracks: bool,
}

impl Asks {
    fn knows(self) -> Knows {
        match self.known && self.tracks {
            true => Knows::Server,
            false => Knows::Stranger,
        }
    }
}

/// Whether a target can be used for a client now.
pub(in crate::relay::select) fn eligible(
    settings: &Settings,
    farm: &impl Farm,
    asks: Asks,
    Trial { target, patience, checks }: Trial,
) -> Result<Usable, SelectionRefusal> {
    let server = present(settings, target)?;
    let row = target.row(settings.table_size());
    let ServerView { blacklist, standing } = farm.server(row);
    let usable = can_use(blacklist, standing, asks.knows(), patience, checks)?;
    // The abuse server is for the clients that a list refuses.
    if target != Target::Abuse && !permits(settings, server.acl, asks.client) {
        return Err(SelectionRefusal::Acl(server.acl));
    }
    if let Some(most) = server.limit(asks.known) {
        let connections = farm.connections(row);
        if connections >= most {
            return Err(SelectionRefusal::Full { connections, most });
        }
    }
    match (farm.hindrance(row), patience) {
        // No other target is left, so it is tried.
        (None, _) | (Some(Hindrance::Ports), Patience::Join) => Ok(usable),
        (Some(hindrance), _) => Err(SelectionRefusal::Hindered(hindrance)),
    }
}

/// Whether a regular server with this many connections can be used by new clients, whatever its
/// access list says.
pub(in crate::relay::select) fn open_to_strangers(
    settings: &Settings,
    farm: &impl Farm,
    number: u32,
    connections: u32,
) -> Result<(), SelectionRefusal> {
    let id = u16::try_from(number).map_err(|_| SelectionRefusal::Absent)?;
    let server = present(settings, Target::Server(ServerId(id)))?;
    let ServerView { blacklist, standing } = farm.server(number);
    can_use(blacklist, standing, Knows::Stranger, Patience::Skip, Checks::Obeyed)?;
    if let Some(most) = server.limit(false).filter(|most| connections >= *most) {
        return Err(SelectionRefusal::Full { connections, most });
    }
    farm.hindrance(number).map_or(Ok(()), |hindrance| Err(SelectionRefusal::Hindered(hindrance)))
}

/// The server of a target, if it has an address.
fn present(settings: &Settings, target: Target) -> Result<&Server, SelectionRefusal> {
    let server = settings.target(target).filter(|server| server.address.port() != 0);
    server.ok_or(SelectionRefusal::Absent)
}

/// Whether the access list for clients permits one. A refused client can use only the abuse server.
pub fn client_permitted(settings: &Settings, client: ClientKey) -> bool {
    permits(settings, settings.client_acl, client)
}

fn permits(settings: &Settings, list: u8, client: ClientKey) -> bool {
    settings.acls.get(usize::from(list)).is_none_or(|acl| acl.permits(client))
}
