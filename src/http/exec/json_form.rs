//! The answer as one object: the `Exec`, and its output beside it.

use std::borrow::Cow;

use adit_actors::exec::Exec;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use serde_json::{Map, Value};

/// Output gathered while the exec runs. Bounded by the engine's cap on each stream.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) stdout: BytesMut,
    pub(crate) stderr: BytesMut,
}

/// The `Exec` with `stdout` and `stderr` as text; `stdout_b64` and `stderr_b64` beside them for what was not UTF-8.
pub(crate) fn with_output(exec: &Exec, output: &Output) -> Value {
    let mut object = match bare(exec) {
        Value::Object(object) => object,
        other => Map::from_iter([("exec".to_owned(), other)]),
    };
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        let text = String::from_utf8_lossy(bytes);
        if let Cow::Owned(_) = text {
            object.insert(format!("{name}_b64"), STANDARD.encode(bytes).into());
        }
        object.insert(name.to_owned(), text.into_owned().into());
    }
    Value::Object(object)
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
    use serde_json::json;

    use super::{Output, with_output};
    use crate::http::test_support::exited;

    #[test]
    fn output_is_text_and_base64_only_where_it_must_be() {
        let output = Output {
            stdout: "h\u{e9}\n".as_bytes().into(),
            stderr: b"a\xff"[..].into(),
        };
        let object = with_output(&exited(3), &output);
        assert_eq!(object["stdout"], json!("h\u{e9}\n"));
        assert_eq!(object.get("stdout_b64"), None);
        assert_eq!(object["stderr"], json!("a\u{fffd}"));
        assert_eq!(object["stderr_b64"], json!("Yf8="));
        assert_eq!(object["exit_code"], json!(3));
        assert_eq!(object["streams"]["stdout"]["truncated"], json!(false));
    }
}
