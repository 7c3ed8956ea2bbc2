//! Input: a message from a compromised process. The codec refuses it, or it is the same after it
//! has been encoded again. A command in it is refused unless the parser can make it.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use pen_config::apply;
use pen_config::command::{self, Command, SourcedCommand};
use pen_config::names::Names;
use pen_config::settings::Settings;
use pen_ipc::codec::{self, Incoming, LIMIT};
use pen_ipc::message::{
    FromChecker, FromControl, FromOldWorker, FromPage, FromStartingWorker, FromWorker, ToChecker,
    ToControl, ToOldWorker, ToPage, ToWorker,
};
use pen_ipc::tls_files::{FileIndex, Index, ServerIndex};
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

/// Handles a command as the supervisor does if it comes from a process with fewer rights.
fn carry_out(command: &Command) {
    if !command::is_well_formed(command) {
        return;
    }
    assert!(!command.to_string().contains(['\n', '\r', '\0']));
    let Command::Setting(setting) = command else { return };
    apply::lookups(setting);
    apply::blacklisting(setting);
    let before = Settings { servers: vec![None; 16], ..Settings::default() };
    let mut after = before.clone();
    if let Err(why) = apply::apply(&mut after, setting, &Names::default(), Some(80)) {
        assert!(!why.contains('\n'));
        assert_eq!(after, before);
    }
}

fuzz_target!(|bytes: &[u8]| {
    holds::<FromStartingWorker>(bytes);
    holds::<FromWorker>(bytes);
    holds::<FromControl>(bytes);
    holds::<FromPage>(bytes);
    holds::<FromChecker>(bytes);
    holds::<ToChecker>(bytes);
    holds::<ToWorker>(bytes);
    holds::<ToControl>(bytes);
    holds::<ToPage>(bytes);
    holds::<ToOldWorker>(bytes);
    // A worker of this release is understood as one of another release too.
    let ours = match codec::decode(bytes) {
        Ok(FromWorker::Lasting(message)) => FromOldWorker::Lasting(message.into()),
        Ok(_) | Err(_) => FromOldWorker::Unknown,
    };
    assert_eq!(FromOldWorker::from_bytes(bytes).unwrap(), ours);
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
    if let Ok(index) = ServerIndex::decode(bytes) {
        let encoded = index.encode().unwrap();
        assert_eq!(ServerIndex::decode(&encoded[..encoded.len() - 8]).unwrap(), index);
    }
    if let Ok(FromControl::Command { command, .. }) = codec::decode(bytes) {
        carry_out(&command);
    }
    if let Ok(Ok(commands)) = codec::decode_large::<Result<Vec<SourcedCommand>, Vec<String>>>(bytes)
    {
        commands.iter().for_each(|sourced| carry_out(&sourced.command));
    }
});
