//! Finds settings that a file sets twice. On the command line the last value counts, and a file
//! overrides the command line: that is intended. Two such lines in one file, with its included
//! files, are usually a copying error.

use std::collections::HashMap;

use crate::command::{ServerChange, Setting, SourcedCommand, Startup};

/// The repeated settings in the commands of one file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Twice {
    /// Repetitions that cannot be intended, one line each.
    pub errors: Vec<String>,
    /// Repetitions that may be intended, one line each, which says which value counts.
    pub warnings: Vec<String>,
}

/// Whether a second, different line gets a warning: the setting has one value, which it replaces.
fn is_single(setting: &Setting) -> bool {
    match setting {
        Setting::Abuse(_)
        | Setting::Certificate(_)
        | Setting::Check(_)
        | Setting::ClientCa(_)
        | Setting::ConnectionLog(_)
        | Setting::ConnectionLogFormat(_)
        | Setting::Emergency(_)
        | Setting::Log(_)
        | Setting::ServerTlsCa(_)
        | Setting::ServerTlsCert(_)
        | Setting::ServerTlsName(_)
        | Setting::WebStats(_) => true,
        Setting::Startup(startup) => match startup {
            Startup::Control(_)
            | Startup::Jail(_)
            | Startup::Page(_)
            | Startup::PidFile(_)
            | Startup::User(_) => true,
            Startup::ExitCommand(_) | Startup::RequireSandbox(_) => false,
        },
        Setting::Acl { .. }
        | Setting::Fastclose(_)
        | Setting::Http(_)
        | Setting::Listen(_)
        | Setting::NoAcl(_)
        | Setting::NoServer(_)
        | Setting::NoServersFrom(_)
        | Setting::Number(_, _)
        | Setting::Maglev(_)
        | Setting::OnDown(_)
        | Setting::PerClientNet(_)
        | Setting::PerClientRate(_)
        | Setting::ProxyIn(_)
        | Setting::ProxyOut(_)
        | Setting::Server { .. }
        | Setting::ServersFrom(_)
        | Setting::SocketBuffers(_, _)
        | Setting::Source(_)
        | Setting::SslAlways
        | Setting::SslCiphers(_)
        | Setting::SslNames(_)
        | Setting::SslNoTls12
        | Setting::SslOcsp(_)
        | Setting::SslRenegotiation(_)
        | Setting::SslTls12
        | Setting::Switch(_, _)
        | Setting::UnlimitedAcl(_) => false,
    }
}

/// Finds the repeated settings.
pub fn twice(commands: &[SourcedCommand]) -> Twice {
    let mut found = Twice::default();
    let mut listen: Option<&str> = None;
    let mut servers: HashMap<u32, &str> = HashMap::new();
    let mut single: HashMap<&str, (&str, String)> = HashMap::new();
    for sourced in commands {
        let source_line = sourced.source_line.as_str();
        let Some(setting) = sourced.setting() else { continue };
        if let Setting::Listen(_) = setting {
            if let Some(first) = listen {
                found.errors.push(format!(
                    "{source_line}: listen: {first} says already where pen listens; one pen \
                     listens at one address: take one out"
                ));
            }
            listen = Some(source_line);
        }
        if let Setting::NoServer(number) = setting {
            servers.remove(number);
        }
        if let Setting::Server { number, changes } = setting
            && changes.iter().any(|change| matches!(change, ServerChange::Address(_)))
            && let Some(first) = servers.insert(*number, source_line)
        {
            found.errors.push(format!(
                "{source_line}: server: {first} gives server {number} an address already; give \
                 this one another number"
            ));
        }
        let (word, line) = (setting.word(), setting.to_string());
        if is_single(setting)
            && let Some((first, before)) = single.insert(word, (source_line, line.clone()))
            && before != line
        {
            found.warnings.push(format!(
                "{source_line}: {word}: {first} says something else; the last counts: {line}"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Twice {
        let sourced = |(number, line): (usize, &&str)| SourcedCommand {
            source_line: format!("f:{}", number + 1),
            command: crate::command::parse(line).unwrap().unwrap(),
        };
        twice(&lines.iter().enumerate().map(sourced).collect::<Vec<_>>())
    }

    #[test]
    fn a_second_listen_and_a_second_address_of_a_server_are_errors_that_name_both_lines() {
        let found = said(&[
            "listen 8080",
            "server 1 address a",
            "server 2 address b",
            "listen 8081",
            "server 1 address c",
        ]);
        assert_eq!(
            found.errors,
            [
                "f:4: listen: f:1 says already where pen listens; one pen listens at one address: \
                 take one out",
                "f:5: server: f:2 gives server 1 an address already; give this one another number",
            ]
        );
        assert_eq!(found.warnings, [""; 0]);
    }

    #[test]
    fn further_keys_of_a_server_and_one_that_was_taken_away_are_no_second_address() {
        let lines = [
            "server 1 address a",
            "server 1 port 80 max 5",
            "no server 1",
            "server 1 address b",
            "timeout 1",
            "timeout 2",
        ];
        assert_eq!(said(&lines), Twice::default());
    }

    #[test]
    fn of_two_settings_of_a_kind_a_warning_says_which_counts() {
        for (first, second) in [
            ("control 8888", "control 8889"),
            ("page 8081", "page 8082"),
            ("emergency a:80", "emergency b:80"),
            ("abuse a:80", "no abuse"),
            ("log /a", "log /b"),
            ("connection_log /a", "connection_log syslog"),
            ("connection_log_format json", "connection_log_format haproxy"),
            ("status_file /a", "web_stats /b"),
            ("pid_file /a", "pid_file /b"),
            ("user a", "user b"),
            ("jail /a", "jail /b"),
            ("certificate /a", "certificate /b /c"),
            ("no log", "log /a"),
        ] {
            let Twice { errors, warnings } = said(&[first, "timeout 5", second]);
            assert!(errors.is_empty() && warnings.len() == 1, "{first}: {errors:?} {warnings:?}");
            let line = crate::command::parse(second).unwrap().unwrap().to_string();
            assert!(
                warnings[0].starts_with("f:3: ")
                    && warnings[0].contains(" f:1 says something else"),
                "{warnings:?}"
            );
            assert!(warnings[0].ends_with(&format!("the last counts: {line}")), "{warnings:?}");
            assert_eq!(said(&[second, second]), Twice::default(), "the same once more");
        }
    }
}
