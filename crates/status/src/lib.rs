//! What pen is doing at one moment, for everybody who looks: page, metrics, JSON and terminal.
//!
//! The supervisor fills a [`Status`]. Its encodings are two: JSON for programs, and the binary
//! codec between processes of one release. Everything here is pure: no clock, no file, no socket.

#![forbid(unsafe_code)]

pub mod event;
mod health;
pub mod histogram;
pub mod metrics;
pub mod page;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
mod status;
pub mod words;

pub use crate::status::{
    CertificateStatus, ChangeResult, CheckState, CheckStatus, Counts, FollowedRecord, History,
    LastChange, LastFailure, LookupStatus, Mode, OldWorkerStatus, ReasonCount, RecordState,
    ServerState, ServerStatus, ServerTlsStatus, Status, TlsCounts, TlsHandshakes, Verify,
    WorkerStatus,
};
