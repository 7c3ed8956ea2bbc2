//! The share of new clients that a server gets after it was out of service (`slow_start`). Pure.
//!
//! The table has the time at which each server came back. It is written where an outage ends: by
//! the worker whose connect ends a blacklisting, and by the supervisor.

use pen_config::ids::ServerId;
use pen_config::maglev::mixed;
use pen_config::settings::Settings;
use pen_config::shares::slow_share;

use crate::relay::select::farm::Farm;

pub use pen_config::shares::WHOLE;

/// The share of a server now, in thousandths: at first a tenth, then more with the time.
pub fn share(settings: &Settings, farm: &impl Farm, row: u32) -> u32 {
    match settings.slow_start {
        0 => WHOLE,
        seconds => slow_share(farm.returned(row), farm.now(), seconds),
    }
}

/// Whether a server that has this share, in thousandths, gets a client. `word`: a random word of
/// the client.
pub fn passes(share: u32, id: ServerId, word: u64) -> bool {
    // Another chance for each server.
    share == WHOLE || mixed(word ^ u64::from(id.0)) % u64::from(WHOLE) < share.into()
}
