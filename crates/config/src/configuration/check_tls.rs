//! Finds TLS settings without effect.

use crate::ConfigurationError;
use crate::command::{Setting, SourcedCommand, Switch, last};
use crate::tls::Tls;

/// Finds TLS settings that have no effect. Each error begins with its option or command's word. TLS
/// or the check of clients must not be off silently if the operator meant it to be on. The lines
/// that `show` prints while TLS is off are not errors.
///
/// # Errors
/// One for each setting.
pub fn check_tls<'c>(
    tls: &Tls,
    commands: impl IntoIterator<Item = &'c SourcedCommand>,
) -> Result<(), Vec<ConfigurationError>> {
    let mut errors = Vec::new();
    let commands: Vec<&SourcedCommand> = commands.into_iter().collect();
    let given = [
        ("-K", tls.key.is_some()),
        ("-R", tls.required),
        ("-G", tls.ca_file.is_some()),
        ("-A", tls.ca_directory.is_some()),
    ];
    for (option, _) in given.iter().filter(|(_, given)| *given) {
        let said = of_command(option, &commands);
        let what =
            said.map_or((*option).to_owned(), |(setting, sourced)| sourced.at() + setting.word());
        let author = Author::of(said.map_or("-", |(_, sourced)| &sourced.source_line));
        match (tls.is_on(), tls.required, *option) {
            (false, _, _) => errors.push(format!("{what}: {}", author.without_certificate())),
            (true, false, "-G" | "-A") => errors.push(match demand_ended(&commands) {
                Some(sourced) => format!("{}{DEMAND_ENDED}", sourced.at()),
                None => format!("{what}: {}", author.without_demand()),
            }),
            _ => {}
        }
    }
    if !tls.is_on() {
        let of_tls = |sourced: &SourcedCommand| {
            let setting = sourced.setting().filter(|setting| needs_certificate(setting))?;
            Some(format!(
                "{}{}: {}",
                sourced.at(),
                setting.word(),
                Author::of(&sourced.source_line).without_certificate()
            ))
        };
        errors.extend(commands.into_iter().filter_map(of_tls));
    }
    errors.dedup();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.into_iter().map(ConfigurationError).collect())
    }
}

/// Where a setting was given, and so where the missing one can be given.
#[derive(Clone, Copy)]
enum Author {
    Operator,
    CommandLine,
    File,
}

impl Author {
    fn of(source_line: &str) -> Author {
        match source_line.bytes().next() {
            None => Author::Operator,
            Some(b'-') => Author::CommandLine,
            Some(_) => Author::File,
        }
    }

    fn without_certificate(self) -> String {
        let add = match self {
            Author::Operator => "only the file of -F, or a start, can give one",
            Author::CommandLine => "add -E FILE",
            Author::File => "add certificate FILE",
        };
        format!("means nothing without a certificate; {add}")
    }

    fn without_demand(self) -> String {
        let (demand, add) = match self {
            Author::CommandLine => ("-R", "-R"),
            Author::Operator | Author::File => ("require_client_cert", "require_client_cert"),
        };
        format!(
            "says whose client certificates are good, and without {demand} no client is asked for \
             one; add {add}, or, if it is \
             for the issuers of pen's own certificate, put them behind it in the file of -E"
        )
    }
}

/// The last command that ends the demand for client certificates. `None` if no command does, or if
/// a command sets the authorities.
fn demand_ended<'c>(commands: &[&'c SourcedCommand]) -> Option<&'c SourcedCommand> {
    if of_command("-G", commands).is_some() {
        return None;
    }
    let ends = |setting: &Setting| {
        (*setting == Setting::Switch(Switch::RequireClientCert, false)).then_some(())
    };
    last(commands.iter().copied(), ends).map(|((), sourced)| sourced)
}

const DEMAND_ENDED: &str = "require_client_cert: client_ca (-G, -A) says whose client certificates \
    are good, and that means nothing if no client \
                            is asked for one; say no client_ca too, in the file of -F";

/// The last command that is equivalent to an option, if one is given.
fn of_command<'c>(
    option: &str,
    commands: &[&'c SourcedCommand],
) -> Option<(&'c Setting, &'c SourcedCommand)> {
    let is_meant: fn(&Setting) -> bool = match option {
        "-R" => |setting| *setting == Setting::Switch(Switch::RequireClientCert, true),
        "-G" | "-A" => |setting| matches!(setting, Setting::ClientCa(paths) if !paths.is_empty()),
        _ => |_| false,
    };
    last(commands.iter().copied(), |setting| is_meant(setting).then_some(setting))
}

/// Whether a setting has no effect without a certificate.
fn needs_certificate(setting: &Setting) -> bool {
    match setting {
        Setting::SslAlways | Setting::SslNoTls12 | Setting::SslRenegotiation(_) => true,
        // A command that asks for nothing is allowed without a certificate.
        Setting::SslCiphers(list) => list.is_some(),
        Setting::SslNames(path) | Setting::SslOcsp(path) => path.is_some(),
        // The settings in force tell whether these ask for TLS.
        Setting::Certificate(_)
        | Setting::ClientCa(_)
        | Setting::Switch(_, _)
        | Setting::SslTls12 => false,
        Setting::Abuse(_)
        | Setting::Acl { .. }
        | Setting::Check(_)
        | Setting::ConnectionLog(_)
        | Setting::ConnectionLogFormat(_)
        | Setting::Emergency(_)
        | Setting::Fastclose(_)
        | Setting::Http(_)
        | Setting::Listen(_)
        | Setting::Log(_)
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
        | Setting::ServerTlsCa(_)
        | Setting::ServerTlsCert(_)
        | Setting::ServerTlsName(_)
        | Setting::ServersFrom(_)
        | Setting::SocketBuffers(_, _)
        | Setting::Source(_)
        | Setting::Startup(_)
        | Setting::UnlimitedAcl(_)
        | Setting::WebStats(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_nothing_is_told_with_what_is_missing_where_it_was_said() {
        let sourced = |source_line: &str, line: &str| SourcedCommand {
            source_line: source_line.into(),
            command: crate::command::parse(line).unwrap().unwrap(),
        };
        let said = |tls: &Tls, source_line: &str, lines: &[&str]| {
            let commands: Vec<SourcedCommand> =
                lines.iter().map(|line| sourced(source_line, line)).collect();
            let errors = check_tls(tls, &commands).err().unwrap_or_default();
            errors.into_iter().map(|error| error.0).collect::<Vec<_>>()
        };
        let off = Tls::default();
        for (source_line, add) in [
            (
                "/f:1",
                "/f:1: ssl_ciphers: means nothing without a certificate; add certificate FILE",
            ),
            ("-O 'x'", "-O 'x': ssl_ciphers: means nothing without a certificate; add -E FILE"),
            (
                "",
                "ssl_ciphers: means nothing without a certificate; only the file of -F, or a \
                 start, can give one",
            ),
        ] {
            assert_eq!(
                said(&off, source_line, &["ssl_ciphers ECDHE-RSA-AES128-GCM-SHA256"]),
                [add]
            );
        }
        let shown = [
            "no certificate",
            "no client_ca",
            "no require_client_cert",
            "ssl_option tlsv1.2",
            "no ssl_ciphers",
        ];
        assert_eq!(said(&off, "/f:1", &shown), [""; 0]);
        assert_eq!(said(&off, "/f:1", &["no ssl_ocsp_response", "no ssl_sni_path"]), [""; 0]);
        let on = Tls { certificate: Some("c".into()), ca_file: Some("a".into()), ..Tls::default() };
        let why = said(&on, "", &["no require_client_cert"]);
        assert!(
            why.len() == 1 && why[0].starts_with("require_client_cert: client_ca (-G, -A) says"),
            "{why:?}"
        );
        assert!(why[0].ends_with("say no client_ca too, in the file of -F"), "{why:?}");
        let why = said(&on, "/f:2", &["client_ca a"]);
        assert!(
            why[0].starts_with("/f:2: client_ca: says whose")
                && why[0].contains("add require_client_cert"),
            "{why:?}"
        );
        assert!(said(&on, "-", &[])[0].contains("add -R"));
    }
}
