//! Certificates and keys as bytes: DER, PEM, what a certificate says, chains, and signing. Pure.

pub(crate) mod certificate;
pub(crate) mod chain;
pub(crate) mod der;
pub(crate) mod name;
pub(crate) mod pem;
pub(crate) mod signing;
