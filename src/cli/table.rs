//! Formats a table as text. Widths are in terminal columns, of which a Chinese character takes two.

use console::{Alignment, measure_text_width, pad_str};

/// The lines of a table. The first column is left-aligned, the others are right-aligned.
pub fn lines<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let mut alignments = [Alignment::Right; N];
    if let Some(first) = alignments.first_mut() {
        *first = Alignment::Left;
    }
    aligned(head, alignments, rows)
}

/// The lines of a table whose columns are aligned as given.
pub fn aligned<const N: usize>(head: [&str; N], alignments: [Alignment; N], rows: &[[String; N]]) -> Vec<String> {
    let head = head.map(str::to_owned);
    let all = || std::iter::once(&head).chain(rows);
    let mut widths = [0; N];
    for row in all() {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = measure_text_width(cell).max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).zip(alignments);
        let cells = cells.map(|((cell, width), alignment)| pad_str(cell, width, alignment, None).into_owned());
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
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
