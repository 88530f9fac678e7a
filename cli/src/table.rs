// SPDX-License-Identifier: Apache-2.0
//! Tables for people.

/// Aligns the cells of rows in columns, without padding at the end of lines.
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

/// A time span for people.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A number of bytes for people, in at most five characters except for the largest.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut unit = 1;
    for name in ["B", "K", "M", "G", "T"] {
        let (whole, tenths) = (bytes / unit, bytes % unit * 10 / unit);
        match (whole, name) {
            (..10, "K" | "M" | "G" | "T") => return format!("{whole}.{tenths}{name}"),
            (..1000, _) | (_, "T") => return format!("{whole}{name}"),
            _ => unit *= 1024,
        }
    }
    // Not reached: the last unit takes every number.
    String::new()
}

/// Processor time for people.
pub(crate) fn cpu_time(ns: u64) -> String {
    let (seconds, hundredths) = (ns / 1_000_000_000, ns / 10_000_000 % 100);
    match seconds {
        ..60 => format!("{seconds}.{hundredths:02}s"),
        _ => span(seconds),
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

    #[test]
    fn bytes_are_short_at_every_size() {
        let sizes = [
            0,
            999,
            1000,
            4096,
            10 << 10,
            1023 << 10,
            1 << 20,
            3 << 30,
            5 << 40,
        ];
        let told = sizes.map(bytes);
        let wanted = [
            "0B", "999B", "0.9K", "4.0K", "10K", "0.9M", "1.0M", "3.0G", "5.0T",
        ];
        assert_eq!(told, wanted);
        assert_eq!(bytes(u64::MAX), "16777215T");
    }

    #[test]
    fn processor_time_is_precise_while_it_is_short() {
        let times = [0, 1_020_000_000, 61_000_000_000].map(cpu_time);
        assert_eq!(times, ["0.00s", "1.02s", "1m01s"]);
    }
}
