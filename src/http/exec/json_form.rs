//! The answer as one object: the `Exec`, and its output beside it.
//!
//! The object may be eleven times as long as the output in it: a control character is a six-byte escape, and what is not
//! UTF-8 stands there in base64 too. So it is never made whole, but written in slices from the bytes that the program
//! printed, as fast as its reader takes them.

use std::collections::VecDeque;

use adit_actors::exec::Exec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use serde_json::{Map, Value};

/// Longest slice: twice what actix-web buffers for a connection (32 KiB).
const SLICE: usize = 65_536;
/// Most bytes of output that are written at once. A multiple of three, because that is what base64 takes without
/// padding, and small beside [`SLICE`], so that slices are well filled.
const STEP: usize = 3_072;
/// Most bytes that one byte of output becomes: `\u0001`.
const LONGEST_ESCAPE: usize = 6;

/// Output gathered while the exec runs. Bounded by the engine's cap on each stream.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: BytesMut,
    pub(crate) stderr: BytesMut,
}

/// The text of an object with a long end, in slices of at most 64 KiB. Each part's bytes are freed when it is written.
/// A clone shares the bytes.
#[derive(Clone, Debug)]
pub(crate) struct ObjectSlices {
    parts: VecDeque<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    /// JSON already.
    Json(Bytes),
    /// To stand within a string, with U+FFFD for what is not UTF-8.
    Text(Bytes),
    /// To stand within a string as base64.
    Base64(Bytes),
}

impl ObjectSlices {
    /// The `Exec` with `stdout` and `stderr` as text; `stdout_b64` and `stderr_b64` before them for what was not UTF-8.
    pub(crate) fn with_output(exec: &Exec, output: Output) -> Self {
        let mut slices = Self {
            parts: VecDeque::new(),
        };
        let mut separator = slices.open(bare(exec).as_object().unwrap_or(&Map::new()));
        for (name, bytes) in [("stdout", output.stdout), ("stderr", output.stderr)] {
            let bytes = bytes.freeze();
            if std::str::from_utf8(&bytes).is_err() {
                slices.json(format!("{separator}\"{name}_b64\":\""));
                slices.parts.push_back(Part::Base64(bytes.clone()));
                slices.json("\"".to_owned());
                separator = ",";
            }
            slices.json(format!("{separator}\"{name}\":\""));
            slices.parts.push_back(Part::Text(bytes));
            slices.json("\"".to_owned());
            separator = ",";
        }
        slices.json("}".to_owned());
        slices
    }

    /// `object` with these slices as its member `name`, which must need no escapes.
    pub(crate) fn into_member_of(mut self, object: &Map<String, Value>, name: &str) -> Self {
        let mut slices = Self {
            parts: VecDeque::new(),
        };
        let separator = slices.open(object);
        slices.json(format!("{separator}\"{name}\":"));
        slices.parts.append(&mut self.parts);
        slices.json("}".to_owned());
        slices
    }

    /// Bytes of all slices together. Writes them all once, one at a time.
    pub(crate) fn length(&self) -> u64 {
        self.clone().map(|slice| slice.len() as u64).sum()
    }

    /// Adds an object without its closing brace, and returns what must stand before the next member.
    fn open(&mut self, object: &Map<String, Value>) -> &'static str {
        let mut text = serde_json::to_string(object).unwrap_or_else(|error| {
            // No part of it is one that JSON can't hold, so this is a defect.
            tracing::error!(error = %error, "an object could not be written");
            "{}".to_owned()
        });
        text.pop();
        let separator = if text.len() == 1 { "" } else { "," };
        self.json(text);
        separator
    }

    fn json(&mut self, text: String) {
        self.parts.push_back(Part::Json(Bytes::from(text)));
    }
}

impl Iterator for ObjectSlices {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut slice = Vec::new();
        while slice.len() <= SLICE - LONGEST_ESCAPE * STEP
            && let Some(part) = self.parts.front_mut()
        {
            if part.is_empty() {
                self.parts.pop_front();
            } else {
                part.write_step(&mut slice);
            }
        }
        (!slice.is_empty()).then(|| Bytes::from(slice))
    }
}

impl Part {
    fn is_empty(&self) -> bool {
        let (Self::Json(rest) | Self::Text(rest) | Self::Base64(rest)) = self;
        rest.is_empty()
    }

    /// Takes at most [`STEP`] bytes off and writes them.
    fn write_step(&mut self, slice: &mut Vec<u8>) {
        match self {
            Self::Json(rest) => slice.extend_from_slice(&rest.split_to(rest.len().min(STEP))),
            Self::Text(rest) => {
                let step = text_step(rest);
                escape(&String::from_utf8_lossy(&rest.split_to(step)), slice);
            }
            Self::Base64(rest) => {
                let bytes = rest.split_to(rest.len().min(STEP));
                slice.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            }
        }
    }
}

/// How many bytes to take as text: as many as may be, but what could be the beginning of a character waits for its rest.
fn text_step(rest: &[u8]) -> usize {
    let Some((window, _)) = rest.split_at_checked(STEP) else {
        return rest.len();
    };
    let waiting = window
        .utf8_chunks()
        .last()
        .map_or(0, |chunk| chunk.invalid().len());
    window.len() - waiting
}

/// Writes text as it stands within a JSON string, without the quotes.
fn escape(text: &str, slice: &mut Vec<u8>) {
    match serde_json::to_vec(text) {
        Ok(quoted) => slice.extend_from_slice(quoted.get(1..quoted.len() - 1).unwrap_or_default()),
        // No text is one that JSON can't hold, so this is a defect.
        Err(error) => tracing::error!(error = %error, "output could not be written"),
    }
}

/// The `Exec` alone.
pub(crate) fn bare(exec: &Exec) -> Value {
    serde_json::to_value(exec).unwrap_or_else(|error| {
        // No part of it is one that JSON can't hold, so this is a defect.
        tracing::error!(error = %error, "an exec could not be written");
        Value::Null
    })
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::test_support::exited;

    fn parsed(slices: ObjectSlices) -> Value {
        let length = slices.length();
        let mut whole = Vec::new();
        for slice in slices {
            assert!(!slice.is_empty() && slice.len() <= SLICE, "{}", slice.len());
            whole.extend_from_slice(&slice);
        }
        assert_eq!(whole.len() as u64, length);
        serde_json::from_slice(&whole).unwrap()
    }

    fn output(stdout: &[u8], stderr: &[u8]) -> Output {
        Output {
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    /// The same object, made at once.
    fn whole(exec: &Exec, output: &Output) -> Value {
        let mut object = bare(exec);
        for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            let text = String::from_utf8_lossy(bytes);
            if let Cow::Owned(_) = text {
                object[format!("{name}_b64")] = STANDARD.encode(bytes).into();
            }
            object[name] = text.into_owned().into();
        }
        object
    }

    #[test]
    fn output_is_text_and_base64_only_where_it_must_be() {
        let output = output("h\u{e9}\n\u{1}\"".as_bytes(), b"a\xff");
        let object = parsed(ObjectSlices::with_output(&exited(3), output));
        assert_eq!(object["stdout"], json!("h\u{e9}\n\u{1}\""));
        assert_eq!(object.get("stdout_b64"), None);
        assert_eq!(object["stderr"], json!("a\u{fffd}"));
        assert_eq!(object["stderr_b64"], json!("Yf8="));
        assert_eq!(object["exit_code"], json!(3));
        assert_eq!(object["streams"]["stdout"]["truncated"], json!(false));
    }

    #[test]
    fn a_member_is_added_to_objects_with_and_without_others() {
        for mut object in [json!({}), json!({"code": "x"})] {
            let slices = ObjectSlices::with_output(&exited(0), output(b"o", b"e"));
            let found = parsed(slices.into_member_of(object.as_object().unwrap(), "exec"));
            object["exec"] = whole(&exited(0), &output(b"o", b"e"));
            assert_eq!(found, object);
        }
    }

    #[test]
    fn characters_and_broken_ones_are_the_same_wherever_a_step_ends() {
        for unit in [
            "\u{e9}".as_bytes(),
            "\u{1f600}".as_bytes(),
            b"\xf0\x9f\x98",
            b"\xff",
            b"\xe2\x82a",
        ] {
            for offset in 0..5 {
                let bytes = [&b"xxxx"[..offset], &unit.repeat(2 * STEP)].concat();
                let expected = whole(&exited(0), &output(&bytes, b""));
                let slices = ObjectSlices::with_output(&exited(0), output(&bytes, b""));
                assert_eq!(parsed(slices), expected, "{unit:?} after {offset}");
            }
        }
    }

    /// Bytes that are often, but not always, parts of characters, and more than a slice of them.
    fn printed() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            4 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
            2 => "[a-z\\x00-\\x1f\"\\\\]{0,9}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
        ];
        (proptest::collection::vec(part, 0..60), 1_usize..400)
            .prop_map(|(parts, times)| parts.concat().repeat(times))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn slices_are_the_whole_object(stdout in printed(), stderr in printed()) {
            let expected = whole(&exited(0), &output(&stdout, &stderr));
            prop_assert_eq!(parsed(ObjectSlices::with_output(&exited(0), output(&stdout, &stderr))), expected);
        }
    }
}
