//! What reports tell of the past, beside what is counted: it passes to the next program.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::report::history::{CarriedHistories, Histories};
use crate::report::outcomes::Outcomes;

/// What reports tell of the past.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// When pen was started, in seconds since 1970, over all upgrades.
    pub(crate) started_at: i64,
    pub(crate) reloads: Outcomes,
    pub(crate) upgrades: Outcomes,
    pub(crate) histories: Histories,
    /// How many connections of each server were ended by `rebalance`, by its code.
    pub(crate) rebalanced: BTreeMap<i32, u64>,
}

/// The same as it passes to the next program.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct CarriedPast {
    #[serde(default)]
    started_at: Option<i64>,
    #[serde(default)]
    reloads: Outcomes,
    #[serde(default)]
    upgrades: Outcomes,
    #[serde(default)]
    histories: CarriedHistories,
    #[serde(default)]
    rebalanced: BTreeMap<i32, u64>,
}

impl Past {
    /// The past of a pen that starts now.
    pub(crate) fn new() -> Past {
        Past { started_at: unix(), ..Past::default() }
    }

    /// The past of the program before this one in this process, which was started `uptime` ago.
    pub(crate) fn adopted(carried: CarriedPast, uptime: Duration) -> Past {
        let CarriedPast { started_at, reloads, upgrades, histories, rebalanced } = carried;
        // An earlier release does not say it.
        let uptime = i64::try_from(uptime.as_secs()).unwrap_or(0);
        let started_at = started_at.unwrap_or_else(|| unix().saturating_sub(uptime));
        let histories = Histories::adopted(histories);
        Past { started_at, reloads, upgrades, histories, rebalanced }
    }

    pub(crate) fn carried(&self) -> CarriedPast {
        CarriedPast {
            started_at: Some(self.started_at),
            reloads: self.reloads.clone(),
            upgrades: self.upgrades.clone(),
            histories: self.histories.carried(),
            rebalanced: self.rebalanced.clone(),
        }
    }
}

fn unix() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_known_even_if_an_earlier_release_does_not_say_it() {
        let carried = serde_json::to_string(&Past { started_at: 7, ..Past::default() }.carried());
        let carried = serde_json::from_str(&carried.unwrap()).unwrap();
        assert_eq!(Past::adopted(carried, Duration::ZERO).started_at, 7);
        let nothing = serde_json::from_str("{}").unwrap();
        let (hour, now) = (Duration::from_secs(3600), unix());
        let started_at = Past::adopted(nothing, hour).started_at;
        assert!((now - 3600..=unix() - 3600).contains(&started_at));
    }
}
