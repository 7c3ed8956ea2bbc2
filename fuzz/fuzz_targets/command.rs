//! Input: a line of the control port. The result is an error of one line, or a command that takes
//! effect as a whole or not at all. Applied a second time, it changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pen_config::apply;
use pen_config::command::{self, Command, Setting};
use pen_config::names::Names;
use pen_config::settings::Settings;

fuzz_target!(|line: &str| {
    let command = match command::parse(line) {
        Ok(Some(command)) => command,
        Ok(None) => return,
        Err(why) => return assert!(!why.to_string().contains(['\n', '\r', '\0'])),
    };
    assert!(command::is_well_formed(&command));
    let Command::Setting(setting) = command else { return };
    let before = Settings { servers: vec![None; 16], ..Settings::default() };
    let mut after = before.clone();
    match apply::apply(&mut after, &setting, &Names::default(), Some(80)) {
        Ok(()) if matches!(setting, Setting::Acl { .. }) => assert_ne!(after, before),
        Ok(()) => {
            let once = after.clone();
            assert_eq!(apply::apply(&mut after, &setting, &Names::default(), Some(80)), Ok(()));
            assert_eq!(after, once);
        }
        Err(why) => {
            assert!(!why.contains('\n'));
            assert_eq!(after, before);
        }
    }
});
