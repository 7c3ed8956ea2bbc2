//! Certificates by server name. The files of a name are read when a client first requests it. A
//! worker would need too long for a thousand private keys at its start or at HUP: its clients would
//! wait. All files were examined before, so no new error appears here.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::tls::key_source::{KeySource, Stack};
use crate::tls::read::{Authorities, Notices};

/// Chooses every client's certificate: the one of its server name, or the default.
#[derive(Debug)]
pub struct NameResolver {
    source: Arc<KeySource>,
    default: Arc<CertifiedKey>,
    names: HashMap<String, NamedCertificate>,
}

/// A server name.
#[derive(Debug)]
struct NamedCertificate {
    files: Stack,
    /// None: the files are not valid; their examination has already reported that.
    ready: OnceLock<Option<Ready>>,
}

/// The certificate for the clients of a name.
#[derive(Debug)]
pub struct Ready {
    certified: Arc<CertifiedKey>,
    /// The authorities for its clients, if they are not the common ones.
    pub authorities: Option<Authorities>,
}

impl NameResolver {
    /// A resolver with the files of each name. None of them is read now.
    pub fn new(
        source: Arc<KeySource>,
        default: Arc<CertifiedKey>,
        names: HashMap<String, Stack>,
    ) -> NameResolver {
        let name = |files| NamedCertificate { files, ready: OnceLock::new() };
        let names = names.into_iter().map(|(text, files)| (text, name(files))).collect();
        NameResolver { source, default, names }
    }

    /// The certificate for a name, and the entry that matched: the name itself, or `*` in place of
    /// its first label.
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

    /// Reads the files of all names in order and returns the valid ones. The first invalid ones are
    /// reported, and the others counted.
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
        report_first(
            notices,
            broken,
            "names are served with the default certificate, because their files are not in order",
        );
        report_first(
            notices,
            unasked,
            "names have files that are not used, because no client can ask for them",
        );
        report_first(notices, remarks, "messages about the files of certificates by name");
        good
    }
}

/// Whether a client can request a name or, if it begins with `*.`, a name that matches it.
/// [`NameResolver::find`] ignores the dot at the end of a requested name.
fn can_be_asked_for(name: &str) -> bool {
    let asked = match name.strip_prefix("*.") {
        Some(rest) => format!("a.{rest}"),
        None => name.to_owned(),
    };
    !name.ends_with('.') && matches!(ServerName::try_from(asked), Ok(ServerName::DnsName(_)))
}

/// Reports the first of many notices, and how many more there are.
fn report_first(notices: &mut Notices, mut all: Notices, of_what: &str) {
    let more = all.len().saturating_sub(FIRST);
    all.truncate(FIRST);
    notices.append(&mut all);
    if more > 0 {
        notices.push(format!("{more} more {of_what}"));
    }
}

/// This many are reported singly.
const FIRST: usize = 5;

impl ResolvesServerCert for NameResolver {
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
