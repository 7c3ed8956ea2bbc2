//! The servers by rank, for prio mode.

use pen_config::ids::ServerId;
use pen_config::settings::Settings;

use crate::relay::select::SelectionRefusal;
use crate::relay::select::farm::Farm;

/// The servers from the lowest prio to the highest; of equals, the lowest number first.
#[derive(Debug)]
pub struct Ranks {
    servers: Vec<ServerId>,
    /// The first servers that nobody could use at a time in milliseconds.
    out: (u64, usize),
}

impl Ranks {
    /// The ranks of the settings.
    pub fn new(settings: &Settings) -> Ranks {
        let mut ranked: Vec<_> =
            settings.configured().map(|(id, server)| (server.prio, id.0)).collect();
        ranked.sort_unstable();
        let servers = ranked.into_iter().map(|(_, id)| ServerId(id)).collect();
        Ranks { servers, out: (0, 0) }
    }

    /// All servers in this order.
    pub fn servers(&self) -> &[ServerId] {
        &self.servers
    }

    /// The first server that `judge` accepts. Those that nobody can use are not examined again in
    /// the same millisecond.
    pub fn first(
        &mut self,
        farm: &impl Farm,
        judge: &mut impl FnMut(ServerId) -> Result<(), SelectionRefusal>,
    ) -> Option<ServerId> {
        let now = farm.now();
        let skipped = if self.out.0 == now { self.out.1 } else { 0 };
        let mut for_all = true;
        for (place, id) in self.servers.iter().enumerate().skip(skipped) {
            match judge(*id) {
                Ok(()) => return Some(*id),
                Err(SelectionRefusal::Acl(_) | SelectionRefusal::SlowStart(_)) => for_all = false,
                Err(_) if for_all => self.out = (now, place + 1),
                Err(_) => {}
            }
        }
        None
    }
}
