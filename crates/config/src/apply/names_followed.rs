//! Servers that follow a name: which of the server table they are, and what commands may change of
//! them.

use crate::checks::ServersFrom;
use crate::command::ServerChange;
use crate::ids::ServerId;
use crate::names::{Names, resolve_port};
use crate::settings::Settings;

/// Most names that servers follow.
const MAX_NAMES: usize = 64;

/// Adds servers that follow a name; it replaces those that followed the same name.
pub(super) fn follow(
    settings: &mut Settings,
    from: &ServersFrom,
    names: &Names,
) -> Result<(), String> {
    let what = || format!("servers_from: {}", from.name);
    resolve_port(&from.port, names, what).map_err(|why| why.to_string())?;
    let slots = settings.servers.len();
    if usize::from(from.last) >= slots {
        return Err(format!(
            "{}: server {} too large, this program was started for {slots} servers (-S)",
            what(),
            from.last
        ));
    }
    let present = settings.servers_from.iter().position(|each| each.name == from.name);
    let mut others = settings.servers_from.iter().filter(|each| each.name != from.name);
    if let Some(other) = others.find(|other| from.first <= other.last && other.first <= from.last) {
        return Err(format!(
            "{}: servers {}-{} follow {}, and a server follows one name only",
            what(),
            other.first,
            other.last,
            other.name
        ));
    }
    let own = |slot: &u16| present.is_some_and(|at| settings.servers_from[at].contains(*slot));
    let is_taken = |slot: &u16| settings.servers[usize::from(*slot)].is_some();
    if let Some(taken) = (from.first..=from.last).find(|slot| !own(slot) && is_taken(slot)) {
        return Err(format!(
            "{}: server {taken} has an address of its own; say no server {taken} first, or give \
             servers that are free",
            what()
        ));
    }
    match present {
        Some(present) => settings.servers_from[present] = from.clone(),
        None if settings.servers_from.len() >= MAX_NAMES => {
            return Err(format!("{}: {MAX_NAMES} names are followed, which are the most", what()));
        }
        None => settings.servers_from.push(from.clone()),
    }
    Ok(())
}

/// Refuses an address or port for a server that follows a name.
pub(super) fn keeps_its_name(
    settings: &Settings,
    number: u32,
    changes: &[ServerChange],
) -> Result<(), String> {
    let followed = u16::try_from(number).ok().and_then(|slot| settings.followed(ServerId(slot)));
    let Some(from) = followed else { return Ok(()) };
    let moved = changes
        .iter()
        .find(|change| matches!(change, ServerChange::Address(_) | ServerChange::Port(_)));
    match moved {
        None => Ok(()),
        Some(change) => Err(format!(
            "server: number {number} follows {}, which gives its {}; see servers_from",
            from.name,
            change.key()
        )),
    }
}
