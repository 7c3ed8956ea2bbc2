//! The server that is tried first.

use std::cell::RefCell;

use pen_config::ids::ServerId;
use pen_config::settings::{Method, Settings};

use crate::relay::select::choices::Choosing;
use crate::relay::select::farm::CURSOR_TRIES;
use crate::relay::select::hash::hashed;
use crate::relay::select::judge::{Asks, SelectionRefusal, eligible};
use crate::relay::select::{Candidate, Trial, rotation, slow_start};

/// The server that is tried first.
pub(super) fn first(
    settings: &Settings,
    farm: &impl Choosing,
    client: Candidate,
    position: u32,
    recorded: Option<ServerId>,
    note: &mut impl FnMut(ServerId, SelectionRefusal),
) -> Option<ServerId> {
    let modes = settings.selection;
    if let (Some(id), true) = (recorded, modes.tracks()) {
        return Some(id);
    }
    let note = RefCell::new(note);
    let judge = |id: ServerId| {
        let asks =
            Asks { client: client.key, known: recorded == Some(id), tracks: !modes.roundrobin };
        let judged = eligible(settings, farm, asks, Trial::first(id)).map(|_| ());
        judged.inspect_err(|refusal| note.borrow_mut()(id, *refusal))
    };
    let word = match settings.slow_start {
        0 => 0,
        _ => farm.choices().borrow_mut().word(),
    };
    // In slow start, a server is passed over as often as it lacks of its share.
    let slowly = |id: ServerId| {
        judge(id)?;
        let share = slow_start::share(settings, farm, id.0.into());
        if slow_start::passes(share, id, word) {
            return Ok(());
        }
        let refusal = SelectionRefusal::SlowStart(share);
        note.borrow_mut()(id, refusal);
        Err(refusal)
    };
    let mut note_other = |id, refusal| note.borrow_mut()(id, refusal);
    let mut by_method = |judge: &dyn Fn(ServerId) -> Result<(), SelectionRefusal>| {
        let choices = &mut *farm.choices().borrow_mut();
        choices.first(settings, farm, position, word, &mut |id| judge(id), &mut note_other)
    };
    match modes.method() {
        Method::Weight | Method::Leastconn | Method::P2c | Method::Maglev => by_method(&judge),
        Method::Prio => by_method(&slowly).or_else(|| by_method(&judge)),
        Method::Hash => {
            let port = modes.roundrobin.then_some(client.port);
            hashed(client.key, port, settings.server_count())
        }
        Method::RoundRobin => round_robin(settings, farm, &mut |id| slowly(id).is_ok())
            .or_else(|| round_robin(settings, farm, &mut |id| judge(id).is_ok())),
    }
}

/// The next available server after the cursor, which moves there. All workers share one sequence,
/// unless a hostile one writes the cursor all the time.
pub(super) fn round_robin(
    settings: &Settings,
    farm: &impl Choosing,
    is_available: &mut impl FnMut(ServerId) -> bool,
) -> Option<ServerId> {
    let mut found = None;
    for _ in 0..CURSOR_TRIES {
        let cursor = farm.cursor();
        let id = rotation(settings.server_count(), cursor).find(|id| is_available(*id))?;
        found = Some(id);
        if farm.advance_cursor(cursor, u32::from(id.0)) {
            break;
        }
    }
    found
}
