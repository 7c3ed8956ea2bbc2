//! Why `-H` refuses a request: the reasons with their counters, names, messages and response
//! status.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $text:literal;)*) => {
        /// Why a request was refused.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
        pub enum Refusal {
            $($(#[$doc])* $variant,)*
        }

        impl Refusal {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Refusal] = &[$(Refusal::$variant),*];

            /// The reason as one word, for programs.
            pub fn name(self) -> &'static str {
                match self {
                    $(Refusal::$variant => $name,)*
                }
            }

            /// The status of the response (RFC 9110, 15).
            pub fn status(self) -> u16 {
                match self {
                    $(Refusal::$variant => $status,)*
                }
            }

            fn text(self) -> &'static str {
                match self {
                    $(Refusal::$variant => $text,)*
                }
            }
        }
    };
}

// Workers of other releases send these numbers (`message::lasting`): append only.
refusals! {
    /// The first line is not a request line of HTTP/1.x: another protocol, HTTP/0.9, or misplaced
    /// bytes.
    NotHttp = "not_http", 400, "not an HTTP/1.x request line";
    /// A version of HTTP other than 1.0 and 1.1, HTTP/2 without negotiation included.
    Version = "version", 505, "version other than HTTP/1.0 and HTTP/1.1";
    /// A method that servers read differently: `head`, `connect`, or one that does not begin with a
    /// letter, digit or underscore.
    Method = "method", 501, "method that servers read differently";
    /// The target has no form that the method allows (RFC 9112, 3.2).
    Target = "target", 400, "malformed request target";
    /// A field line is malformed.
    Fields = "fields", 400, "malformed header field";
    /// Some lines end with CR LF and some with LF.
    LineEnds = "line_ends", 400, "line ends of two kinds";
    /// The head or the trailer section is too long, or has too many fields.
    TooLong = "too_long", 431, "header too long";
    /// Two Host fields.
    Host = "host", 400, "more than one Host";
    /// A length that is not a number, or several lengths.
    Length = "length", 400, "malformed or ambiguous length";
    /// A body longer than can be counted.
    TooLarge = "too_large", 413, "body longer than can be counted";
    /// A transfer coding in HTTP/1.0, or a malformed one.
    Coding = "coding", 400, "malformed Transfer-Encoding";
    /// A transfer coding other than chunked.
    UnknownCoding = "unknown_coding", 501, "transfer coding other than chunked";
    /// An expectation other than 100-continue.
    Expect = "expect", 417, "expectation other than 100-continue";
    /// A malformed Connection field, or one that names a field of the message itself.
    Connection = "connection", 400, "malformed Connection field";
    /// CONNECT or TRACE with a body.
    Body = "body", 400, "body with a method that has none";
    /// A malformed chunk.
    Chunk = "chunk", 400, "malformed chunk";
    /// A malformed trailer section.
    Trailer = "trailer", 400, "malformed trailer section";
    /// The client asked for a change of protocol while pen cannot follow the server's responses.
    Switch = "switch", 501, "change of protocol while answers cannot be followed";
    /// Too many requests without a response.
    TooMany = "too_many", 400, "too many requests without an answer";
    /// The head was not complete in time.
    Late = "late", 408, "header not whole in time";
}

/// The reason in words, for messages.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// How many requests were refused, by reason. Only grows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Refusals([u64; Refusal::ALL.len()]);

impl Refusals {
    /// Counts one refusal.
    pub fn count(&mut self, why: Refusal) {
        let count = &mut self.0[why as usize];
        *count = count.saturating_add(1);
    }

    /// The number of requests that were refused for a reason.
    pub fn of(&self, why: Refusal) -> u64 {
        self.0[why as usize]
    }

    /// Each reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.iter().map(|why| (*why, self.of(*why)))
    }

    /// Adds the counts of another worker. The sum saturates, because a worker may report any
    /// number.
    pub fn add(&mut self, other: &Refusals) {
        for (ours, theirs) in self.0.iter_mut().zip(other.0) {
            *ours = ours.saturating_add(theirs);
        }
    }
}

/// The counts by number, from the first reason on. A missing count is 0. A count without a reason
/// is dropped.
impl FromIterator<u64> for Refusals {
    fn from_iter<T: IntoIterator<Item = u64>>(counts: T) -> Refusals {
        let mut refusals = Refusals::default();
        for (ours, count) in refusals.0.iter_mut().zip(counts) {
            *ours = count;
        }
        refusals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_count_and_name() {
        let mut refusals = Refusals::default();
        for (index, why) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*why as usize, index);
            (0..=index).for_each(|_| refusals.count(*why));
            assert!(Refusal::ALL.iter().filter(|other| other.name() == why.name()).count() == 1);
            assert!((400..=505).contains(&why.status()));
        }
        let mut sum = refusals;
        sum.add(&refusals);
        assert!(sum.iter().enumerate().all(|(index, (_, count))| count == 2 * (index as u64 + 1)));
    }
}
