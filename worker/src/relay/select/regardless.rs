//! The last step with `fail_open`: when every server is out, the verdicts of checks are
//! disregarded, and connecting decides. A check may be wrong about all servers at once, for
//! instance because what it asks for has moved.

use pen_config::ids::{ServerId, Target};
use pen_config::settings::Settings;
use pen_table::{Checks, Knows, Patience, ServerView, Unusable, can_use};

use crate::relay::select::farm::Farm;

/// Whether checks may be disregarded: every server is down, blacklisted, in maintenance or draining
/// for this client, and there is no emergency server. A server that is only full is not out. It
/// examines all servers, so it is asked only when nothing else is left.
pub(super) fn may_disregard(
    settings: &Settings,
    farm: &impl Farm,
    knows: impl Fn(ServerId) -> Knows,
) -> bool {
    let mut present = settings.configured().filter(|(_, server)| server.address.port() != 0);
    settings.fail_open
        && settings.emergency.is_none()
        && present.all(|(id, _)| farm.server(id.0.into()).is_out(knows(id)))
}

/// Whether the check alone keeps a client from a server.
pub(super) fn is_regardless(
    settings: &Settings,
    farm: &impl Farm,
    id: ServerId,
    knows: Knows,
) -> bool {
    let is_present =
        settings.target(Target::Server(id)).is_some_and(|server| server.address.port() != 0);
    let ServerView { blacklist, standing } = farm.server(id.0.into());
    let answer = |checks| can_use(blacklist, standing, knows, Patience::Join, checks);
    is_present
        && matches!(answer(Checks::Obeyed), Err(Unusable::Down(_)))
        && answer(Checks::Disregarded).is_ok()
}
