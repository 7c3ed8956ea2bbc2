//! How many servers a client's failover examines: never all at each step.

use super::*;
use crate::relay::select::tests::methods::{LEASTCONN, NONE, P2C, PRIO, WEIGHT};
use crate::relay::select::tests::positions::{MAGLEV, farm_at, numbered, renewed};

const SERVERS: usize = 1000;

/// How many servers are examined for a client of whom all servers but one refuse connects. Those
/// that refuse are `then` from that time on.
fn examined(settings: &Settings, mut farm: Model, then: Option<Blacklist>) -> u32 {
    let (client, works) = (numbered(7), 700);
    farm.skips = Skips::Out;
    farm.states.resize(SERVERS, None);
    farm.states[works] = None;
    renewed(settings, &farm);
    let mut placement = Placement::new(settings, &farm, client, &mut |_, _| ());
    loop {
        let trial = placement.next(settings, &farm).expect("one takes the client");
        let Target::Server(id) = trial.target else { panic!("{trial:?}") };
        if placement.judge(settings, &farm, client.key, trial).is_ok() {
            if id.index() == works {
                return farm.examined.get();
            }
            farm.states[id.index()] = then;
        }
    }
}

#[test]
fn failover_over_a_thousand_servers_examines_each_a_few_times() {
    let bounded = Selection { maglev: Maglev::Bounded(120), ..NONE };
    let hash = Selection { hash: true, ..NONE };
    for selection in [NONE, hash, WEIGHT, LEASTCONN, P2C, PRIO, MAGLEV, bounded] {
        let mut settings = farm_at(&[1; SERVERS], selection);
        // It is the last one by prio.
        settings.servers[700].as_mut().unwrap().prio = 9;
        let out = Some(Blacklist::Until(9));
        let half = || (0..SERVERS).map(|n| out.filter(|_| n % 2 == 1)).collect();
        for (known, states) in [("none", Vec::new()), ("half", half()), ("all", vec![out; SERVERS])]
        {
            // With `blacklist 0` it is never known.
            for then in [out, None] {
                let farm = Model { states: states.clone(), ..Model::default() };
                let examined = examined(&settings, farm, then);
                let most = 5 * SERVERS as u32;
                assert!(examined <= most, "{selection:?}, {known} known, {then:?}: {examined}");
            }
        }
    }
}
