//! Servers that follow a name: which of the server table they are, and what commands may change of
//! them.

use crate::checks::{Records, ServersFrom};
use crate::command::{ServerChange, Setting, SourcedCommand};
use crate::followed::{keep, retain_followed};
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
        Some(present) => {
            settings.servers_from[present] = from.clone();
            retain_followed(settings);
        }
        None if settings.servers_from.len() >= MAX_NAMES => {
            return Err(format!("{}: {MAX_NAMES} names are followed, which are the most", what()));
        }
        None => settings.servers_from.push(from.clone()),
    }
    Ok(())
}

/// Leaves each name that a file names only those of its slots that it keeps by the file. Without
/// that, a file that moves ranges would be refused: its first lines would find the slots taken that
/// only later lines free.
pub(super) fn make_room(settings: &mut Settings, file: &[SourcedCommand]) {
    let wanted = |name: &str| {
        file.iter().rev().filter_map(SourcedCommand::setting).find_map(|setting| {
            let Setting::ServersFrom(from) = setting else { return None };
            (from.name == name).then_some((from.first, from.last))
        })
    };
    settings.servers_from.retain_mut(|from| {
        let Some((first, last)) = wanted(&from.name) else { return true };
        (from.first, from.last) = (from.first.max(first), from.last.min(last));
        from.first <= from.last
    });
    retain_followed(settings);
}

/// Sets what an operator may set of a slot that follows a name, whether or not it has an address
/// now. Returns false if the slot follows no name.
///
/// # Errors
/// The name gives what is to be set.
pub(super) fn set_keys(
    settings: &mut Settings,
    number: u32,
    changes: &[ServerChange],
) -> Result<bool, String> {
    let Some(from) = settings.followed_by(number).cloned() else { return Ok(false) };
    let slot = u16::try_from(number).unwrap_or(u16::MAX);
    let mut keys = settings.slot_keys(&from, slot);
    for change in changes {
        match (change, from.records) {
            (ServerChange::Address(_) | ServerChange::Port(_), _)
            | (ServerChange::Weight(_) | ServerChange::Prio(_), Records::Srv) => {
                return Err(format!(
                    "server: number {number} follows {}, which gives its {}; see servers_from",
                    from.name,
                    change.key()
                ));
            }
            (ServerChange::Acl(list), _) => keys.acl = *list,
            (ServerChange::Blacklist(_), _) => {}
            (ServerChange::Check(check), _) => keys.check = check.clone(),
            (ServerChange::Hard(limit), _) => keys.hard = *limit,
            (ServerChange::Max(limit), _) => keys.soft = *limit,
            (ServerChange::Prio(prio), Records::Addresses) => keys.prio = *prio,
            (ServerChange::State(mode), _) => keys.mode = *mode,
            (ServerChange::Tls(transport), _) => keys.transport = *transport,
            (ServerChange::Weight(weight), Records::Addresses) => keys.weight = *weight,
        }
    }
    match settings.servers.get_mut(usize::from(slot)) {
        Some(Some(server)) => keys.give_to(server, from.records),
        Some(None) | None => keep(settings, slot, keys),
    }
    Ok(true)
}
