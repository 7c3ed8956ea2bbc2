//! One line of the control port: it is a command that shows as itself and takes effect or not at all, or an error of one line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_config::apply;
use pen_config::command::{self, Command};
use pen_config::configuration::Names;
use pen_config::settings::Settings;

fuzz_target!(|line: &str| {
    let command = match command::parse(line) {
        Ok(command) => command,
        Err(why) => return assert!(!why.to_string().contains(['\n', '\r', '\0'])),
    };
    assert!(command::is_well_formed(&command));
    let before = Settings { servers: vec![None; 16], ..Settings::default() };
    let mut after = before.clone();
    match apply::apply(&mut after, &command, &Names::default(), Some(80)) {
        Ok(()) if matches!(command, Command::Acl { .. }) => assert_ne!(after, before),
        Ok(()) => {
            let once = after.clone();
            assert_eq!(apply::apply(&mut after, &command, &Names::default(), Some(80)), Ok(()));
            assert_eq!(after, once);
        }
        Err(why) => {
            assert!(!why.contains('\n'));
            assert_eq!(after, before);
        }
    }
});
