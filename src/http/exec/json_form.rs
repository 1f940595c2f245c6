//! The answer as one object: the `Exec`, and its output beside it.
//!
//! Two streams of 1 MiB can become twelve and more once they are escaped and encoded, so the object never exists as a
//! whole: it is written slice by slice while it is sent, out of the raw output.

use std::collections::VecDeque;

use adit_actors::exec::Exec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use serde_json::Value;

/// Raw bytes in a slice of text: with the longest escapes (`\u0001`, six for one) a slice stays under 64 KiB.
const TEXT_SLICE: usize = 10_000;
/// Raw bytes in a slice of base64, a multiple of three so that only the last slice is padded: 64 KiB encoded.
const BASE64_SLICE: usize = 49_152;

/// Output gathered while the exec runs. Bounded by the engine's cap on each stream.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: BytesMut,
    pub(crate) stderr: BytesMut,
}

impl Output {
    /// Bytes of both streams.
    pub(crate) fn len(&self) -> usize {
        self.stdout.len() + self.stderr.len()
    }
}

/// The slices of one JSON text, made as they are asked for.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    parts: VecDeque<Part>,
}

#[derive(Debug)]
enum Part {
    /// JSON as it is.
    Json(Bytes),
    /// The inside of a string: text with U+FFFD for what is not UTF-8.
    Text(Bytes),
    /// The inside of a string: base64.
    Base64(Bytes),
}

/// The `Exec` with `stdout` and `stderr` as text; `stdout_b64` and `stderr_b64` beside them for what was not UTF-8.
pub(crate) fn with_output(exec: &Exec, output: Output) -> Slices {
    let mut slices = Slices::default();
    slices.push_exec(exec, output);
    slices
}

/// `object`, a JSON object with at least one member, with the exec and its output as its member `exec`.
pub(crate) fn as_member(object: Vec<u8>, exec: &Exec, output: Output) -> Slices {
    let mut slices = Slices::default();
    slices.push_open(object);
    slices.push_json(",\"exec\":");
    slices.push_exec(exec, output);
    slices.push_json("}");
    slices
}

/// The `Exec` alone.
pub(crate) fn bare(exec: &Exec) -> Value {
    serde_json::to_value(exec).unwrap_or_else(|error| {
        // No part of it is one that JSON can't hold, so this is a defect.
        tracing::error!(error = %error, "an exec could not be written");
        Value::Null
    })
}

impl Slices {
    fn push_exec(&mut self, exec: &Exec, output: Output) {
        self.push_open(bare(exec).to_string().into_bytes());
        for (name, bytes) in [("stdout", output.stdout), ("stderr", output.stderr)] {
            let bytes = bytes.freeze();
            if std::str::from_utf8(&bytes).is_err() {
                self.push_json(format!(",\"{name}_b64\":\""));
                self.push_part(Part::Base64(bytes.clone()));
                self.push_json("\"");
            }
            self.push_json(format!(",\"{name}\":\""));
            self.push_part(Part::Text(bytes));
            self.push_json("\"");
        }
        self.push_json("}");
    }

    /// An object without its closing brace, so that members can follow.
    fn push_open(&mut self, mut object: Vec<u8>) {
        object.pop();
        self.push_json(object);
    }

    /// Nothing is left out but what is empty: an empty chunk would end a chunked body.
    fn push_part(&mut self, part: Part) {
        let (Part::Json(bytes) | Part::Text(bytes) | Part::Base64(bytes)) = &part;
        if !bytes.is_empty() {
            self.parts.push_back(part);
        }
    }

    fn push_json(&mut self, json: impl Into<Vec<u8>>) {
        self.push_part(Part::Json(json.into().into()));
    }
}

impl Iterator for Slices {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        match self.parts.pop_front()? {
            Part::Json(json) => Some(json),
            Part::Text(mut bytes) => {
                let taken = bytes.split_to(whole_characters(&bytes));
                if !bytes.is_empty() {
                    self.parts.push_front(Part::Text(bytes));
                }
                Some(escaped(&taken))
            }
            Part::Base64(mut bytes) => {
                let taken = bytes.split_to(bytes.len().min(BASE64_SLICE));
                if !bytes.is_empty() {
                    self.parts.push_front(Part::Base64(bytes));
                }
                Some(STANDARD.encode(taken).into())
            }
        }
    }
}

/// Length of the next slice of text: one that ends where a character, or what is none, ends.
fn whole_characters(bytes: &[u8]) -> usize {
    let Some(slice) = bytes.get(..TEXT_SLICE) else {
        return bytes.len();
    };
    // Where UTF-8 breaks off only because the slice does, the rest of the character is in the next one.
    let unfinished = slice.utf8_chunks().last().map_or(0, |last| {
        if is_beginning(last.invalid()) {
            last.invalid().len()
        } else {
            0
        }
    });
    TEXT_SLICE - unfinished
}

/// Whether `bytes` could be the beginning of a character.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Text as it stands between the quotes of a JSON string.
fn escaped(bytes: &[u8]) -> Bytes {
    let quoted = Value::from(String::from_utf8_lossy(bytes))
        .to_string()
        .into_bytes();
    let inside = 1..quoted.len().saturating_sub(1);
    Bytes::from(quoted).slice(inside)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::test_support::exited;

    fn parsed(slices: Slices) -> Value {
        let text: Vec<u8> = slices
            .inspect(|slice| {
                assert!(
                    (1..=65_536).contains(&slice.len()),
                    "{} bytes in a slice",
                    slice.len()
                )
            })
            .flatten()
            .collect();
        serde_json::from_slice(&text).unwrap()
    }

    fn output(stdout: &[u8], stderr: &[u8]) -> Output {
        Output {
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    #[test]
    fn output_is_text_and_base64_only_where_it_must_be() {
        let object = parsed(with_output(&exited(3), output("h\u{e9}\n".as_bytes(), b"a\xff")));
        assert_eq!(object["stdout"], json!("h\u{e9}\n"));
        assert_eq!(object.get("stdout_b64"), None);
        assert_eq!(object["stderr"], json!("a\u{fffd}"));
        assert_eq!(object["stderr_b64"], json!("Yf8="));
        assert_eq!(object["exit_code"], json!(3));
        assert_eq!(object["streams"]["stdout"]["truncated"], json!(false));
    }

    #[test]
    fn a_problem_has_it_as_a_member() {
        let object = parsed(as_member(
            b"{\"status\":504}".to_vec(),
            &exited(0),
            output(b"x", b""),
        ));
        assert_eq!(
            (&object["status"], &object["exec"]["stdout"]),
            (&json!(504), &json!("x"))
        );
    }

    fn bytes_of_all_kinds() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            any::<char>().prop_map(|character| character.to_string().into_bytes()),
            (any::<u8>(), 0usize..30_000).prop_map(|(byte, length)| vec![byte; length]),
            (any::<char>(), 0usize..9_000).prop_map(|(c, length)| c.to_string().repeat(length).into_bytes()),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn slices_are_the_whole(stdout in bytes_of_all_kinds(), stderr in bytes_of_all_kinds()) {
            let object = parsed(with_output(&exited(0), output(&stdout, &stderr)));
            for (name, bytes) in [("stdout", &stdout), ("stderr", &stderr)] {
                prop_assert!(object[name] == json!(String::from_utf8_lossy(bytes)), "{} differs", name);
                let encoded = object.get(format!("{name}_b64"));
                let expected = std::str::from_utf8(bytes).is_err().then(|| json!(STANDARD.encode(bytes)));
                prop_assert!(encoded == expected.as_ref(), "{} in base64 differs", name);
            }
        }
    }
}
