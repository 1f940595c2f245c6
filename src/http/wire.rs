//! The frames of a streamed answer, one JSON object a line. The service writes them and the client reads them.

use std::borrow::Cow;

use adit_actors::exec::{Exec, OutputStream};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Media type of a streamed answer.
pub const NDJSON: &str = "application/x-ndjson";

/// One line of a streamed answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Frame<'a> {
    /// The program runs; only when the request asked for it with `announce`.
    Started {
        /// Id of the exec.
        exec_id: Uuid,
        /// Timeout as applied, in seconds.
        timeout_s: u32,
    },
    /// The program printed this on its standard output.
    Stdout(Piece<'a>),
    /// The program printed this on its standard error.
    Stderr(Piece<'a>),
    /// At this place the stream went past its cap; nothing more of it follows.
    Truncated {
        /// Which stream.
        stream: OutputStream,
        /// The cap in bytes.
        limit: u64,
    },
    /// Nothing has happened for a while.
    Heartbeat,
    /// The end. A stream without it did not succeed.
    Exit(Box<Exec>),
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Piece<'a> {
    /// Whole characters.
    Text {
        /// The text.
        data: Cow<'a, str>,
    },
    /// Bytes that are not UTF-8.
    Bytes {
        /// The bytes in base64, RFC 4648 section 4.
        #[serde(with = "base64_text")]
        data_b64: Vec<u8>,
    },
}

impl Piece<'_> {
    /// The bytes that the program printed.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text { data } => data.as_bytes(),
            Self::Bytes { data_b64 } => data_b64,
        }
    }
}

impl<'a> Frame<'a> {
    /// A frame of output.
    #[must_use]
    pub fn output(stream: OutputStream, piece: Piece<'a>) -> Self {
        match stream {
            OutputStream::Stdout => Self::Stdout(piece),
            OutputStream::Stderr => Self::Stderr(piece),
        }
    }
}

mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(deserializer)?)
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use adit_actors::exec::OutputStream;
    use serde_json::json;
    use uuid::Uuid;

    use super::{Frame, Piece};
    use crate::http::test_support::exited;

    #[test]
    fn frames_look_as_the_contract_has_them_and_are_read_back() {
        let exit = exited(7);
        let mut exit_json = serde_json::to_value(&exit).unwrap();
        exit_json["type"] = json!("exit");
        let table = [
            (
                Frame::Started {
                    exec_id: Uuid::nil(),
                    timeout_s: 30,
                },
                json!({ "type": "started", "exec_id": Uuid::nil(), "timeout_s": 30 }),
            ),
            (
                Frame::output(
                    OutputStream::Stdout,
                    Piece::Text {
                        data: "h\u{e9}\n".into(),
                    },
                ),
                json!({ "type": "stdout", "data": "h\u{e9}\n" }),
            ),
            (
                Frame::output(
                    OutputStream::Stderr,
                    Piece::Bytes {
                        data_b64: vec![0xff, 0xfe],
                    },
                ),
                json!({ "type": "stderr", "data_b64": "//4=" }),
            ),
            (
                Frame::Truncated {
                    stream: OutputStream::Stdout,
                    limit: 1_048_576,
                },
                json!({ "type": "truncated", "stream": "stdout", "limit": 1_048_576 }),
            ),
            (Frame::Heartbeat, json!({ "type": "heartbeat" })),
            (Frame::Exit(Box::new(exit)), exit_json),
        ];
        for (frame, expected) in table {
            assert_eq!(serde_json::to_value(&frame).unwrap(), expected);
            let line = serde_json::to_string(&frame).unwrap();
            assert!(!line.contains('\n'));
            assert_eq!(serde_json::from_str::<Frame<'_>>(&line).unwrap(), frame);
        }
    }
}
