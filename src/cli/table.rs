//! Aligned tables, and numbers in a readable form.

use std::time::Duration;

/// Formats rows as columns two spaces apart; the first row is the heading. Columns in `right` are aligned right.
pub(super) fn table(rows: &[Vec<String>], right: &[usize]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let space = " ".repeat(widths[column] - cell.chars().count());
            let gap = if column == 0 { "" } else { "  " };
            let cell =
                if right.contains(&column) { format!("{space}{cell}") } else { format!("{cell}{space}") };
            line.push_str(gap);
            line.push_str(&cell);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Replaces control characters, so that text from the network cannot move the cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Formats a number of bytes: `512 B`, `4.4 KiB`.
pub(super) fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// Formats milliseconds in their two largest units: `45s`, `2m 3s`, `1h 2m`.
pub(super) fn span(millis: u64) -> String {
    let seconds = Duration::from_millis(millis).as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [["ID", "N"], ["long-id", "7"], ["a", "1234"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows, &[1]), "ID          N\nlong-id     7\na        1234\n");
        assert_eq!(table(&rows, &[]), "ID       N\nlong-id  7\na        1234\n");
    }

    #[test]
    fn times_and_sizes_are_short() {
        assert_eq!(span(900), "0s");
        assert_eq!(span(123_000), "2m 3s");
        assert_eq!(span(3_720_000), "1h 2m");
        assert_eq!(span(90_000_000), "1d 1h");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(4500), "4.4 KiB");
    }

    #[test]
    fn nothing_from_the_network_moves_the_cursor() {
        assert_eq!(plain("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
