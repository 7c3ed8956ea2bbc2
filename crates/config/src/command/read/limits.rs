//! Reads the arguments of the limits per client.

use std::ops::RangeInclusive;

use crate::acl::LISTS;
use crate::command::read::{WordIter, shown};
use crate::command::table::Entry;
use crate::command::{Command, CommandError, Setting};
use crate::per_client::{ClientNet, ClientRate};

/// The range of the connections of a rate; 0 = no limit.
const CONNECTIONS: RangeInclusive<u32> = 0..=1_048_576;

/// The range of the time of a rate, in seconds.
const TIME: RangeInclusive<u32> = 1..=86_400;

pub(crate) fn per_client_net(
    entry: &Entry,
    words: &mut WordIter<'_>,
    _: bool,
) -> Result<Command, CommandError> {
    let Some(v4) = words.next() else { return Ok(shown(entry)) };
    let v4 = bits(entry, v4, 1..=32)?;
    let v6 = bits(entry, entry.required(words)?, 1..=128)?;
    Ok(Command::Setting(Setting::PerClientNet(ClientNet { v4, v6 })))
}

pub(crate) fn per_client_rate(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::PerClientRate(None)));
    }
    let Some(connections) = words.next() else { return Ok(shown(entry)) };
    let connections = entry.number(connections, CONNECTIONS)?;
    let rate = match (connections, words.peek()) {
        (0, None) => None,
        (connections, _) => {
            let seconds = entry.number(entry.required(words)?, TIME)?;
            (connections > 0).then_some(ClientRate { connections, seconds })
        }
    };
    Ok(Command::Setting(Setting::PerClientRate(rate)))
}

pub(crate) fn unlimited_acl(
    entry: &Entry,
    words: &mut WordIter<'_>,
    no: bool,
) -> Result<Command, CommandError> {
    if no {
        return Ok(Command::Setting(Setting::UnlimitedAcl(None)));
    }
    let Some(list) = words.next() else { return Ok(shown(entry)) };
    let list = bits(entry, list, 0..=LISTS as u32 - 1)?;
    Ok(Command::Setting(Setting::UnlimitedAcl(Some(list))))
}

/// A number in a range that fits a byte.
fn bits(entry: &Entry, text: &str, range: RangeInclusive<u32>) -> Result<u8, CommandError> {
    Ok(u8::try_from(entry.number(text, range)?).unwrap_or(u8::MAX))
}
