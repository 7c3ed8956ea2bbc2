//! The methods of choosing a server that the original does not have, with real clients.

mod loads;
mod maglev;
mod slow_start;

use std::net::Ipv4Addr;

use crate::harness::client::Client;
use crate::harness::{Backend, Pen};

/// A client address of its own for each number.
fn client(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 84, high, low)
}

/// A pen with these commands, in front of servers with these weights.
fn pen_with(commands: &[&str], servers: &[(&Backend, u32)]) -> Pen {
    let options = commands.iter().flat_map(|command| ["-O", command]);
    let weighted =
        servers.iter().map(|(server, weight)| format!("{}:0:0:{weight}", server.operand()));
    let builder = Pen::builder().options(options);
    weighted.fold(builder, |builder, operand| builder.server_as(operand)).control().start()
}

/// Clients that stay, each with the name of its server.
fn held(pen: &Pen, numbers: std::ops::Range<u16>) -> Vec<(Client, String)> {
    numbers.map(|number| pen.hold(client(number)).unwrap()).collect()
}

/// How many of the clients each of these servers has.
fn counts<const N: usize>(held: &[(Client, String)], names: [&str; N]) -> [usize; N] {
    names.map(|name| held.iter().filter(|(_, at)| at == name).count())
}
