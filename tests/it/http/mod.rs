//! `-H`: the client's address in every request.

mod forwarded_for;
mod servers;
