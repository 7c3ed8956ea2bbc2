//! A configuration file: every line is told if one is bad; else it settles or says why, and what `write` makes of it loads as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_config::address::{Local, Service};
use pen_config::apply;
use pen_config::command::{Command, Number};
use pen_config::configuration::{Configuration, Names, Settled, SourcedCommand};
use pen_config::parse::file;
use pen_config::print::{self, Written};
use pen_config::settings::Settings;

/// The commands of a file.
fn commands(text: &[u8]) -> Result<Vec<SourcedCommand>, Vec<file::BadLine>> {
    let placed = |line: file::FileLine| SourcedCommand {
        source_line: format!("fuzz:{}", line.number),
        command: line.command,
    };
    Ok(file::parse(text)?.into_iter().map(placed).collect())
}

fuzz_target!(|text: &[u8]| {
    let loaded = match commands(text) {
        Ok(loaded) => loaded,
        Err(bad) => {
            return assert!(!bad.is_empty() && bad.iter().all(|line| !line.why.contains('\n')));
        }
    };
    let configuration = Configuration {
        local: Some(Local::Inet { host: None, port: Service::Port(80) }),
        servers: Vec::new(),
        commands: Vec::new(),
        emergency: None,
        abuse: None,
        server_slots: Some(64),
        accept_batch: 100,
        hash_always: false,
        tls: Default::default(),
    };
    let names = Names::default();
    let Ok(Settled { local, settings, log, status_file, workers, .. }) =
        configuration.settle(&names, &loaded)
    else {
        return;
    };
    let startup: Vec<Command> = loaded
        .iter()
        .map(|placed| placed.command.clone())
        .filter(|command| {
            matches!(command, Command::Startup(_) | Command::Number(Number::MaxServers, Some(_)))
        })
        .collect();
    let written = print::text(&Written {
        header: &[],
        settings: &settings,
        given: &Settings::default(),
        log: log.as_ref(),
        status_file: status_file.as_deref(),
        listen: Some(&local),
        workers,
        startup: &startup,
        servers_only: apply::names_all(&loaded) == Some(true),
    });
    let again = commands(written.as_bytes()).expect("what is written is a file");
    let reloaded = apply::reload(&settings, &[], &again, &names, Some(80)).expect(
        "what is written \
        loads",
    );
    assert_eq!(reloaded, settings);
    let restarted = configuration.settle(&names, &again).expect("what is written starts");
    assert_eq!(
        (restarted.settings, restarted.log, restarted.status_file, restarted.workers),
        (settings, log, status_file, workers)
    );
});
