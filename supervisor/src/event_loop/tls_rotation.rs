//! What has to be done about TLS as time goes by: ticket secrets are replaced, files that others
//! renew are read again, and certificates that expire are told of.

#![forbid(unsafe_code)]

use std::time::Instant;

use crate::event_loop::Service;
use crate::files::tls_material::READING;
use crate::log::errno::why;

impl Service {
    /// Does what is due.
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
        // The loop wakes for the files at least once an hour, which is soon enough.
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
