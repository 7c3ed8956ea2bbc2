//! How reloads and upgrades ended: counted since pen was started, with the last of each.

#![forbid(unsafe_code)]

use pen_status::{ChangeResult, LastChange};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// How all reloads or all upgrades ended. It passes to the next program.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcomes {
    #[serde(default)]
    pub(in crate::report) succeeded: u64,
    #[serde(default)]
    pub(in crate::report) failed: u64,
    #[serde(default)]
    pub(in crate::report) last: Option<LastChange>,
}

impl Outcomes {
    /// Counts one that ended now. `text` is what the log says of it.
    pub(crate) fn count(&mut self, result: ChangeResult, text: &str) {
        let count = match result {
            ChangeResult::Success => &mut self.succeeded,
            ChangeResult::Failure => &mut self.failed,
        };
        *count = count.saturating_add(1);
        let unix_time = OffsetDateTime::now_utc().unix_timestamp();
        self.last = Some(LastChange { unix_time, result, text: text.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_and_the_last_is_known() {
        let mut outcomes = Outcomes::default();
        outcomes.count(ChangeResult::Success, "reloaded");
        outcomes.count(ChangeResult::Failure, "not used");
        outcomes.count(ChangeResult::Failure, "not used again");
        assert_eq!((outcomes.succeeded, outcomes.failed), (1, 2));
        let last = outcomes.last.as_ref().map(|last| (last.result, last.text.as_str()));
        assert_eq!(last, Some((ChangeResult::Failure, "not used again")));
        // An earlier release passes nothing, and a later one may pass more.
        let passed = r#"{"succeeded": 1, "later": true}"#;
        let passed: Outcomes = serde_json::from_str(passed).unwrap();
        assert_eq!(passed, Outcomes { succeeded: 1, ..Outcomes::default() });
    }
}
