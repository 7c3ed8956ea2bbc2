//! Periodic TLS work: replace ticket secrets, read renewed files again, and warn of certificates
//! that expire.

#![forbid(unsafe_code)]

use std::time::Instant;

use crate::event_loop::Supervisor;
use crate::files::tls_material::READING;
use crate::log::errno::why;

impl Supervisor {
    /// Does the TLS work that is due.
    pub(in crate::event_loop) fn keep_keys(&mut self, now: Instant) {
        let Some(keys) = &mut self.context.keys else { return };
        if keys.rotation <= now {
            match keys.rotate(now) {
                Ok(()) => self.pool.workers_mut().for_each(|worker| worker.renew_secret()),
                Err(error) => {
                    self.logger.warning(&format!(
                        "TLS: no new ticket secret now: {}; tried again in a minute",
                        why(&error)
                    ));
                }
            }
        }
        // The loop wakes for the TLS files at least once an hour, which is soon enough for the
        // warnings.
        keys.certificates.warnings(now).iter().for_each(|warning| self.logger.warning(warning));
        if keys.reading <= now {
            keys.reading = now + READING;
            let tls = &self.context.settings.tls;
            if tls.names.is_some() || tls.ocsp.is_some() {
                self.queue.reread_tls();
            }
        }
    }
}
