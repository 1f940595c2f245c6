//! Times as text of one width, so that the order of the text is the order of time.

use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

/// RFC 3339 in UTC with microseconds, which is what PostgreSQL's TIMESTAMPTZ keeps: a row reads the same from both.
const FORMAT: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// The text of a time.
///
/// # Errors
/// When the year has not four digits.
pub(super) fn to_text(time: OffsetDateTime) -> Result<String, time::error::Format> {
    time.to_offset(UtcOffset::UTC).format(FORMAT)
}

/// The time of a text.
///
/// # Errors
/// When the text has another form.
pub(super) fn from_text(text: &str) -> Result<OffsetDateTime, time::error::Parse> {
    time::PrimitiveDateTime::parse(text, FORMAT).map(time::PrimitiveDateTime::assume_utc)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::{from_text, to_text};

    #[test]
    fn text_has_one_width_and_is_cut_to_microseconds() {
        for (time, text) in [
            (datetime!(2026-01-02 03:04:05 UTC), "2026-01-02T03:04:05.000000Z"),
            (
                datetime!(2026-01-02 03:04:05.1 UTC),
                "2026-01-02T03:04:05.100000Z",
            ),
            (
                datetime!(2026-01-02 03:04:05.123456789 UTC),
                "2026-01-02T03:04:05.123456Z",
            ),
            (datetime!(2026-01-02 03:04:05 +2), "2026-01-02T01:04:05.000000Z"),
        ] {
            assert_eq!(to_text(time).unwrap(), text);
        }
        assert_eq!(
            from_text("2026-01-02T03:04:05.123456Z").unwrap(),
            datetime!(2026-01-02 03:04:05.123456 UTC)
        );
    }
}
