//! The share of new clients that a server gets after it was out of service (`slow_start`). Pure.
//!
//! The table has the time at which each server came back. It is written where an outage ends: by
//! the worker whose connect ends a blacklisting, and by the supervisor.

use pen_config::ids::ServerId;
use pen_config::maglev::mixed;
use pen_config::settings::Settings;

use crate::relay::select::SelectionRefusal;
use crate::relay::select::farm::Farm;

/// The whole share, in thousandths.
pub const WHOLE: u32 = 1000;

/// The share with which a server begins.
const FIRST: u64 = 100;

/// The share of a server now, in thousandths: at first a tenth, then more with the time.
pub fn share(settings: &Settings, farm: &impl Farm, row: u32) -> u32 {
    match settings.slow_start {
        0 => WHOLE,
        seconds => share_after(farm.returned(row), farm.now(), seconds),
    }
}

/// Whether a server in slow start gets this client. `word` is a random word of the client.
///
/// # Errors
/// It is passed over this time.
pub fn passes(
    settings: &Settings,
    farm: &impl Farm,
    id: ServerId,
    word: u64,
) -> Result<(), SelectionRefusal> {
    let share = share(settings, farm, id.0.into());
    // Another chance for each server.
    let passes = share == WHOLE || mixed(word ^ u64::from(id.0)) % u64::from(WHOLE) < share.into();
    if passes { Ok(()) } else { Err(SelectionRefusal::SlowStart(share)) }
}

/// `returned` and `now` in monotonic milliseconds; `returned` 0: it was never out of service. Any
/// worker can write it, so it can be in the future.
fn share_after(returned: u64, now: u64, seconds: u32) -> u32 {
    let (passed, whole) = (now.saturating_sub(returned), u64::from(seconds) * 1000);
    if returned == 0 || passed >= whole {
        return WHOLE;
    }
    // Below 1000: a day is less than 2^27 milliseconds.
    (FIRST + (u64::from(WHOLE) - FIRST) * passed / whole) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_from_a_tenth_to_the_whole() {
        for (returned, now, share) in [
            (0, 5, 1000),
            (100, 100, 100),
            (100, 5_100, 550),
            (100, 10_099, 999),
            (100, 10_100, 1000),
            (u64::MAX, 100, 100),
        ] {
            assert_eq!(share_after(returned, now, 10), share, "{returned} {now}");
        }
        assert_eq!(share_after(1, 86_400_000, 86_400), 999);
    }
}
