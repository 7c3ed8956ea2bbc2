//! Tests that printed settings load as the same settings: all together, and each alone.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use crate::address::Address;
use crate::command::{COMMANDS, SourcedCommand, parse_any, setting_words};
use crate::configuration::CommandLine;
use crate::grammar;
use crate::names::Names;
use crate::print::in_force::*;
use crate::strategies::sourced;
use crate::{apply, strategies};

/// Commands that set no lasting value.
const OTHERS: &[&str] = &[
    "abort_on_error",
    "block",
    "certificates",
    "close",
    "connection",
    "delayed_forward",
    "drain",
    "dsr_if",
    "dsr_ip",
    "epoll",
    "events",
    "exit",
    "explain",
    "help",
    "overview",
    "pause",
    "include",
    "kqueue",
    "metrics",
    "mode",
    "peek",
    "pid",
    "poll",
    "recent",
    "resume",
    "sandbox",
    "select",
    "servers",
    "show",
    "socket",
    "ssl_client_renegotiation_interval",
    "status",
    "tarpit_acl",
    "transparent",
    "upgrade",
    "watch",
    "write",
];

/// Settings that a test chose, with the values beside them.
#[derive(Debug)]
struct State {
    settings: Settings,
    startup: Vec<Startup>,
    log: Option<LogTarget>,
    connection_log: Option<ConnectionLogTarget>,
    status_file: Option<std::path::PathBuf>,
    workers: u32,
    servers_only: bool,
}

impl State {
    /// Also of what pen does not offer yet.
    fn text(&self, word: Option<&str>) -> String {
        let State { settings, startup, workers, servers_only, .. } = self;
        let (log, status_file) = (self.log.as_ref(), self.status_file.as_deref());
        let connection_log = self.connection_log.as_ref();
        let (listen, workers, servers_only) = (&local(), *workers, *servers_only);
        InForce {
            settings,
            startup,
            listen,
            log,
            connection_log,
            status_file,
            workers,
            servers_only,
        }
        .text_of(word, Offered::All)
    }
}

fn state() -> impl Strategy<Value = State> {
    let log = of("/[a-z]{1,9}".prop_map(|path| LogTarget::File(path.into())));
    let log = (log, of(strategies::connection_log_target()));
    let beside =
        (log, of("/[a-z]{1,9}"), 1u32..=64, any::<bool>(), vec(strategies::startup(), 0..9));
    (strategies::settings(), beside).prop_map(
        |(settings, ((log, connection_log), status_file, workers, servers_only, said))| {
            let startup = one_of_each(&said);
            State {
                settings,
                startup,
                log,
                connection_log,
                status_file: status_file.map(Into::into),
                workers,
                servers_only,
            }
        },
    )
}

/// The last setting of each kind.
fn one_of_each(said: &[Startup]) -> Vec<Startup> {
    let words: BTreeSet<&str> = said.iter().map(Startup::word).collect();
    let last = |word: &&str| said.iter().rev().find(|startup| startup.word() == *word).cloned();
    words.iter().filter_map(last).collect()
}

fn local() -> Local {
    grammar::local("127.0.0.1:80").unwrap()
}

/// A start with an empty command line.
fn nothing() -> CommandLine {
    CommandLine {
        local: None,
        servers: Vec::new(),
        commands: Vec::new(),
        emergency: None,
        abuse: None,
        server_slots: None,
        accept_batch: 100,
        hash_always: false,
        tls: Tls::default(),
    }
}

/// The words of all settings.
fn every_word() -> impl Iterator<Item = &'static str> {
    let settings = Offered::All.entries().iter().filter(|entry| entry.is_setting());
    settings.map(|entry| entry.word)
}

#[test]
fn a_pause_is_a_comment_and_no_setting() {
    let paused = Settings { admission: Admission::Paused, ..Settings::default() };
    let shown = |settings: &Settings, word| {
        let state = State {
            settings: settings.clone(),
            startup: Vec::new(),
            log: None,
            connection_log: None,
            status_file: None,
            workers: 1,
            servers_only: false,
        };
        state.text(word)
    };
    let added = "# paused: new clients wait until the command resume\n";
    assert_eq!(shown(&paused, None), shown(&Settings::default(), None) + added);
    assert!(!shown(&paused, Some("timeout")).contains("paused"));
}

#[test]
fn every_command_is_a_setting_that_is_shown_or_none() {
    let others = COMMANDS.iter().filter(|entry| !entry.is_setting()).map(|entry| entry.word);
    assert_eq!(others.collect::<BTreeSet<_>>(), OTHERS.iter().copied().collect());
    let startup = [
        Startup::Control(None),
        Startup::ExitCommand(false),
        Startup::Jail(None),
        Startup::Page(None),
        Startup::PidFile(None),
        Startup::RequireSandbox(false),
        Startup::User(None),
    ];
    let server = Server::at(Address::Unix("/a".into()));
    let settings = Settings { servers: vec![None, Some(server)], ..Settings::default() };
    let (log, status_file, workers, servers_only, listen) = (None, None, 2, false, &local());
    let plain = InForce {
        settings: &settings,
        startup: &startup,
        listen,
        log,
        connection_log: None,
        status_file,
        workers,
        servers_only,
    };
    for word in every_word() {
        let text = plain.text_of(Some(word), Offered::All);
        let word = if word == "status_file" { "web_stats" } else { word };
        // No name is followed.
        assert!(!text.is_empty() || word == "servers_from", "{word} is shown");
        let is_built = setting_words().any(|built| built == word);
        assert!(is_built || plain.text(Some(word)).is_empty(), "{word} is not offered");
        for line in text.lines() {
            assert!(
                line.strip_prefix("no ").unwrap_or(line).split(' ').next() == Some(word),
                "{line}"
            );
            parse_any(line).unwrap();
        }
        assert!(
            plain.text_of(None, Offered::All).contains(&text) || word == "proxy_protocol",
            "{word}"
        );
    }
    assert_eq!(
        plain.text(Some("server")),
        "no server 0\nserver 1 address /a port 1 max 0 hard 0 weight 1 prio 0 acl 0 state ready tls default check default\n"
    );
    assert_eq!(plain.text(Some("server 0")), "no server 0\n");
    assert_eq!(plain.text(Some("acl 3")), "no acl 3\n");
    assert!(plain.text(Some("ssl_ciphers")).starts_with("no ssl_ciphers # the default: ECDHE-"));
}

proptest! {
    #[test]
    fn all_that_is_shown_starts_as_what_it_was(state in state()) {
        let shown = sourced(&state.text(None));
        let settled = nothing().settle(&Names::default(), &shown);
        let mut settled = settled.map_err(|errors| TestCaseError::fail(format!("{errors:?}")))?;
        settled.settings.generation = state.settings.generation;
        prop_assert_eq!(&settled.settings, &state.settings);
        prop_assert_eq!((settled.log, settled.status_file), (state.log, state.status_file));
        prop_assert_eq!(settled.connection_log, state.connection_log);
        prop_assert_eq!((settled.local, settled.workers), (local(), Some(state.workers)));
        prop_assert_eq!(apply::names_all(&shown), Some(state.servers_only));
        let startup = |setting: &Setting| {
            let Setting::Startup(startup) = setting else { return None };
            Some(startup.clone())
        };
        let said: Vec<Startup> =
            shown.iter().filter_map(SourcedCommand::setting).filter_map(startup).collect();
        prop_assert_eq!(said, state.startup);
    }

    #[test]
    fn each_setting_that_is_shown_is_already_in_force(state in state()) {
        // Alone in a file, this command would remove all servers.
        for word in every_word().filter(|word| *word != "servers_only") {
            let lines = sourced(&state.text(Some(word)));
            let again = apply::reload(&state.settings, &[], &lines, &Names::default(), Some(80));
            prop_assert_eq!(again.as_ref(), Ok(&state.settings), "{}", word);
        }
    }
}
