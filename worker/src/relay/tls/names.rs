//! Certificates by server name. A name's files are read when a client first asks for it: a thousand
//! private keys take a worker longer to read than its clients can be kept waiting, be it at the
//! start or at HUP. They were all examined before, so that nothing new comes out here.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::relay::tls::keyring::{Authorities, Notices, Source, Stack};

/// The certificate of every client: its name's, or the default.
#[derive(Debug)]
pub struct Resolver {
    source: Arc<Source>,
    default: Arc<CertifiedKey>,
    names: HashMap<String, Name>,
}

/// A server name.
#[derive(Debug)]
struct Name {
    files: Stack,
    /// None: the files are not in order, as whoever examined them has said.
    ready: OnceLock<Option<Ready>>,
}

/// What the clients of a name are served with.
#[derive(Debug)]
pub struct Ready {
    certified: Arc<CertifiedKey>,
    /// By whom its clients are verified, if not by the authorities of all.
    pub authorities: Option<Authorities>,
}

impl Resolver {
    /// With the files of each name, none of which is read now.
    pub fn new(
        source: Arc<Source>,
        default: Arc<CertifiedKey>,
        names: HashMap<String, Stack>,
    ) -> Resolver {
        let name = |files| Name { files, ready: OnceLock::new() };
        let names = names.into_iter().map(|(text, files)| (text, name(files))).collect();
        Resolver { source, default, names }
    }

    /// What there is for a name, and under which name that is: the name itself, or a `*` in the
    /// place of its first label.
    pub fn find(&self, name: &str) -> Option<(&str, &Ready)> {
        if self.names.is_empty() {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        self.at(name).or_else(|| self.at(&format!("*.{}", name.split_once('.')?.1)))
    }

    fn at(&self, name: &str) -> Option<(&str, &Ready)> {
        let (text, name) = self.names.get_key_value(name)?;
        let ready = name.ready.get_or_init(|| self.read(&name.files, &mut Vec::new()).ok());
        ready.as_ref().map(|ready| (text.as_str(), ready))
    }

    fn read(&self, files: &Stack, notices: &mut Notices) -> Result<Ready, String> {
        let (certified, authorities) = self.source.named(files, notices)?;
        Ok(Ready { certified: Arc::new(certified), authorities })
    }

    /// Reads the files of all names, in order: those that are good. Of those that are not, the
    /// first are told and the others counted.
    pub fn examine<'s>(&'s self, notices: &mut Notices) -> Vec<(&'s str, &'s Stack, Ready)> {
        let mut names: Vec<_> = self.names.iter().collect();
        names.sort_by_key(|(text, _)| *text);
        let (mut good, mut broken, mut remarks, mut unasked) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (text, name) in names {
            if !can_be_asked_for(text) {
                unasked.push(format!(
                    "{}: the file is not used, because no client can ask for {text:?}: it is no \
                     server name",
                    name.files.path()
                ));
                continue;
            }
            match self.read(&name.files, &mut remarks) {
                Ok(ready) => good.push((text.as_str(), &name.files, ready)),
                Err(why) => broken
                    .push(format!("{why}; the name {text} is served with the default certificate")),
            }
        }
        tell_first(
            notices,
            broken,
            "names are served with the default certificate, because their files are not in order",
        );
        tell_first(
            notices,
            unasked,
            "names have files that are not used, because no client can ask for them",
        );
        tell_first(notices, remarks, "messages about the files of certificates by name");
        good
    }
}

/// Whether a client can ask for a name, or, where that begins with `*.`, for one that it stands
/// for. Of a name that ends with a dot the dot is left out when it is looked for
/// ([`Resolver::find`]).
fn can_be_asked_for(name: &str) -> bool {
    let asked = match name.strip_prefix("*.") {
        Some(rest) => format!("a.{rest}"),
        None => name.to_owned(),
    };
    !name.ends_with('.') && matches!(ServerName::try_from(asked), Ok(ServerName::DnsName(_)))
}

/// Tells the first of many, and how many more there are.
fn tell_first(notices: &mut Notices, mut all: Notices, of_what: &str) {
    let more = all.len().saturating_sub(FIRST);
    all.truncate(FIRST);
    notices.append(&mut all);
    if more > 0 {
        notices.push(format!("{more} more {of_what}"));
    }
}

/// So many are told one by one.
const FIRST: usize = 5;

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.find(name));
        Some(named.map_or(&self.default, |(_, ready)| &ready.certified).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_can_ask_for_is_a_name_of_the_domain_name_system() {
        for name in [
            "localhost",
            "a_b.example",
            "*.example",
            "xn--mnchen-3ya.example",
            "1.example",
            "*.b.c",
        ] {
            assert!(can_be_asked_for(name), "{name}");
        }
        for name in
            ["web01-", "-x", "1.2.3", "127.0.0.1", "a..b", "a.", "*.a.", "*.1.2.3", ".a", "*.-x"]
        {
            assert!(!can_be_asked_for(name), "{name}");
        }
        assert!(!can_be_asked_for(&format!("{}.example", "a".repeat(64))));
    }
}
