//! How long a window must be to have about as many rows as a page.

/// A window that is never full wastes requests, and one that is always too full wastes pages.
const TARGET: f64 = 0.8;
/// A window grows at most this much at a time.
const MAX_GROWTH: f64 = 8.0;

/// The length of the next window in milliseconds; unknown before the first, which is as long as the
/// range: its page also tells how many rows there are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span(Option<i64>);

impl Span {
    /// The end of the window that begins here.
    pub fn end(self, start_ms: i64, end_ms: i64) -> i64 {
        self.0.map_or(end_ms, |span| start_ms.saturating_add(span).min(end_ms))
    }

    /// Adapts to a window of which `covered_ms` were read, with so many rows.
    pub fn adapt(&mut self, rows: usize, covered_ms: i64, page_rows: u32) {
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "an estimate")]
        let span = {
            let covered = covered_ms.max(1) as f64;
            let wanted = if rows == 0 { f64::INFINITY } else { covered * f64::from(page_rows) * TARGET / rows as f64 };
            wanted.clamp(1.0, covered * MAX_GROWTH) as i64
        };
        self.0 = Some(span.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_adapt_to_the_density_of_rows() {
        let mut span = Span::default();
        assert_eq!(span.end(5, 1_000_000), 1_000_000);
        span.adapt(1_000, 1_000, 1_000);
        assert_eq!(span.end(0, 1_000_000), 800);
        span.adapt(0, 800, 1_000);
        assert_eq!(span.end(0, 1_000_000), 6_400);
        span.adapt(0, 1, 1);
        assert_eq!(span.end(0, 1_000_000), 8);
        span.adapt(1_000_000, 10, 1_000);
        assert_eq!(span.end(3, 1_000_000), 4);
    }
}
