//! Input: a configuration file. If lines are bad, each is reported. Otherwise the settings that
//! result are written as a file, which must load as the same settings.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_config::address::{Local, Service};
use pen_config::apply;
use pen_config::command::{Number, Setting, SourcedCommand};
use pen_config::configuration::file;
use pen_config::configuration::{CommandLine, Settled};
use pen_config::names::Names;
use pen_config::print::{self, Written};
use pen_config::settings::Settings;

/// The commands of a file.
fn commands(text: &[u8]) -> Result<Vec<SourcedCommand>, Vec<file::BadLine>> {
    let sourced = |line: file::FileLine| {
        Some(SourcedCommand {
            source_line: format!("fuzz:{}", line.number),
            command: line.command?,
        })
    };
    Ok(file::parse(text)?.into_iter().filter_map(sourced).collect())
}

fuzz_target!(|text: &[u8]| {
    let loaded = match commands(text) {
        Ok(loaded) => loaded,
        Err(bad) => {
            return assert!(!bad.is_empty() && bad.iter().all(|line| !line.why.contains('\n')));
        }
    };
    let configuration = CommandLine {
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
    let Ok(Settled { local, settings, log, connection_log, status_file, workers, .. }) =
        configuration.settle(&names, &loaded)
    else {
        return;
    };
    let is_startup = |setting: &&Setting| {
        matches!(setting, Setting::Startup(_) | Setting::Number(Number::MaxServers, _))
    };
    let startup: Vec<Setting> =
        loaded.iter().filter_map(SourcedCommand::setting).filter(is_startup).cloned().collect();
    let written = print::text(&Written {
        header: &[],
        settings: &settings,
        given: &Settings::default(),
        log: log.as_ref(),
        connection_log: connection_log.as_ref(),
        given_connection_log: None,
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
