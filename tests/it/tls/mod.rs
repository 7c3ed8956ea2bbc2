//! TLS towards clients and towards servers.

mod certificates;
mod clients;
mod keys;
mod names;
mod resumption;
mod servers;
mod sessions;
