//! The messages between the supervisor and its children: one enum per direction and phase.
//!
//! The messages of a worker cannot express a command. So a worker under an attacker's control can
//! only report false data about itself.
//!
//! Processes of one release speak to each other, `lasting` apart: an upgrade leaves workers of the
//! earlier release.

mod checker;
mod control;
mod event;
mod lasting;
mod page;
mod worker;

pub use self::checker::{FromChecker, RESULTS_PER_MESSAGE, ToChecker};
pub use self::control::{FromControl, Operator, Outcome, SHORT_REPLY, ToControl};
pub use self::event::{
    CertificateFault, ConnectFailure, Event, HandshakeFailure, LimitsFault, Obstacle,
    PeerCertificate, PerClientLimit, SenderFault, ShortageDuring,
};
pub use self::lasting::{
    ClientLimits, ClosedServer, ConnectionLogKind, FromOldPort, FromOldWorker, LASTING_VERSION,
    LastingCounters, LastingFromWorker, LastingToWorker, Rebalance, ToOldWorker,
    WITH_CLIENT_LIMITS, WITH_CONNECTION_LOG, WITH_REBALANCE, WITH_SERVER_ORDERS,
};
pub use self::page::{FromPage, ToPage};
pub use self::worker::{
    CONNECTIONS_PER_PAGE, EXPLANATION, FromStartingWorker, FromWorker, ReportPage, ToWorker,
};
