//! The variable that tells a program what it is executed for.
//!
//! Whoever starts pen can set it, and gains nothing: the state must be in sealed memory, and every
//! descriptor and child in it must be one of this process.

#![forbid(unsafe_code)]

use std::os::fd::RawFd;

/// What the variable says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Marker {
    pub(crate) role: Role,
    /// The descriptor of the state.
    pub(crate) state: RawFd,
    /// The descriptor of the memory for the reason of a failure.
    pub(crate) report: RawFd,
}

/// The role of a program that is executed by a pen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// It takes over.
    Successor,
    /// It was there before, and gets the process back because its successor failed.
    Predecessor,
}

impl Marker {
    /// The name of the variable.
    pub(crate) const VARIABLE: &str = "PEN_HANDOVER";

    /// The value of the variable.
    pub(crate) fn text(&self) -> String {
        let role = match self.role {
            Role::Successor => "to",
            Role::Predecessor => "back",
        };
        format!("{role} {} {}", self.state, self.report)
    }

    /// What a value says; none: nothing that a pen wrote.
    pub(crate) fn parse(text: &str) -> Option<Marker> {
        let mut words = text.split(' ');
        let role = match words.next()? {
            "to" => Role::Successor,
            "back" => Role::Predecessor,
            _ => return None,
        };
        let mut number = || words.next()?.parse::<RawFd>().ok().filter(|number| *number > 2);
        let (state, report) = (number()?, number()?);
        words.next().is_none().then_some(Marker { role, state, report })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_comes_back_and_nothing_else_is_one() {
        for role in [Role::Successor, Role::Predecessor] {
            let marker = Marker { role, state: 5, report: 77 };
            assert_eq!(Marker::parse(&marker.text()), Some(marker));
        }
        for text in ["", "to", "to 5", "to 5 6 7", "to 1 6", "to x 6", "on 5 6", "back 5 -6"] {
            assert_eq!(Marker::parse(text), None, "{text}");
        }
    }
}
