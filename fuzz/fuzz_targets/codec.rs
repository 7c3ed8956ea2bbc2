//! A message from a process that a stranger took over: it is refused, or it is a message that stays the same when it is sent on; and a command in
//! it is one that the parser makes, or goes no further.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use pen_config::apply;
use pen_config::command::{self, Command};
use pen_config::configuration::{Names, SourcedCommand};
use pen_config::settings::Settings;
use pen_ipc::codec::{self, LIMIT};
use pen_ipc::message::{FromControl, FromStartingWorker, FromWorker, ToControl, ToWorker};
use pen_ipc::tls_files::Index;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn holds<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    let Ok(message) = codec::decode::<T>(bytes) else { return };
    let mut buffer = vec![0; LIMIT];
    let length = codec::encode(&message, &mut buffer).unwrap();
    assert_eq!(
        format!("{:?}", codec::decode::<T>(&buffer[..length]).unwrap()),
        format!("{message:?}")
    );
}

/// As the supervisor takes a command that came from a process with fewer rights.
fn carry_out(command: &Command) {
    if !command::is_well_formed(command) {
        return;
    }
    assert!(!command.to_string().contains(['\n', '\r', '\0']));
    apply::lookups(command);
    apply::blacklisting(command);
    let before = Settings { servers: vec![None; 16], ..Settings::default() };
    let mut after = before.clone();
    if let Err(why) = apply::apply(&mut after, command, &Names::default(), Some(80)) {
        assert!(!why.contains('\n'));
        assert_eq!(after, before);
    }
}

fuzz_target!(|bytes: &[u8]| {
    holds::<FromStartingWorker>(bytes);
    holds::<FromWorker>(bytes);
    holds::<FromControl>(bytes);
    holds::<ToWorker>(bytes);
    holds::<ToControl>(bytes);
    if let Ok(settings) = codec::decode_settings(bytes) {
        assert_eq!(
            codec::decode_settings(&codec::encode_settings(&settings).unwrap()).unwrap(),
            settings
        );
    }
    if let Ok(index) = Index::decode(bytes) {
        let encoded = index.encode().unwrap();
        assert_eq!(Index::decode(&encoded[..encoded.len() - 8]).unwrap(), index);
    }
    if let Ok(FromControl::Command { command, .. }) = codec::decode(bytes) {
        carry_out(&command);
    }
    if let Ok(Ok(commands)) = codec::decode_large::<Result<Vec<SourcedCommand>, Vec<String>>>(bytes)
    {
        commands.iter().for_each(|placed| carry_out(&placed.command));
    }
});
