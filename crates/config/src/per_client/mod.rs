//! The limits per client: what one client is, how much it may do, and what becomes of a connection
//! beyond that.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::acl::Acl;
use crate::ids::ClientKey;

mod net;

pub use crate::per_client::net::{ClientNet, in_words};

/// The limits per client. The names of the fields stand in the state of an upgrade, so they never
/// change.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct PerClient {
    /// Most open connections of a client; 0 = no limit.
    pub max: u32,
    /// Most new connections of a client within a time; `None` = no limit.
    pub rate: Option<ClientRate>,
    /// What one client is.
    pub net: ClientNet,
    /// Seconds for which a connection beyond a limit is kept open and silent; 0 = it is reset.
    pub tarpit: u32,
    /// Whether the abuse server gets connections beyond a limit.
    pub abuse_over: bool,
    /// The access list of the clients that have no limits.
    pub unlimited: Option<u8>,
}

/// Most new connections within a time. Those that were refused count too.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ClientRate {
    /// The connections, at least 1.
    pub connections: u32,
    /// The time in seconds, at least 1.
    pub seconds: u32,
}

impl PerClient {
    /// Whether there is a limit.
    pub fn is_on(&self) -> bool {
        self.max > 0 || self.rate.is_some()
    }

    /// Whether a client has no limits, by the access lists of the settings.
    pub fn is_unlimited(&self, lists: &[Acl], client: ClientKey) -> bool {
        let list = self.unlimited.and_then(|list| lists.get(usize::from(list)));
        client.ip().is_none() || list.is_some_and(|list| list.permits(client))
    }
}

/// The form that `per_client_rate` takes.
impl fmt::Display for ClientRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.connections, self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::{AclVerdict, Net};

    fn client(text: &str) -> ClientKey {
        ClientKey::from_ip(text.parse().unwrap())
    }

    #[test]
    fn a_list_frees_its_clients_from_limits_and_none_frees_nobody() {
        let mut lists: [Acl; 2] = Default::default();
        assert!(
            lists[1]
                .push(AclVerdict::Permit, Net::v4_prefix("10.0.0.0".parse().unwrap(), 8).unwrap())
        );
        let mut limits = PerClient { max: 1, ..PerClient::default() };
        assert!(limits.is_on() && !PerClient::default().is_on());
        assert!(!limits.is_unlimited(&lists, client("10.0.0.1")));
        assert!(limits.is_unlimited(&lists, ClientKey::UNIX));
        limits.unlimited = Some(1);
        assert!(limits.is_unlimited(&lists, client("10.0.0.1")));
        assert!(!limits.is_unlimited(&lists, client("11.0.0.1")));
        limits.unlimited = Some(0);
        assert!(limits.is_unlimited(&lists, client("11.0.0.1")), "an empty list permits all");
    }
}
