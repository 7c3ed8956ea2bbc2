//! Which events were already seen, over connections and over other pens at the same address.

use serde_json::Value;

/// An event, as far as it tells whether another pen has the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    pub id: u64,
    time: Value,
}

impl Seen {
    /// `None`: it is no event.
    pub fn of(event: &Value) -> Option<Seen> {
        Some(Seen { id: event["id"].as_u64()?, time: event["time"].clone() })
    }
}

/// The events after the last one that was seen. `None`: they are those of another pen, which
/// began anew.
pub fn after(last: &Seen, kept: Vec<Value>) -> Option<Vec<Value>> {
    let seen: Vec<Seen> = kept.iter().filter_map(Seen::of).collect();
    let newest = seen.iter().map(|seen| seen.id).max().unwrap_or(0);
    let is_other = |seen: &Seen| seen.id == last.id && seen.time != last.time;
    if newest < last.id || seen.iter().any(is_other) {
        return None;
    }
    let is_new = |event: &Value| event["id"].as_u64().is_some_and(|id| id > last.id);
    Some(kept.into_iter().filter(is_new).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_later_events_of_the_same_pen_are_caught_up() {
        let event = |id: u64, time: u64| serde_json::json!({ "id": id, "time": time, "text": "" });
        let last = Seen { id: 5, time: 50.into() };
        let new = |kept: &[(u64, u64)]| -> Option<Vec<u64>> {
            let kept = kept.iter().map(|(id, time)| event(*id, *time)).collect();
            let new = after(&last, kept)?;
            Some(new.iter().filter_map(|event| event["id"].as_u64()).collect())
        };
        assert_eq!(new(&[(4, 40), (5, 50), (6, 60), (8, 80)]), Some(vec![6, 8]));
        assert_eq!(new(&[(5, 50)]), Some(vec![]));
        assert_eq!(new(&[(2, 20), (7, 70)]), Some(vec![7]), "others made its event leave");
        assert_eq!(new(&[(1, 60), (2, 70)]), None, "another pen");
        assert_eq!(new(&[(1, 60), (5, 70), (6, 80)]), None, "another pen with more events");
        assert_eq!(new(&[]), None);
    }
}
