//! Paths in messages and in the state of an upgrade. A path is any bytes, and serde alone refuses
//! one that is not UTF-8 (`#[serde(with = "pen_config::paths")]`).
//!
//! A text format has a path as a string, or as a list of bytes if it is not UTF-8. A binary format
//! has the bytes.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

/// Writes paths.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<P: Paths, S: Serializer>(paths: &P, to: S) -> Result<S::Ok, S::Error> {
    paths.clone().wrap().serialize(to)
}

/// Reads paths.
///
/// # Errors
/// Those of the deserializer.
pub fn deserialize<'de, P: Paths, D: Deserializer<'de>>(from: D) -> Result<P, D::Error> {
    P::Wrapped::deserialize(from).map(P::unwrap)
}

/// A value that consists of paths.
pub trait Paths: Clone {
    /// The same with each path in an [`AnyPath`].
    type Wrapped: Serialize + for<'de> Deserialize<'de>;
    /// Wraps each path.
    fn wrap(self) -> Self::Wrapped;
    /// The opposite.
    fn unwrap(wrapped: Self::Wrapped) -> Self;
}

impl Paths for PathBuf {
    type Wrapped = AnyPath;

    fn wrap(self) -> AnyPath {
        AnyPath(self)
    }

    fn unwrap(wrapped: AnyPath) -> PathBuf {
        wrapped.0
    }
}

impl<P: Paths> Paths for Option<P> {
    type Wrapped = Option<P::Wrapped>;

    fn wrap(self) -> Self::Wrapped {
        self.map(P::wrap)
    }

    fn unwrap(wrapped: Self::Wrapped) -> Self {
        wrapped.map(P::unwrap)
    }
}

impl<P: Paths> Paths for Vec<P> {
    type Wrapped = Vec<P::Wrapped>;

    fn wrap(self) -> Self::Wrapped {
        self.into_iter().map(P::wrap).collect()
    }

    fn unwrap(wrapped: Self::Wrapped) -> Self {
        wrapped.into_iter().map(P::unwrap).collect()
    }
}

impl<P: Paths, Q: Paths> Paths for (P, Q) {
    type Wrapped = (P::Wrapped, Q::Wrapped);

    fn wrap(self) -> Self::Wrapped {
        (self.0.wrap(), self.1.wrap())
    }

    fn unwrap((first, second): Self::Wrapped) -> Self {
        (P::unwrap(first), Q::unwrap(second))
    }
}

/// A path that need not be UTF-8.
#[derive(Clone, Debug)]
pub struct AnyPath(PathBuf);

impl Serialize for AnyPath {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let path = self.0.as_os_str();
        match path.to_str() {
            Some(text) if to.is_human_readable() => to.serialize_str(text),
            None if to.is_human_readable() => to.collect_seq(path.as_bytes()),
            Some(_) | None => to.serialize_bytes(path.as_bytes()),
        }
    }
}

impl<'de> Deserialize<'de> for AnyPath {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<AnyPath, D::Error> {
        let bytes = match from.is_human_readable() {
            true => from.deserialize_any(PathVisitor),
            false => from.deserialize_byte_buf(PathVisitor),
        };
        bytes.map(|bytes| AnyPath(OsString::from_vec(bytes).into()))
    }
}

/// Reads the bytes of a path.
struct PathVisitor;

impl<'de> Visitor<'de> for PathVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path")
    }

    fn visit_str<E>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.into())
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.into())
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = from.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Several {
        #[serde(with = "super")]
        one: PathBuf,
        #[serde(with = "super", default)]
        optional: Option<PathBuf>,
        #[serde(with = "super")]
        pairs: Vec<(PathBuf, Option<PathBuf>)>,
    }

    fn path(bytes: &[u8]) -> PathBuf {
        OsString::from_vec(bytes.into()).into()
    }

    #[test]
    fn a_path_comes_back_whatever_its_bytes_are() {
        let all = Several {
            one: path(b"/a/\xff"),
            optional: None,
            pairs: vec![(path(b""), None), (path("/ü".as_bytes()), Some(path(b"\x80")))],
        };
        let text = serde_json::to_string(&all).unwrap();
        let expected = r#"{"one":[47,97,47,255],"optional":null,"pairs":[["",null],["/ü",[128]]]}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Several>(&text).unwrap(), all);
        let without = text.replace("\"optional\":null,", "");
        assert_eq!(serde_json::from_str::<Several>(&without).unwrap(), all);
        for wrong in ["{\"one\":[256],\"pairs\":[]}", "{\"one\":7,\"pairs\":[]}"] {
            assert!(serde_json::from_str::<Several>(wrong).is_err());
        }
    }

    #[test]
    fn text_is_as_serde_alone_has_it() {
        let one = Path::new("/run/pen/x");
        assert_eq!(
            serde_json::to_value(AnyPath(one.into())).unwrap(),
            serde_json::to_value(one).unwrap()
        );
    }
}
