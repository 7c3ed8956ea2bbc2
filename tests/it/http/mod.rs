//! `-H`: who the client is, in every request.

mod forwarded_for;
mod servers;
