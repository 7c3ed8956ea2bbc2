//! TLS towards clients.

mod certificates;
mod clients;
mod keys;
mod names;
mod resumption;
mod sessions;
