//! A message from a process that a stranger took over: it is refused, or it is a message that stays the same when it is sent on.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use pen_contract::codec::{self, LIMIT};
use pen_contract::message::{FromControl, FromStartingWorker, FromWorker, ToControl, ToWorker};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn holds<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    let Ok(message) = codec::decode::<T>(bytes) else { return };
    let mut buffer = vec![0; LIMIT];
    let length = codec::encode(&message, &mut buffer).unwrap();
    assert_eq!(format!("{:?}", codec::decode::<T>(&buffer[..length]).unwrap()), format!("{message:?}"));
}

fuzz_target!(|bytes: &[u8]| {
    holds::<FromStartingWorker>(bytes);
    holds::<FromWorker>(bytes);
    holds::<FromControl>(bytes);
    holds::<ToWorker>(bytes);
    holds::<ToControl>(bytes);
    if let Ok(settings) = codec::decode_settings(bytes) {
        assert_eq!(codec::decode_settings(&codec::encode_settings(&settings).unwrap()).unwrap(), settings);
    }
});
