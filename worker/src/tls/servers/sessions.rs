//! Sessions with one server that later connections resume. Their number is bounded.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Most tickets of TLS 1.3. Each is good for one connection, and each connection gets one or two
/// new ones. So this many connections may begin at once.
const MOST: usize = 32;

/// The sessions with a server. Only one thread uses them.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The name under which they began. Under another one they are not resumed.
    name: Option<ServerName<'static>>,
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    /// The newest at the end.
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").field("tickets", &self.tls13.len()).finish_non_exhaustive()
    }
}

impl Sessions {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept under this name. What was kept under another one is dropped.
    fn under(&self, name: ServerName<'static>) -> MutexGuard<'_, Kept> {
        let mut kept = self.kept();
        if kept.name.as_ref() != Some(&name) {
            *kept = Kept { name: Some(name), ..Kept::default() };
        }
        kept
    }

    /// What is kept, if it is under this name.
    fn of(&self, name: &ServerName<'_>) -> Option<MutexGuard<'_, Kept>> {
        let kept = self.kept();
        (kept.name.as_ref() == Some(name)).then_some(kept)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.under(name).group = Some(group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.of(name)?.group
    }

    fn set_tls12_session(&self, name: ServerName<'static>, session: Tls12ClientSessionValue) {
        self.under(name).tls12 = Some(session);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.of(name)?.tls12.clone()
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        if let Some(mut kept) = self.of(name) {
            kept.tls12 = None;
        }
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut kept = self.under(name);
        if kept.tls13.len() >= MOST {
            kept.tls13.pop_front();
        }
        kept.tls13.push_back(ticket);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.of(name)?.tls13.pop_back()
    }
}
