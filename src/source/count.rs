//! Counting a selection: in one statement, or in halves if that statement blocks other sessions.

use super::{Mapping, Selection, Source, SourceError, StoredRange, backend::ReadingsBackend as _, select};

/// Counts the rows of a selection.
///
/// # Errors
/// There are rows without a key, or the source is unavailable or rejects the query.
pub async fn rows(source: &Source, mapping: &Mapping, selection: &Selection) -> Result<u64, SourceError> {
    let mut pending = vec![select::range(mapping, selection)];
    let (mut rows, mut keys) = (0, 0);
    while let Some(range) = pending.pop() {
        match source.shared.readings.count(mapping, selection.device, &range).await {
            Ok(counted) => {
                rows += counted.rows;
                keys += counted.keys;
            }
            // Without an index, half a range takes as long to count as the whole, so the whole is
            // tried again.
            Err(SourceError::Yielded) => match halves(&range).filter(|_| mapping.has_index) {
                Some(halves) => pending.extend(halves),
                None => pending.push(range),
            },
            Err(error) => return Err(error),
        }
    }
    if keys < rows {
        return Err(SourceError::MissingRowKey { device: selection.device, rows: rows - keys });
    }
    Ok(rows)
}

/// The later half and the earlier half.
fn halves(range: &StoredRange) -> Option<[StoredRange; 2]> {
    let from = range.from.filter(|from| *from < range.to)?;
    // Rounds down. `midpoint` rounds towards zero, so before 1970 one half of a range of two would
    // be the whole range.
    let middle = (from & range.to) + ((from ^ range.to) >> 1);
    let earlier = StoredRange { to: middle, ..range.clone() };
    Some([StoredRange { from: Some(middle + 1), ..range.clone() }, earlier])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn halves_meet(from in -1_000_i64..1_000, length in 0_i64..1_000) {
            let range = StoredRange { from: Some(from), to: from + length, holes: Vec::new() };
            match halves(&range) {
                None => prop_assert_eq!(length, 0),
                Some([late, early]) => {
                    prop_assert_eq!((early.from, late.to), (range.from, range.to));
                    prop_assert_eq!(late.from, Some(early.to + 1));
                    prop_assert!(early.from.unwrap() <= early.to && late.from.unwrap() <= late.to);
                }
            }
        }
    }
}
