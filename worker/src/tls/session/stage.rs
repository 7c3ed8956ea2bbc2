//! How far a session has come before and in its handshake: with a client, the requested name
//! decides by which configuration it goes on.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::{CommonState, ProtocolVersion};

use crate::tls::hello::{Hello, look};
use crate::tls::keyring::Keyring;
use crate::tls::resumption::Sessions;
use crate::tls::session::INCOMPLETE;
use crate::tls::transcript::hide;

/// The peer, and how far the session with it has come.
pub(super) enum SessionStage {
    /// The peer is a client whose hello is awaited: the requested name decides which configuration
    /// is used.
    Choosing(Arc<Keyring>),
    /// The peer is a client.
    Serving(UnbufferedServerConnection, NameShown),
    /// The peer is a server.
    Asking(Asking),
}

/// The library's part of a session with a server, and the store of its tickets.
pub(super) struct Asking {
    pub(super) tls: UnbufferedClientConnection,
    pub(super) sessions: Arc<Sessions>,
}

/// The name that a client asked for.
#[derive(Debug, Default)]
pub(super) enum RequestedName {
    /// Nobody will ask for it.
    #[default]
    Dropped,
    /// It is kept, if there is one.
    Kept(Option<String>),
}

/// The requested server name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NameShown {
    /// rustls gets it as the client sent it.
    Shown,
    /// It is not valid and was hidden from rustls. It is hidden again if the client must send
    /// another hello.
    Hidden,
}

/// The library's part of a session that has begun.
pub(super) enum Engine<'s> {
    Server(&'s mut UnbufferedServerConnection),
    Client(&'s mut Asking),
}

impl SessionStage {
    /// The library's state; none before a client's hello.
    pub(super) fn common(&self) -> Option<&CommonState> {
        match self {
            SessionStage::Choosing(_) => None,
            SessionStage::Serving(tls, _) => Some(tls),
            SessionStage::Asking(asking) => Some(&asking.tls),
        }
    }

    /// The library's part. That for a client is created when the client's hello is complete. None:
    /// it is not yet.
    ///
    /// # Errors
    /// The configuration cannot serve any client.
    pub(super) fn begin(
        &mut self,
        records: &mut [u8],
        requested: &mut RequestedName,
    ) -> Result<Option<Engine<'_>>, rustls::Error> {
        match self {
            SessionStage::Asking(_) => {}
            SessionStage::Choosing(keyring) => {
                let (config, name) = match look(records) {
                    Hello::Incomplete if records.len() < INCOMPLETE => return Ok(None),
                    Hello::Illegal(slots) => {
                        hide(records, slots);
                        (keyring.nameless(), NameShown::Hidden)
                    }
                    Hello::For(name) => {
                        let config = keyring.config(Some(&name));
                        if let RequestedName::Kept(kept) = requested {
                            *kept = Some(name);
                        }
                        (config, NameShown::Shown)
                    }
                    // Bytes that are not a hello cause their error in any configuration.
                    Hello::Nameless | Hello::Other | Hello::Incomplete => {
                        (keyring.config(None), NameShown::Shown)
                    }
                };
                *self =
                    SessionStage::Serving(UnbufferedServerConnection::new(config.clone())?, name);
            }
            SessionStage::Serving(_, NameShown::Shown) => {}
            // TLS 1.2 has no second hello.
            SessionStage::Serving(tls, name)
                if tls.protocol_version() == Some(ProtocolVersion::TLSv1_2) =>
            {
                *name = NameShown::Shown
            }
            SessionStage::Serving(_, name) => match look(records) {
                Hello::Incomplete if records.len() < INCOMPLETE => return Ok(None),
                Hello::Illegal(slots) => {
                    hide(records, slots);
                    *name = NameShown::Shown;
                }
                Hello::Nameless | Hello::For(_) | Hello::Other | Hello::Incomplete => {
                    *name = NameShown::Shown
                }
            },
        }
        match self {
            SessionStage::Choosing(_) => Ok(None),
            SessionStage::Serving(tls, _) => Ok(Some(Engine::Server(tls))),
            SessionStage::Asking(asking) => Ok(Some(Engine::Client(asking))),
        }
    }
}
