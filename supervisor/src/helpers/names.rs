//! The names in commands that must be looked up before the commands can take effect, and the use of
//! the answers.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use pen_config::address::{Address, Host, HostAddress, Service};
use pen_config::apply;
use pen_config::command::{ConnectionLogTarget, LogTarget, Setting, SourcedCommand, last};
use pen_config::names::{Lookup, Names, zoned};

use crate::files::line_log::LineLog;
use crate::helpers::resolve::{Question, ResolverAnswer, Unresolved};

/// The names to look up.
#[derive(Debug)]
pub(crate) struct Inquiry {
    lookups: Vec<Lookup>,
    /// The host and service of each log that goes to the network. It is reached by UDP.
    logs: Vec<(LineLog, Host, Service)>,
}

/// The result of the lookups.
#[derive(Debug, Default)]
pub(crate) struct FoundAddresses {
    /// Hosts and TCP services.
    pub(crate) names: Names,
    /// The address of the request log, if it goes to the network.
    pub(crate) log: Option<SocketAddr>,
    /// The address of the connection log, if it goes to the network.
    pub(crate) connection_log: Option<SocketAddr>,
}

impl Inquiry {
    /// The lookups for commands with these names, and for the logs that the last of the commands
    /// set.
    pub(crate) fn new<'c>(
        lookups: BTreeSet<Lookup>,
        commands: impl DoubleEndedIterator<Item = &'c SourcedCommand> + Clone,
    ) -> Inquiry {
        let requests = last(commands.clone(), Setting::log).and_then(|(target, _)| target);
        let connections = last(commands, Setting::connection_log).and_then(|(target, _)| target);
        let logs = [
            (LineLog::Requests, requests),
            (LineLog::Connections, connections.and_then(ConnectionLogTarget::log)),
        ];
        let in_network = |(which, target): (_, Option<&LogTarget>)| {
            let (host, service) = target?.network()?;
            Some((which, host.clone(), service.clone()))
        };
        let logs = logs.into_iter().filter_map(in_network).collect();
        Inquiry { lookups: lookups.into_iter().collect(), logs }
    }

    /// The questions for the resolvers; none if everything is numeric.
    pub(crate) fn questions(&self) -> Vec<Question> {
        let lookups = self.lookups.iter().map(question);
        let logs = self.logs.iter();
        lookups.chain(logs.flat_map(|(_, host, service)| log_questions(host, service))).collect()
    }

    /// Combines the answers, which are in the order of the questions.
    ///
    /// # Errors
    /// A log host cannot be reached by UDP.
    pub(crate) fn found(self, mut answers: Vec<ResolverAnswer>) -> Result<FoundAddresses, String> {
        let mut of_logs = answers.split_off(self.lookups.len().min(answers.len())).into_iter();
        let mut found = FoundAddresses::default();
        for (which, host, service) in self.logs {
            let own = of_logs.by_ref().take(log_questions(&host, &service).count());
            let address = Some(log_address(which, &host, &service, own)?);
            match which {
                LineLog::Requests => found.log = address,
                LineLog::Connections => found.connection_log = address,
            }
        }
        Ok(FoundAddresses { names: names(self.lookups, answers), ..found })
    }
}

/// An error line for each name that has no answer, with the source line of each command that has
/// this name. Names from options and operands, which have no source line, come first.
pub(crate) fn unresolved_lines<'c>(
    unresolved: &[Unresolved],
    commands: impl Iterator<Item = &'c SourcedCommand>,
) -> Vec<String> {
    let mut of_commands = BTreeSet::new();
    let mut lines = Vec::new();
    for sourced in commands.filter(|sourced| !sourced.source_line.is_empty()) {
        let questions = sourced.setting().map_or(Vec::new(), questions);
        for (index, one) in
            unresolved.iter().enumerate().filter(|(_, one)| questions.contains(&one.question))
        {
            of_commands.insert(index);
            lines.push(format!("{}{one}", sourced.at()));
        }
    }
    let others = unresolved.iter().enumerate().filter(|(index, _)| !of_commands.contains(index));
    others.map(|(_, one)| one.to_string()).chain(lines).collect()
}

/// The questions for the names in a setting.
fn questions(setting: &Setting) -> Vec<Question> {
    let of_log = setting.log().flatten().or_else(|| setting.connection_log().flatten()?.log());
    if let Some((host, service)) = of_log.and_then(LogTarget::network) {
        return log_questions(host, service).collect();
    }
    apply::lookups(setting).iter().map(question).collect()
}

fn question(lookup: &Lookup) -> Question {
    match lookup {
        Lookup::Host(name) => Question::Host(name.clone()),
        Lookup::Service(name) => Question::TcpService(name.clone()),
        Lookup::Records(name, records) => Question::Records(name.clone(), *records),
    }
}

fn names(lookups: Vec<Lookup>, answers: Vec<ResolverAnswer>) -> Names {
    let mut names = Names::default();
    for pair in lookups.into_iter().zip(answers) {
        match pair {
            (Lookup::Host(name), ResolverAnswer::Host(found)) => {
                drop(names.hosts.insert(name, found))
            }
            (Lookup::Service(name), ResolverAnswer::Service(port)) => {
                names.services.insert(name, port);
            }
            (Lookup::Records(name, records), ResolverAnswer::Records(found)) => {
                names.records.insert((name, records), Ok(found));
            }
            (Lookup::Records(name, records), ResolverAnswer::NoRecords(why)) => {
                names.records.insert((name, records), Err(why));
            }
            // The answers of the resolver fit the questions. A missing answer makes the
            // configuration fail later.
            (
                Lookup::Host(_) | Lookup::Service(_) | Lookup::Records(_, _),
                ResolverAnswer::Host(_)
                | ResolverAnswer::Service(_)
                | ResolverAnswer::Part(_)
                | ResolverAnswer::Records(_)
                | ResolverAnswer::NoRecords(_)
                | ResolverAnswer::Failed(_),
            ) => {}
        }
    }
    names
}

fn log_questions(host: &Host, service: &Service) -> impl Iterator<Item = Question> + use<> {
    let host = match host {
        Host::Name(name) => Some(Question::Host(name.clone())),
        Host::Zoned(ip, zone) => Some(Question::Host(zoned(*ip, zone))),
        Host::Ip(_) | Host::Unix(_) => None,
    };
    let service = match service {
        Service::Name(name) => Some(Question::UdpService(name.clone())),
        Service::Port(_) => None,
    };
    host.into_iter().chain(service)
}

fn log_address(
    which: LineLog,
    host: &Host,
    service: &Service,
    answers: impl Iterator<Item = ResolverAnswer>,
) -> Result<SocketAddr, String> {
    let (mut ip, mut port): (Option<HostAddress>, _) = (None, None);
    match host {
        Host::Ip(numeric) => ip = Some((*numeric).into()),
        Host::Name(_) | Host::Zoned(_, _) | Host::Unix(_) => {}
    }
    match service {
        Service::Port(numeric) => port = Some(*numeric),
        Service::Name(_) => {}
    }
    for answer in answers {
        match answer {
            ResolverAnswer::Host(found) => ip = found.first().copied(),
            ResolverAnswer::Service(found) => port = Some(found),
            ResolverAnswer::Part(_)
            | ResolverAnswer::Records(_)
            | ResolverAnswer::NoRecords(_)
            | ResolverAnswer::Failed(_) => {}
        }
    }
    match ip.zip(port).map(|(ip, port)| ip.with_port(port)) {
        Some(Address::Inet(address)) => Ok(address),
        Some(Address::Unix(_)) | None => {
            let word = which.word();
            Err(format!("{word}: the log host is not an address that UDP can reach"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use pen_config::command::Command;

    use super::*;

    #[test]
    fn answers_become_names() {
        let lookups = vec![Lookup::Host("www1".into()), Lookup::Service("http".into())];
        let found = names(
            lookups,
            vec![
                ResolverAnswer::Host(vec![IpAddr::from([10, 0, 0, 1]).into()]),
                ResolverAnswer::Service(80),
            ],
        );
        assert_eq!(found.hosts["www1"], [IpAddr::from([10, 0, 0, 1]).into()]);
        assert_eq!(found.services["http"], 80);
    }

    #[test]
    fn the_log_host_is_put_together_from_numbers_and_answers() {
        let (host, service) = (Host::Name("loghost".into()), Service::Name("penlog".into()));
        assert_eq!(log_questions(&host, &service).count(), 2);
        let answers = vec![
            ResolverAnswer::Host(vec![IpAddr::from([10, 0, 0, 1]).into()]),
            ResolverAnswer::Service(10000),
        ];
        assert_eq!(
            log_address(LineLog::Requests, &host, &service, answers.into_iter()).unwrap(),
            "10.0.0.1:10000".parse().unwrap()
        );
        let numeric = (Host::Ip([10, 0, 0, 2].into()), Service::Port(7));
        assert_eq!(log_questions(&numeric.0, &numeric.1).count(), 0);
        assert_eq!(
            log_address(LineLog::Requests, &numeric.0, &numeric.1, [].into_iter()).unwrap(),
            "10.0.0.2:7".parse().unwrap()
        );
    }

    #[test]
    fn names_that_are_not_found_are_told_with_the_places_of_their_commands() {
        let command = |source_line: &str, line: &str| SourcedCommand {
            source_line: source_line.into(),
            command: pen_config::command::parse(line).unwrap().unwrap(),
        };
        let commands = [
            command("f:1", "hash"),
            command("f:2", "server 0 address www1 port web"),
            command("f:3", "log loghost:web"),
            command("f:4", "server 1 address www1"),
            command("", "server 2 address elsewhere"),
        ];
        let host = |name: &str| Question::Host(name.into());
        let unresolved = [
            host("www1"),
            host("operand"),
            Question::UdpService("web".into()),
            Question::TcpService("web".into()),
            host("elsewhere"),
            host("www"),
        ];
        let unresolved: Vec<Unresolved> = unresolved.into_iter().map(Unresolved::unknown).collect();
        assert_eq!(
            unresolved_lines(&unresolved, commands.iter()),
            [
                "cannot resolve operand: unknown",
                "cannot resolve elsewhere: unknown",
                "cannot resolve www: unknown",
                "f:2: cannot resolve www1: unknown",
                "f:2: cannot resolve web: unknown",
                "f:3: cannot resolve web: unknown",
                "f:4: cannot resolve www1: unknown",
            ]
        );
    }

    #[test]
    fn the_last_word_about_the_log_counts() {
        let sourced = |setting| SourcedCommand {
            source_line: String::new(),
            command: Command::Setting(setting),
        };
        let file = || Setting::Log(Some(LogTarget::File("/log".into())));
        let network = || {
            Setting::Log(Some(LogTarget::Network(Host::Name("loghost".into()), Service::Port(7))))
        };
        let inquiry = |commands: &[SourcedCommand]| Inquiry::new(BTreeSet::new(), commands.iter());
        for commands in [
            vec![],
            vec![sourced(network()), sourced(file())],
            vec![sourced(network()), sourced(Setting::Log(None))],
        ] {
            assert_eq!(inquiry(&commands).questions(), []);
        }
        let inquiry = inquiry(&[sourced(Setting::Log(None)), sourced(network())]);
        assert_eq!(inquiry.questions(), [Question::Host("loghost".into())]);
        let found = inquiry
            .found(vec![ResolverAnswer::Host(vec![IpAddr::from([10, 0, 0, 1]).into()])])
            .unwrap();
        assert_eq!(found.log, Some("10.0.0.1:7".parse().unwrap()));
    }

    #[test]
    fn each_log_has_the_host_of_its_own() {
        let commands = ["log one:514", "connection_log two:515"].map(|line| SourcedCommand {
            source_line: String::new(),
            command: pen_config::command::parse(line).unwrap().unwrap(),
        });
        let inquiry = Inquiry::new(BTreeSet::new(), commands.iter());
        let host = |name: &str| Question::Host(name.into());
        assert_eq!(inquiry.questions(), [host("one"), host("two")]);
        let answer = |last| ResolverAnswer::Host(vec![IpAddr::from([10, 0, 0, last]).into()]);
        let found = inquiry.found(vec![answer(1), answer(2)]).unwrap();
        assert_eq!(found.log, Some("10.0.0.1:514".parse().unwrap()));
        assert_eq!(found.connection_log, Some("10.0.0.2:515".parse().unwrap()));
    }
}
