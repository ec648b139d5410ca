//! Formats a table as text. Widths are in terminal columns, of which a Chinese character takes two.

use console::{Alignment, measure_text_width, pad_str};

/// The lines of a table. The first column is left-aligned, the others are right-aligned.
pub fn lines<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let head = head.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let mut widths = [0; N];
    for row in all() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = measure_text_width(cell).max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            pad_str(cell, width, if column == 0 { Alignment::Left } else { Alignment::Right }, None).into_owned()
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    let rule = widths.map(|width| "─".repeat(width)).join("──");
    let mut lines: Vec<_> = all().map(line).collect();
    lines.insert(1, rule);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_also_in_chinese() {
        let rows = [["渗压计".to_owned(), "7".to_owned()], ["a".to_owned(), "1413".to_owned()]];
        assert_eq!(lines(["device", "rows"], &rows), ["device  rows", "────────────", "渗压计     7", "a       1413"]);
    }
}
