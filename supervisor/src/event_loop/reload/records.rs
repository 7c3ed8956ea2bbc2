//! The records of the names that servers follow, as a change of settings finds them.

#![forbid(unsafe_code)]

use pen_config::followed::{answered, unanswered};
use pen_config::names::Names;
use pen_config::settings::Settings;

use crate::event_loop::Supervisor;
use crate::event_loop::reload::configuration::{CommandSource, Configuration};

impl Supervisor {
    /// Gives the servers of the names in `names` their addresses. Returns notices about names
    /// without an answer: in a file, such a name is no error if it is asked for again.
    pub(in crate::event_loop::reload) fn assign_records(
        &self,
        configuration: &Configuration,
        settings: &mut Settings,
        names: &Names,
    ) -> Result<Vec<String>, Vec<String>> {
        let lines = unanswered(settings, names, configuration.commands.iter());
        match (&configuration.source, settings.resolve) {
            _ if lines.is_empty() => {}
            (CommandSource::File, 1..) => {}
            (CommandSource::File, 0)
            | (CommandSource::Setting(_, _) | CommandSource::Include(_), _) => return Err(lines),
        }
        let errors = answered(settings, names, |server| self.connections_of(server));
        match errors.is_empty() {
            true => Ok(lines.into_iter().map(|line| line + "; it is asked for again").collect()),
            false => Err(errors.into_iter().map(|error| error.0).collect()),
        }
    }
}
