//! Cuts a byte stream into pieces that JSON can carry, without ever cutting a character.

use std::borrow::Cow;

use crate::http::wire::Piece;

/// Longest incomplete character: UTF-8 has at most four bytes (RFC 3629 section 3), and three of them may be here.
const MAX_TAIL: usize = 3;

/// The framer of one stream. Holds back the beginning of a character until the rest has come.
#[derive(Debug, Default)]
pub(crate) struct Utf8Framer {
    tail: Vec<u8>,
}

/// What one push makes: text up to the first byte that is not UTF-8, and from there on bytes. Two pieces at most, so that
/// binary output does not turn into a frame for every few bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut<'a> {
    pub(crate) text: Option<Piece<'a>>,
    pub(crate) bytes: Option<Piece<'a>>,
}

impl Utf8Framer {
    /// Takes the next bytes of the stream.
    pub(crate) fn push<'a>(&mut self, data: &'a [u8]) -> Cut<'a> {
        if self.tail.is_empty() {
            return self.cut(Cow::Borrowed(data));
        }
        let mut joined = std::mem::take(&mut self.tail);
        joined.extend_from_slice(data);
        self.cut(Cow::Owned(joined))
    }

    /// The beginning of a character whose rest never came, at the end of the stream.
    pub(crate) fn finish(&mut self) -> Option<Piece<'static>> {
        let tail = std::mem::take(&mut self.tail);
        (!tail.is_empty()).then_some(Piece::Bytes { data_b64: tail })
    }

    fn cut<'a>(&mut self, data: Cow<'a, [u8]>) -> Cut<'a> {
        let whole = data.len().saturating_sub(incomplete_tail(&data));
        let (data, tail) = split(data, whole);
        self.tail = tail.into_owned();
        let valid = match std::str::from_utf8(&data) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let (text, bytes) = split(data, valid);
        Cut {
            text: into_text(text)
                .filter(|text| !text.is_empty())
                .map(|data| Piece::Text { data }),
            bytes: (!bytes.is_empty()).then(|| Piece::Bytes {
                data_b64: bytes.into_owned(),
            }),
        }
    }
}

/// Splits like `split_at`, but keeps a borrow a borrow. `middle` is never past the end.
fn split(data: Cow<'_, [u8]>, middle: usize) -> (Cow<'_, [u8]>, Cow<'_, [u8]>) {
    match data {
        Cow::Borrowed(data) => {
            let (head, rest) = data.split_at_checked(middle).unwrap_or((data, &[]));
            (Cow::Borrowed(head), Cow::Borrowed(rest))
        }
        Cow::Owned(mut data) => {
            let rest = data.split_off(middle.min(data.len()));
            (Cow::Owned(data), Cow::Owned(rest))
        }
    }
}

fn into_text(data: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    match data {
        Cow::Borrowed(data) => std::str::from_utf8(data).ok().map(Cow::Borrowed),
        Cow::Owned(data) => String::from_utf8(data).ok().map(Cow::Owned),
    }
}

/// How many bytes at the end are the beginning of a character that may yet become whole.
fn incomplete_tail(data: &[u8]) -> usize {
    (1..=MAX_TAIL.min(data.len()))
        .find(|length| {
            let tail = data
                .iter()
                .rev()
                .take(*length)
                .rev()
                .copied()
                .collect::<Vec<u8>>();
            // No `error_len` means that the end came too early (`Utf8Error::error_len`).
            std::str::from_utf8(&tail)
                .is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Cut, Utf8Framer};
    use crate::http::wire::Piece;

    fn pieces(chunks: &[&[u8]]) -> Vec<Piece<'static>> {
        let mut framer = Utf8Framer::default();
        let mut all = Vec::new();
        for chunk in chunks {
            let Cut { text, bytes } = framer.push(chunk);
            all.extend([text, bytes].into_iter().flatten().map(own));
        }
        all.extend(framer.finish());
        all
    }

    fn own(piece: Piece<'_>) -> Piece<'static> {
        match piece {
            Piece::Text { data } => text(&data),
            Piece::Bytes { data_b64 } => Piece::Bytes { data_b64 },
        }
    }

    fn text(data: &str) -> Piece<'static> {
        Piece::Text {
            data: data.to_owned().into(),
        }
    }

    fn bytes(data: &[u8]) -> Piece<'static> {
        Piece::Bytes {
            data_b64: data.to_vec(),
        }
    }

    #[test]
    fn characters_are_not_split_and_other_bytes_are_told_apart() {
        let table: [(&[&[u8]], Vec<Piece<'static>>); 8] = [
            (&[b"ok"], vec![text("ok")]),
            (&[b""], vec![]),
            (&[b"a\xc3", b"\xa9b"], vec![text("a"), text("\u{e9}b")]),
            (&[b"\xf0", b"\x9f", b"\x98", b"\x80"], vec![text("\u{1f600}")]),
            (&[b"a\xff\xfeb"], vec![text("a"), bytes(b"\xff\xfeb")]),
            (&[b"a\xe2\x82"], vec![text("a"), bytes(b"\xe2\x82")]),
            (&[b"\xc3", b"x"], vec![bytes(b"\xc3x")]),
            (&[b"\xff\xc3", b"\xa9"], vec![bytes(b"\xff"), text("\u{e9}")]),
        ];
        for (chunks, expected) in table {
            assert_eq!(pieces(chunks), expected, "{chunks:?}");
        }
    }

    /// Bytes that are often, but not always, parts of characters.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            4 => any::<char>().prop_map(|character| character.to_string().into_bytes()),
            2 => "[a-z]{0,5}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
    }

    fn chunked<'a>(data: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut rest = data;
        let mut chunks = Vec::new();
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (head, tail) = rest.split_at((*size).min(rest.len()));
            chunks.push(head);
            rest = tail;
        }
        chunks
    }

    proptest! {
        #[test]
        fn nothing_is_lost_however_it_is_chunked(data in stream(), sizes in proptest::collection::vec(1_usize..9, 1..8)) {
            let pieces = pieces(&chunked(&data, &sizes));
            let joined: Vec<u8> = pieces.iter().flat_map(|piece| piece.as_bytes().to_vec()).collect();
            prop_assert_eq!(joined, data);
        }

        #[test]
        fn text_stays_text_however_it_is_chunked(text in any::<String>(), sizes in proptest::collection::vec(1_usize..9, 1..8)) {
            for piece in pieces(&chunked(text.as_bytes(), &sizes)) {
                let is_text = matches!(piece, Piece::Text { .. });
                prop_assert!(is_text);
            }
        }
    }
}
