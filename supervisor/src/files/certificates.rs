//! The certificates of TLS, as an examiner found them in the files (`examine`), and the warnings
//! about those that have expired or will soon.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use pen_ipc::text::date_time;
use pen_ipc::tls_files::{Fact, Purpose};
use pen_status::event::EventKind;
use time::OffsetDateTime;

use crate::log::recent::Incident;

/// The certificates, and when to check them next.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub(crate) facts: Vec<Fact>,
    /// How many [`THRESHOLDS`] of each were told.
    told: Vec<u8>,
    /// When to warn the administrator again.
    due: Instant,
    /// HUP requested the next reading, so warnings are due at once.
    asked: bool,
}

impl Certificates {
    /// The certificates of a start, which has logged the warnings.
    pub(crate) fn new(facts: Vec<Fact>, now: Instant) -> Certificates {
        Certificates { told: vec![0; facts.len()], facts, due: now + DAY, asked: false }
    }

    /// The certificates that an earlier program in this process found, and when to warn again.
    pub(crate) fn adopted(facts: Vec<Fact>, mut told: Vec<u8>, due: Instant) -> Certificates {
        told.resize(facts.len(), 0);
        Certificates { facts, told, due, asked: false }
    }

    /// How many thresholds of each certificate were told.
    pub(crate) fn told(&self) -> &[u8] {
        &self.told
    }

    /// When to warn the administrator again.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Notes that HUP requested the next reading of the files.
    pub(crate) fn ask(&mut self) {
        self.asked = true;
    }

    /// Takes the certificates of files that were read again. Warnings are due at once if somebody
    /// requested the reading.
    pub(crate) fn replace(&mut self, facts: Vec<Fact>, asked: bool, now: Instant) {
        let known: HashMap<_, u8> =
            self.facts.iter().map(identity).zip(self.told.iter().copied()).collect();
        let told = facts.iter().map(|fact| known.get(&identity(fact)).copied().unwrap_or(0));
        self.told = told.collect();
        self.facts = facts;
        if std::mem::take(&mut self.asked) || asked {
            self.due = now;
        }
    }

    /// Compares with the certificates of files that were read again. Returns a phrase for each
    /// certificate that was renewed, is new or is gone, chains and authorities included.
    pub(crate) fn renewed(&self, read: &[Fact]) -> Vec<String> {
        let mut new = beyond(read, &self.facts);
        let mut phrases = Vec::new();
        for old in beyond(&self.facts, read) {
            let line =
                match new.iter().position(|new| follows(new, old)).map(|index| new.remove(index)) {
                    Some(new) => {
                        format!("certificate renewed: {} in {}{}", new.name, new.file, until(new))
                    }
                    None => format!("certificate gone: {} in {}", old.name, old.file),
                };
            phrases.push((old, line));
        }
        phrases.extend(new.iter().map(|new| {
            (*new, format!("certificate new: {} in {}{}", new.name, new.file, until(new)))
        }));
        // Only the first of many are logged. Server certificates come first, because clients see
        // them.
        phrases.sort_by_key(|(fact, _)| !matches!(fact.purpose, Purpose::Server(_)));
        phrases.into_iter().map(|(_, line)| line).collect()
    }

    /// The certificates that have passed a threshold since the last call: each one once for each
    /// threshold.
    pub(crate) fn expiring(&mut self, unix: i64) -> Vec<Expiring> {
        let mut expiring = Vec::new();
        let mut more = 0;
        for (fact, told) in self.facts.iter().zip(&mut self.told) {
            let passed = fact.not_after.map_or(0, |end| passed(end - unix));
            // A clock that is set back tells nothing twice.
            if *told >= passed {
                continue;
            }
            *told = passed;
            match warning(fact, unix) {
                Some(line) if expiring.len() < MOST_WARNINGS => {
                    expiring.push(Expiring { line, incident: incident(fact, unix) });
                }
                Some(_) | None => more += 1,
            }
        }
        if more > 0 {
            let incident = Incident::of(EventKind::CertificateExpires).with("certificates", more);
            expiring.push(Expiring { line: and_more(more), incident });
        }
        expiring
    }

    /// The warnings that are due: once a day.
    pub(crate) fn warnings(&mut self, now: Instant) -> Vec<String> {
        if now < self.due {
            return Vec::new();
        }
        self.due = now + DAY;
        warnings(&self.facts, OffsetDateTime::now_utc().unix_timestamp())
    }
}

/// A certificate that has passed a threshold.
#[derive(Debug)]
pub(crate) struct Expiring {
    /// The warning about it.
    pub(crate) line: String,
    /// The same for programs.
    pub(crate) incident: Incident,
}

/// How many thresholds are passed with so many seconds left.
fn passed(left: i64) -> u8 {
    THRESHOLDS.iter().map(|threshold| u8::from(left < *threshold)).sum()
}

fn incident(fact: &Fact, unix: i64) -> Incident {
    let used = match &fact.purpose {
        Purpose::Server(_) => "server",
        Purpose::Chain(_) => "chain",
        Purpose::Authority(_) => "authority",
        Purpose::Client => "client",
        Purpose::ClientChain => "client_chain",
        Purpose::ServerAuthority => "server_authority",
    };
    Incident::of(EventKind::CertificateExpires)
        .with("certificate", fact.name.as_str())
        .with("file", fact.file.as_str())
        .with("used", used)
        .with_if("days", fact.not_after.map(|end| (end - unix).div_euclid(86_400)))
        .with_if("expires", fact.not_after)
}

/// The certificates in `these` that are not in `others`, duplicates counted.
fn beyond<'f>(these: &'f [Fact], others: &[Fact]) -> Vec<&'f Fact> {
    let mut known: HashMap<_, usize> = HashMap::new();
    others.iter().for_each(|fact| *known.entry(identity(fact)).or_default() += 1);
    let mut beyond = Vec::new();
    for fact in these {
        match known.get_mut(&identity(fact)).filter(|count| **count > 0) {
            Some(count) => *count -= 1,
            None => beyond.push(fact),
        }
    }
    beyond
}

/// The fields that tell one certificate from another.
fn identity(fact: &Fact) -> (&str, (u8, Option<&str>), &str, &str, Option<i64>) {
    (&fact.file, what_for(&fact.purpose), &fact.issuer, &fact.serial, fact.not_after)
}

fn what_for(purpose: &Purpose) -> (u8, Option<&str>) {
    match purpose {
        Purpose::Server(name) => (0, name.as_deref()),
        Purpose::Chain(name) => (1, name.as_deref()),
        Purpose::Authority(name) => (2, name.as_deref()),
        Purpose::Client => (3, None),
        Purpose::ClientChain => (4, None),
        Purpose::ServerAuthority => (5, None),
    }
}

/// Whether `new` replaces `old`. A file has one server certificate; for others the name decides.
fn follows(new: &Fact, old: &Fact) -> bool {
    let is_own = matches!(new.purpose, Purpose::Server(_) | Purpose::Client);
    new.file == old.file
        && what_for(&new.purpose) == what_for(&old.purpose)
        && (is_own || new.name == old.name)
}

/// The end of a certificate's validity, if it is known.
fn until(fact: &Fact) -> String {
    fact.not_after.map_or(String::new(), |end| format!(" until {}", moment(end)))
}

/// A line for each certificate that has expired, will expire within two weeks, or is not valid yet.
pub(crate) fn warnings(facts: &[Fact], now: i64) -> Vec<String> {
    let mut wrong = facts.iter().filter_map(|fact| warning(fact, now));
    let mut lines: Vec<String> = wrong.by_ref().take(MOST_WARNINGS).collect();
    let more = wrong.count();
    if more > 0 {
        lines.push(and_more(i64::try_from(more).unwrap_or(i64::MAX)));
    }
    lines
}

fn and_more(more: i64) -> String {
    format!(
        "{more} more certificates have expired or soon will; the command certificates lists them"
    )
}

fn warning(fact: &Fact, now: i64) -> Option<String> {
    let state = match (fact.not_before, fact.not_after) {
        (_, Some(end)) if end < now => format!("has expired: it was valid until {}", moment(end)),
        (Some(begin), _) if begin > now => format!("is not valid yet: only from {}", moment(begin)),
        (_, Some(end)) if end - now < SOON => {
            format!("expires in {}, at {}", left(end - now), moment(end))
        }
        _ => return None,
    };
    let what = match &fact.purpose {
        Purpose::Server(_) => "the certificate",
        Purpose::Chain(_) => "the certificate in the chain",
        Purpose::Authority(_) => "the authority's certificate",
        Purpose::Client => "the certificate for servers",
        Purpose::ClientChain => "the certificate in the chain for servers",
        Purpose::ServerAuthority => "the certificate of the servers' authority",
    };
    Some(format!("{}: {what} of '{}' {state}", fact.file, fact.name))
}

/// `2026-11-24 04:10:21 UTC`
pub(crate) fn moment(unix: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix)
        .map_or_else(|_| unix.to_string(), |time| date_time(time) + " UTC")
}

/// A remaining time in days, or in hours if it is less than two days.
pub(crate) fn left(seconds: i64) -> String {
    match seconds {
        ..3600 => "less than an hour".to_owned(),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Seconds before its end at which the warnings for a certificate begin.
const SOON: i64 = 14 * 86_400;

/// The seconds before its end at which a certificate becomes an event, and the end itself.
const THRESHOLDS: [i64; 4] = [SOON, 7 * 86_400, 86_400, 0];

/// The interval of the warnings.
const DAY: Duration = Duration::from_secs(86_400);

/// Most certificates with a warning of their own.
const MOST_WARNINGS: usize = 20;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn fact(not_before: i64, not_after: i64) -> Fact {
        Fact {
            file: "/etc/www.pem".into(),
            purpose: Purpose::Server(None),
            name: "CN=www".into(),
            issuer: "CN=Test \"CA\"".into(),
            serial: "0A".into(),
            not_before: Some(not_before),
            not_after: Some(not_after),
            key: "ECDSA P-256".into(),
        }
    }

    const NOW: i64 = 1_793_592_621;

    #[test]
    fn warnings_are_of_what_expired_soon_will_or_is_not_valid_yet() {
        let says = |begin: i64, end: i64| warnings(&[fact(NOW + begin, NOW + end)], NOW).join("\n");
        assert_eq!(says(-9, SOON), "");
        assert_eq!(
            says(-9, SOON - 1),
            "/etc/www.pem: the certificate of 'CN=www' expires in 13 days, at 2026-11-16 04:10:20 \
             UTC"
        );
        assert!(says(-9, 7300).contains("expires in 2 h, at "));
        assert!(says(-9, 0).contains("expires in less than an hour"));
        assert_eq!(
            says(-9, -1),
            "/etc/www.pem: the certificate of 'CN=www' has expired: it was valid until 2026-11-02 \
             04:10:20 UTC"
        );
        assert!(says(9, 99).contains("is not valid yet: only from 2026-11-02 04:10:30 UTC"));
        assert_eq!(warnings(&[Fact { not_after: None, ..fact(NOW, NOW) }], NOW), [""; 0]);
        let many = vec![fact(0, 1); 30];
        let lines = warnings(&many, NOW);
        assert!(lines.len() == 21 && lines[20].starts_with("10 more certificates"), "{lines:?}");
    }

    #[test]
    fn a_certificate_is_an_event_once_for_each_threshold() {
        let now = Instant::now();
        let other = Fact { serial: "0B".into(), ..fact(0, NOW + 99 * DAYS) };
        let mut certificates = Certificates::new(vec![fact(0, NOW), other.clone()], now);
        let told = |certificates: &mut Certificates, days: i64| {
            certificates.expiring(NOW - days * DAYS).into_iter().map(|told| told.line).collect()
        };
        let mut lines = Vec::new();
        for days in [20, 14, 13, 8, 7, 6, 5, 1, 0, -1, -2] {
            let new: Vec<String> = told(&mut certificates, days);
            lines.extend(new.iter().map(|_| days));
        }
        assert_eq!(lines, [13, 6, 0, -1]);
        // Read again, it is the same certificate, and another one after it was renewed.
        certificates.replace(vec![other.clone(), fact(0, NOW)], false, now);
        assert_eq!(told(&mut certificates, -3), [""; 0]);
        let carried = Certificates::adopted(
            certificates.facts.clone(),
            certificates.told().to_vec(),
            certificates.due(),
        );
        assert_eq!(told(&mut { carried }, -3), [""; 0]);
        certificates.replace(vec![other, fact(0, NOW + DAYS)], false, now);
        assert_eq!(told(&mut certificates, 1).len(), 1);
        let mut many = Certificates::new(vec![fact(0, 1); 30], now);
        assert_eq!(told(&mut many, 0).len(), MOST_WARNINGS + 1);
        assert_eq!(told(&mut many, 0), [""; 0]);
    }

    const DAYS: i64 = 86_400;

    #[test]
    fn certificates_that_are_new_or_gone_are_reported() {
        let (old, now) = (fact(NOW, NOW), Instant::now());
        let chain = |serial: &str| Fact {
            purpose: Purpose::Chain(None),
            serial: serial.into(),
            name: "CN=Int".into(),
            ..fact(NOW, NOW)
        };
        let certificates = Certificates::new(vec![old.clone(), chain("01")], now);
        assert_eq!(certificates.renewed(&[old.clone(), chain("01")]), [""; 0]);
        let until = "in /etc/www.pem until 2026-11-02 04:10:21 UTC";
        let new = Fact { serial: "0B".into(), ..old.clone() };
        let renewed = |name: &str| format!("certificate renewed: CN={name} {until}");
        let gone = |name: &str| format!("certificate gone: CN={name} in /etc/www.pem");
        assert_eq!(certificates.renewed(&[new.clone(), chain("01")]), [renewed("www")]);
        assert_eq!(
            certificates.renewed(&[new.clone(), chain("02")]),
            [renewed("www"), renewed("Int")]
        );
        assert_eq!(
            certificates.renewed(&[new]),
            [renewed("www"), gone("Int")],
            "the chain is lost"
        );
        let other = Fact { name: "CN=CA".into(), ..chain("02") };
        assert_eq!(
            certificates.renewed(&[old.clone(), other]),
            [gone("Int"), format!("certificate new: CN=CA {until}")]
        );
        assert_eq!(certificates.renewed(std::slice::from_ref(&old)), [gone("Int")]);
        let twice = [old, chain("01"), chain("01")];
        assert_eq!(certificates.renewed(&twice), [format!("certificate new: CN=Int {until}")]);
        assert_eq!(certificates.renewed(&[]), [gone("www"), gone("Int")]);
    }

    #[test]
    fn warnings_are_due_once_a_day_and_after_a_request() {
        let now = Instant::now();
        let mut certificates = Certificates::new(vec![fact(0, 1)], now);
        assert!(certificates.warnings(now + DAY / 2).is_empty(), "the start has warned already");
        assert_eq!(certificates.warnings(now + DAY).len(), 1);
        assert!(certificates.warnings(now + DAY).is_empty());
        certificates.replace(vec![fact(0, 1)], false, now + DAY);
        assert!(
            certificates.warnings(now + DAY).is_empty(),
            "the files were read without being asked for"
        );
        certificates.ask();
        certificates.replace(vec![fact(0, 1)], false, now + DAY);
        assert_eq!(certificates.warnings(now + DAY).len(), 1);
        assert!(certificates.warnings(now + DAY + DAY / 2).is_empty());
        assert_eq!(certificates.warnings(now + DAY + DAY).len(), 1);
    }
}
