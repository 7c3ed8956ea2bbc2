//! Clients, servers, and the bytes between them.

mod addresses;
mod blacklist;
mod bytes;
mod crowded;
mod floods;
mod limits;
mod names;
mod places;
mod proxy_protocol;
mod selection;
mod servers_in_trouble;
mod stickiness;
