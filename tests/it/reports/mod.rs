//! Reports, the request log, the connection log, debug output.

mod connection_log;
mod debug;
mod request_log;
mod status;
