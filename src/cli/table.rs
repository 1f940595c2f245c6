//! Rows of text in aligned columns, for people.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Prints `header` and `rows`, each column as wide as its widest cell.
pub(super) fn print<const COLUMNS: usize>(header: [&str; COLUMNS], rows: &[[String; COLUMNS]]) {
    print!("{}", render(header, rows));
}

/// The same as text.
pub(super) fn render<const COLUMNS: usize>(header: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> String {
    let mut widths = header.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = line(&header, &widths);
    for row in rows {
        text.push_str(&line(&row.each_ref().map(String::as_str), &widths));
    }
    text
}

/// A time to the second: people compare, and whoever needs the rest asks for JSON or the store.
pub(super) fn time(time: OffsetDateTime) -> String {
    let time = time.replace_nanosecond(0).unwrap_or(time);
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

fn line<const COLUMNS: usize>(cells: &[&str; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let padded: Vec<_> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:width$}"))
        .collect();
    format!("{}\n", padded.join("  ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            ["1".to_owned(), "é".to_owned(), "x".to_owned()],
            ["22".to_owned(), "bbbb".to_owned(), String::new()],
        ];
        assert_eq!(
            render(["ID", "NAME", "X"], &rows),
            "ID  NAME  X\n1   é     x\n22  bbbb\n"
        );
    }
}
