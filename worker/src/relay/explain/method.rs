//! The figures by which the method in force names a server.

use pen_config::ids::{ClientKey, ServerId, Target};
use pen_config::maglev::POSITIONS;
use pen_config::settings::{Method, Settings};
use pen_ipc::text::plural;

use crate::relay::explain::view::Looked;
use crate::relay::select::choices::{Choosing, position};
use crate::relay::select::farm::Farm;
use crate::relay::select::slow_start::{WHOLE, share};

/// Why the method in force names a server: the figures that it compared.
pub(super) fn reasons_of_method(
    settings: &Settings,
    farm: &Looked<'_, impl Choosing>,
    client: ClientKey,
    first: Option<ServerId>,
) -> Vec<String> {
    let Some(id) = first else { return Vec::new() };
    let server = settings.target(Target::Server(id));
    let prio = server.map_or(0, |server| server.prio);
    let loaded = |id: ServerId| {
        let weight = settings.target(Target::Server(id)).map_or(0, |server| server.weight);
        let slow = match share(settings, farm, id.0.into()) {
            WHOLE => String::new(),
            share => format!(", of which it has {} % now (slow_start)", share / 10),
        };
        let connections = plural(farm.connections(id.0.into()), "connection");
        format!("server {id}, with {connections} at weight {weight}{slow}")
    };
    match settings.selection.method() {
        Method::Prio => vec![format!("prio: server {id} has the lowest prio, {prio}")],
        Method::Weight | Method::Leastconn => {
            vec![format!("least load: {}; equals take turns", loaded(id))]
        }
        Method::P2c => {
            let Some((one, other)) = farm.choices().borrow().compared() else {
                return vec![format!("drawn now, with no other to compare: {}", loaded(id))];
            };
            let [one, other] = [one, other].map(loaded);
            vec![format!("drawn now, perhaps others next time: {one}; {other}")]
        }
        Method::Maglev => {
            let position = position(client);
            let owner = farm.choices().borrow().owner(position);
            let next =
                if owner == Some(id) { "" } else { ", whose clients spread over the others" };
            owner.map_or(Vec::new(), |owner| {
                vec![format!(
                    "maglev: position {position} of {POSITIONS} belongs to server {owner}{next}"
                )]
            })
        }
        Method::Hash | Method::RoundRobin => Vec::new(),
    }
}
