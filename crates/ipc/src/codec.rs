//! Encodes messages to bytes and decodes them. This is the only module that uses bincode.
//!
//! The decoder is bounded. A message of more than [`LIMIT`] bytes, a length field that promises
//! more, and bytes after the end of a message are errors.

use serde::Serialize;
use serde::de::DeserializeOwned;

use pen_config::maglev;
use pen_config::settings::Settings;

/// Longest encoded message, in bytes.
pub const LIMIT: usize = 65536;

/// Why a message could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The message is longer than [`LIMIT`], or cannot be encoded.
    #[error("cannot encode a message: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// The bytes are not a message of the expected type.
    #[error("cannot decode a message: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// There are more bytes after a whole message; their number.
    #[error("{0} bytes after the end of a message")]
    Trailing(usize),
}

/// Encodes a message into `buffer` and returns its length.
///
/// # Errors
/// The message does not fit the buffer.
pub fn encode<T: Serialize>(message: &T, buffer: &mut [u8]) -> Result<usize, CodecError> {
    Ok(bincode::serde::encode_into_slice(message, buffer, bincode::config::standard())?)
}

/// Decodes one whole message.
///
/// # Errors
/// The bytes are not such a message, promise more than [`LIMIT`] bytes, or continue after the
/// message.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_long::<LIMIT, T>(bytes)
}

/// A message as its receiver takes it from the bytes of a channel.
pub trait Incoming: Sized {
    /// Decodes one whole message.
    ///
    /// # Errors
    /// The bytes are not such a message.
    fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError>;
}

impl<T: DeserializeOwned> Incoming for T {
    fn from_bytes(bytes: &[u8]) -> Result<T, CodecError> {
        decode(bytes)
    }
}

/// Encodes a value that may be longer than a message, but not longer than `LIMIT` bytes.
pub(crate) fn encode_long<const LIMIT: usize>(
    value: &impl Serialize,
) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, bincode::config::standard())?;
    match bytes.len() <= LIMIT {
        true => Ok(bytes),
        false => Err(CodecError::Encode(bincode::error::EncodeError::Other("it is too large"))),
    }
}

/// Decodes a value that may be longer than a message, all of the bytes. The value must not promise
/// more than `LIMIT` bytes.
pub(crate) fn decode_long<const LIMIT: usize, T: DeserializeOwned>(
    bytes: &[u8],
) -> Result<T, CodecError> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice(bytes, config)?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(CodecError::Trailing(left)),
    }
}

/// Longest encoding of [`encode_large`], in bytes.
pub const LARGE_LIMIT: usize = 32 * 1024 * 1024;

/// Encodes a value that is passed as memory and has no bound of its own, such as the commands of a
/// file.
///
/// # Errors
/// It takes more than [`LARGE_LIMIT`] bytes, or cannot be encoded.
pub fn encode_large<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    encode_long::<LARGE_LIMIT>(value)
}

/// Decodes all bytes of a value that [`encode_large`] encoded.
///
/// # Errors
/// The bytes are not such a value, promise more than [`LARGE_LIMIT`] bytes, or continue after the
/// value.
pub fn decode_large<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_long::<LARGE_LIMIT, T>(bytes)
}

/// Longest encoded [`Settings`], in bytes. 4096 servers and ten full access lists of the largest
/// size are below this limit.
pub const SETTINGS_LIMIT: usize = 8 * 1024 * 1024;

/// Encodes settings, and the positions that follow from them ([`maglev::positions`]).
///
/// # Errors
/// They take more than [`SETTINGS_LIMIT`] bytes, or cannot be encoded.
pub fn encode_settings(settings: &Settings) -> Result<Vec<u8>, CodecError> {
    encode_long::<SETTINGS_LIMIT>(&(settings, maglev::positions(settings)))
}

/// Decodes settings.
///
/// # Errors
/// As for [`decode_settings_and_positions`].
pub fn decode_settings(bytes: &[u8]) -> Result<Settings, CodecError> {
    decode_settings_and_positions(bytes).map(|(settings, _)| settings)
}

/// Decodes settings and positions.
///
/// # Errors
/// The bytes are not settings with positions, promise more than [`SETTINGS_LIMIT`] bytes, or
/// continue after the positions.
pub fn decode_settings_and_positions(bytes: &[u8]) -> Result<(Settings, Vec<u16>), CodecError> {
    decode_long::<SETTINGS_LIMIT, (Settings, Vec<u16>)>(bytes)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::message::{
        FromControl, FromPage, FromStartingWorker, FromWorker, ToControl, ToPage, ToWorker,
    };

    /// Any decoded value can be encoded again, and the result decodes to the same value.
    fn holds<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
        let Ok(message) = decode::<T>(bytes) else { return };
        let mut buffer = vec![0; LIMIT];
        let length = encode(&message, &mut buffer).unwrap();
        assert_eq!(
            format!("{:?}", decode::<T>(&buffer[..length]).unwrap()),
            format!("{message:?}")
        );
    }

    fn holds_for_all(bytes: &[u8]) {
        holds::<FromStartingWorker>(bytes);
        holds::<FromWorker>(bytes);
        holds::<FromControl>(bytes);
        holds::<FromPage>(bytes);
        holds::<ToWorker>(bytes);
        holds::<ToControl>(bytes);
        holds::<ToPage>(bytes);
        if let Ok(settings) = decode_settings(bytes) {
            assert_eq!(decode_settings(&encode_settings(&settings).unwrap()).unwrap(), settings);
        }
    }

    /// Numbers of kinds of messages. No enum has as many.
    const KINDS: std::ops::Range<u8> = 0..32;

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_is_a_message_stays_one(
            variant in KINDS,
            rest in vec(any::<u8>(), 0..400),
        ) {
            holds_for_all(&rest);
            // A message begins with the number of its kind.
            holds_for_all(&[&[variant][..], &rest].concat());
        }

        #[test]
        fn no_length_is_believed(
            variant in KINDS,
            length in any::<u64>(),
            rest in vec(any::<u8>(), 0..40),
        ) {
            let length = length.to_le_bytes();
            holds_for_all(&[&[variant, 253][..], &length, &rest].concat());
            holds_for_all(&[&[variant, 1, 253][..], &length, &rest].concat());
        }
    }
}
