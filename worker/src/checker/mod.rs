//! The checker: asks servers whether they are well. One process for all workers; none without
//! checks. It sees no client. What servers send is not trusted.

pub mod kinds;
pub mod schedule;
pub mod verdict;
