//! The check that this machine has the local address towards servers (`source`). Without the check,
//! each connect of a worker would fail.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use pen_config::command::{Setting, SourcedCommand, last};
use pen_ipc::text::error_text;
use socket2::{Domain, Socket, Type};

/// Tries the address that `commands` set last.
///
/// # Errors
/// This machine does not have it. An operator's command has no source line and gets only the text
/// of the original pen; other errors also have the source line and the reason.
pub(crate) fn check(address: IpAddr, commands: &[SourcedCommand]) -> Result<(), String> {
    let Err(error) = bind(address) else { return Ok(()) };
    let text = format!("unable to set source address to '{address}'");
    let sets = |setting: &Setting| (*setting == Setting::Source(Some(address))).then_some(());
    match last(commands, sets).map_or("", |((), sourced)| &sourced.source_line) {
        "" => Err(text),
        source_line => Err(format!("{source_line}: source: {text}: {}", error_text(&error))),
    }
}

fn bind(address: IpAddr) -> std::io::Result<()> {
    let address = SocketAddr::new(address, 0);
    Socket::new(Domain::for_address(address), Type::STREAM, None)?.bind(&address.into())
}

#[cfg(test)]
mod tests {
    use pen_config::command::Command;

    use super::*;

    #[test]
    fn a_source_must_be_an_address_of_this_machine() {
        check([127, 0, 0, 1].into(), &[]).unwrap();
        let foreign = IpAddr::from([192, 0, 2, 1]);
        let set = |source_line: &str| {
            vec![SourcedCommand {
                source_line: source_line.into(),
                command: Command::Setting(Setting::Source(Some(foreign))),
            }]
        };
        assert_eq!(
            check(foreign, &set("")).unwrap_err(),
            "unable to set source address to '192.0.2.1'"
        );
        let why = check(foreign, &set("f:3")).unwrap_err();
        assert!(
            why.starts_with("f:3: source: unable to set source address to '192.0.2.1': "),
            "{why}"
        );
    }
}
