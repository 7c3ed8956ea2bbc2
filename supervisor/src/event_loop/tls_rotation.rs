//! Periodic TLS work: replace ticket secrets, read renewed files again, and warn of certificates
//! that expire.

#![forbid(unsafe_code)]

use std::time::Instant;

use pen_ipc::text::error_text;
use time::OffsetDateTime;

use crate::event_loop::Supervisor;
use crate::files::certificates::Expiring;
use crate::files::tls_material::READING;
use crate::kept::state::End;
use crate::log::Severity;

impl Supervisor {
    /// Logs a warning of the start. If it is about a certificate, that is an event.
    pub(crate) fn warn_at_start(&mut self, notices: &[String]) {
        let unix = OffsetDateTime::now_utc().unix_timestamp();
        let mut expiring = Vec::new();
        for certificates in self.context.certificates_mut() {
            expiring.extend(certificates.expiring(unix));
        }
        for notice in notices {
            match expiring.iter().position(|expiring| expiring.line == *notice) {
                Some(index) => {
                    let Expiring { line, incident } = expiring.remove(index);
                    self.logger.event(Severity::Warning, incident, &line);
                }
                None => self.logger.warning(notice),
            }
        }
        // The warnings about others were summed up, or changed with the time.
        for Expiring { line, incident } in expiring {
            self.logger.event(Severity::Warning, incident, &line);
        }
    }

    /// Warns of certificates that expire. The loop wakes for the TLS files at least once an hour,
    /// which is soon enough.
    pub(in crate::event_loop) fn warn_of_certificates(&mut self, now: Instant) {
        let unix = OffsetDateTime::now_utc().unix_timestamp();
        let (mut expiring, mut warnings) = (Vec::new(), Vec::new());
        for certificates in self.context.certificates_mut() {
            expiring.extend(certificates.expiring(unix));
            warnings.extend(certificates.warnings(now));
        }
        for warning in warnings {
            if expiring.iter().all(|expiring| expiring.line != warning) {
                self.logger.remind(&warning);
            }
        }
        for Expiring { line, incident } in expiring {
            self.logger.event(Severity::Warning, incident, &line);
        }
        if let Some(keys) = &mut self.context.server_keys
            && keys.looking <= now
        {
            keys.looking = now + READING;
        }
    }

    /// Does the TLS work that is due.
    pub(in crate::event_loop) fn keep_keys(&mut self, now: Instant) {
        self.warn_of_certificates(now);
        let Some(keys) = &mut self.context.keys else { return };
        if keys.rotation <= now {
            match keys.rotate(now) {
                Ok(()) => {
                    self.pool.workers_mut().for_each(|worker| worker.renew_secret());
                    self.keep(End::Running);
                }
                Err(error) => {
                    self.logger.warning(&format!(
                        "TLS: no new ticket secret now: {}; tried again in a minute",
                        error_text(&error)
                    ));
                }
            }
        }
        let Some(keys) = &mut self.context.keys else { return };
        if keys.reading <= now {
            keys.reading = now + READING;
            let tls = &self.context.settings.tls;
            if tls.names.is_some() || tls.ocsp.is_some() {
                self.queue.reread_tls();
            }
        }
    }
}
