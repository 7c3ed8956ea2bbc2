//! What has to be done about TLS as time goes by: ticket secrets are replaced, and files that others renew are read again.

#![forbid(unsafe_code)]

use std::time::Instant;

use super::Service;
use crate::keys::READING;
use crate::why::why;

impl Service {
    /// Does what is due.
    pub(super) fn keep_keys(&mut self, now: Instant) {
        let Some(keys) = &mut self.inheritance.keys else { return };
        if keys.rotation <= now {
            match keys.rotate(now) {
                Ok(()) => self.crew.workers_mut().for_each(|worker| worker.renew_secret()),
                Err(error) => {
                    self.say
                        .warning(&format!("TLS: no new ticket secret now: {}; tried again in a minute", why(&error)));
                }
            }
        }
        if keys.reading <= now {
            keys.reading = now + READING;
            let tls = &self.inheritance.settings.tls;
            if tls.names.is_some() || tls.ocsp.is_some() {
                self.desk.reread_tls();
            }
        }
    }
}
