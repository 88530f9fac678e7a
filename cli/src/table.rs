// SPDX-License-Identifier: Apache-2.0
//! Columns for people.

/// Aligns the cells of rows in columns; nothing is padded at a line's end.
pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: String = cells
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A time span as people say it.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_aligned_without_padding_behind() {
        let rows = [
            vec!["a".into(), "b".into()],
            vec!["long".into(), String::new()],
        ];
        assert_eq!(align(&rows), "a     b\nlong\n");
    }

    #[test]
    fn span_is_short_at_every_size() {
        let spans = [5, 65, 3725, 90_000].map(span);
        assert_eq!(spans, ["5s", "1m05s", "1h02m", "1d01h"]);
    }
}
