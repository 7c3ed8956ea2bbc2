//! What happened: the events that `events`, `watch`, the page and its event stream show. Their
//! texts are the same as in the log.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;

/// One event.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counts the events since pen was started, over upgrades. A gap shows that some are missing.
    pub id: u64,
    /// When it happened.
    pub time: EventTime,
    /// What kind it is.
    pub kind: EventKind,
    /// The line, as it is in the log.
    pub text: String,
    /// What the event is about, for programs.
    pub fields: BTreeMap<String, Field>,
}

/// A moment: milliseconds since 1970, UTC. In JSON it is a text as in RFC 3339, with milliseconds.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct EventTime(pub u64);

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// The kind of an event.
        #[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl EventKind {
            /// All kinds.
            pub const ALL: &[EventKind] = &[$(EventKind::$variant),*];

            /// The kind as one word.
            pub fn name(self) -> &'static str {
                match self {
                    $(EventKind::$variant => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// pen serves clients.
    Started = "started";
    /// pen ends.
    Stopping = "stopping";
    /// A server failed: it is left out for a time, or used all the same.
    ServerDown = "server_down";
    /// A server that had been left out is in use again.
    ServerUp = "server_up";
    /// A server is passed over, although it has not failed.
    ServerPassedOver = "server_passed_over";
    /// Another address of a server is in use.
    ServerAddress = "server_address";
    /// The name of servers has no answer any more.
    LookupFailed = "lookup_failed";
    /// A name that had no answer has one again.
    LookupWorks = "lookup_works";
    /// An operator or the configuration took a server out for a time, or brought it back.
    ServerState = "server_state";
    /// A server that drains has no connection left.
    ServerDrained = "server_drained";
    /// Silent connections of a server are ended, because it has more than its share, or it has no
    /// more than that again.
    ServerRebalanced = "server_rebalanced";
    /// A server's weight changed.
    ServerWeight = "server_weight";
    /// A server reached its limit of connections.
    ServerLimit = "server_limit";
    /// All connections under -x are in use.
    ConnectionsLimit = "connections_limit";
    /// Clients were closed because no server was usable for them.
    Unserved = "unserved";
    /// A worker, or the control or page process, died.
    WorkerDied = "worker_died";
    /// A worker, or the control or page process, was replaced.
    WorkerReplaced = "worker_replaced";
    /// The configuration was read again, and applies.
    Reloaded = "reloaded";
    /// The configuration was read again, and the old one stays in force.
    ReloadFailed = "reload_failed";
    /// An operator changed a setting.
    Setting = "setting";
    /// An operator did something else: closed a connection.
    Operator = "operator";
    /// pen goes on as another program.
    Upgraded = "upgraded";
    /// An upgrade failed, and the old program goes on.
    UpgradeFailed = "upgrade_failed";
    /// A certificate expires soon, or has expired.
    CertificateExpires = "certificate_expires";
    /// A resource of this machine ran short.
    Shortage = "shortage";
    /// Lines of a log were lost.
    LogLost = "log_lost";
    /// Something a client did that the log tells: a failed handshake, a refused request.
    ClientRefused = "client_refused";
    /// A client reached a limit per client.
    ClientLimit = "client_limit";
    /// Anything else that the log tells, and a kind that only another release knows.
    #[serde(other)]
    Other = "other";
}

/// A value of [`EventRecord::fields`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Field {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
}

impl From<&str> for Field {
    fn from(text: &str) -> Field {
        Field::Text(text.to_owned())
    }
}

impl From<String> for Field {
    fn from(text: String) -> Field {
        Field::Text(text)
    }
}

impl From<i64> for Field {
    fn from(number: i64) -> Field {
        Field::Number(number)
    }
}

impl From<u32> for Field {
    fn from(number: u32) -> Field {
        Field::Number(number.into())
    }
}

/// [`Field`] in the binary codec, which has to be told the type of a value.
#[derive(Serialize, Deserialize)]
enum BinaryField {
    Number(i64),
    Text(String),
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match (self, to.is_human_readable()) {
            (Field::Number(number), true) => to.serialize_i64(*number),
            (Field::Text(text), true) => to.serialize_str(text),
            (Field::Number(number), false) => BinaryField::Number(*number).serialize(to),
            (Field::Text(text), false) => BinaryField::Text(text.clone()).serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Field, D::Error> {
        struct Plain;
        impl Visitor<'_> for Plain {
            type Value = Field;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text")
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Field, E> {
                Ok(Field::Number(number))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Field, E> {
                i64::try_from(number).map(Field::Number).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Field, E> {
                Ok(Field::Text(text.to_owned()))
            }
        }
        match from.is_human_readable() {
            true => from.deserialize_any(Plain),
            false => Ok(match BinaryField::deserialize(from)? {
                BinaryField::Number(number) => Field::Number(number),
                BinaryField::Text(text) => Field::Text(text),
            }),
        }
    }
}

impl EventTime {
    /// The moment in whole seconds since 1970.
    pub fn seconds(self) -> i64 {
        (self.0 / 1000) as i64
    }

    /// The moment in the calendar, UTC; 1970 for what no calendar has.
    pub fn calendar(self) -> OffsetDateTime {
        let nanoseconds = i128::from(self.0) * 1_000_000;
        OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for EventTime {
    /// As in RFC 3339, with milliseconds, in UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.calendar();
        let (year, month, day) = time.to_calendar_date();
        let (hour, minute, second, milli) = time.to_hms_milli();
        let month = u8::from(month);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

impl Serialize for EventTime {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match to.is_human_readable() {
            true => to.collect_str(self),
            false => to.serialize_u64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for EventTime {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<EventTime, D::Error> {
        match from.is_human_readable() {
            true => parse(&String::deserialize(from)?)
                .ok_or_else(|| de::Error::custom("not a time like 2026-11-29T12:00:00.000Z")),
            false => u64::deserialize(from).map(EventTime),
        }
    }
}

/// Reads what [`EventTime`] prints, and nothing else.
fn parse(text: &str) -> Option<EventTime> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u16>().ok();
    let month = time::Month::try_from(u8::try_from(number(5, 7)?).ok()?).ok()?;
    let day = u8::try_from(number(8, 10)?).ok()?;
    let date = time::Date::from_calendar_date(number(0, 4)?.into(), month, day).ok()?;
    let [hour, minute, second] = [number(11, 13)?, number(14, 16)?, number(17, 19)?];
    let [hour, minute, second] = [hour, minute, second].map(|part| u8::try_from(part).ok());
    let clock = time::Time::from_hms_milli(hour?, minute?, second?, number(20, 23)?).ok()?;
    let nanoseconds = date.with_time(clock).assume_utc().unix_timestamp_nanos();
    let found = EventTime(u64::try_from(nanoseconds / 1_000_000).ok()?);
    (found.to_string() == text).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EventRecord {
        EventRecord {
            id: 7,
            time: EventTime(1_795_493_421_042),
            kind: EventKind::ServerDown,
            text: "blacklisting server 1 (10.0.0.1:80) for 30 s: connection refused".into(),
            fields: [("server", Field::Number(1)), ("reason", "connection refused".into())]
                .map(|(name, field): (&str, Field)| (name.to_owned(), field))
                .into(),
        }
    }

    #[test]
    fn json_has_plain_values() {
        let json = serde_json::to_value(record()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "id": 7, "time": "2026-11-24T04:10:21.042Z", "kind": "server_down",
                "text": "blacklisting server 1 (10.0.0.1:80) for 30 s: connection refused",
                "fields": { "server": 1, "reason": "connection refused" }
            })
        );
        assert_eq!(serde_json::from_value::<EventRecord>(json).unwrap(), record());
    }

    #[test]
    fn the_binary_codec_gives_back_what_it_got() {
        let config = bincode::config::standard();
        let bytes = bincode::serde::encode_to_vec(record(), config).unwrap();
        let (read, used): (EventRecord, usize) =
            bincode::serde::decode_from_slice(&bytes, config).unwrap();
        assert_eq!((read, used), (record(), bytes.len()));
    }

    #[test]
    fn only_exact_times_are_read() {
        for time in [0, 951_782_400_000, 1_795_493_421_042, 253_402_300_799_999] {
            let json = serde_json::to_string(&EventTime(time)).unwrap();
            assert_eq!(serde_json::from_str::<EventTime>(&json).unwrap(), EventTime(time));
        }
        for text in ["", "2026-13-24T04:10:21.042Z", "2026-11-24 04:10:21.042Z", "2026-11-24"] {
            assert_eq!(parse(text), None);
        }
        assert_eq!(EventTime(u64::MAX).to_string(), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn each_kind_is_documented() {
        let document = include_str!("../../../docs/commands.md");
        let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let words: Vec<&str> = rows.map(|(word, _)| word).collect();
        for kind in EventKind::ALL {
            assert!(words.contains(&kind.name()), "{}", kind.name());
        }
    }

    #[test]
    fn a_kind_has_one_name() {
        let config = bincode::config::standard();
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(serde_json::from_value::<EventKind>(kind.name().into()).unwrap(), *kind);
            let bytes = bincode::serde::encode_to_vec(kind, config).unwrap();
            let (read, _): (EventKind, usize) =
                bincode::serde::decode_from_slice(&bytes, config).unwrap();
            assert_eq!(read, *kind);
        }
        let unknown = serde_json::from_value::<EventKind>("of_a_later_release".into());
        assert_eq!(unknown.unwrap(), EventKind::Other);
    }
}
