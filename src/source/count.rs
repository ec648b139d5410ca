//! Counting a selection: in one statement, or in pieces where that had to give way.

use super::{Backend, Mapping, Selection, Source, SourceError, StoredRange, postgres, select, sqlite};

/// Rows of a selection.
///
/// # Errors
/// There are rows with no key, or the store is away or refuses.
pub async fn rows(store: &Source, mapping: &Mapping, selection: &Selection) -> Result<u64, SourceError> {
    let mut left = vec![select::range(mapping, selection)];
    let (mut rows, mut keys) = (0, 0);
    while let Some(range) = left.pop() {
        match piece(store, mapping, selection, &range).await {
            Ok(piece) => {
                rows += piece.0;
                keys += piece.1;
            }
            // Without an index each piece would take as long as the whole: it is tried again until it gets through.
            Err(SourceError::GaveWay) => match halves(&range).filter(|_| mapping.has_index) {
                Some(halves) => left.extend(halves),
                None => left.push(range),
            },
            Err(error) => return Err(error),
        }
    }
    if keys < rows {
        return Err(SourceError::MissingRowKey { device: selection.device, rows: rows - keys });
    }
    Ok(rows)
}

async fn piece(store: &Source, mapping: &Mapping, selection: &Selection, range: &StoredRange) -> Result<(u64, u64), SourceError> {
    let query = select::count(mapping, selection.device, range);
    Ok(match &store.backend {
        Backend::Postgres(server) => postgres::count(server, &query).await?,
        Backend::Sqlite(pool) => sqlite::count(pool, &query).await?,
    })
}

/// The later half, and the earlier.
fn halves(range: &StoredRange) -> Option<[StoredRange; 2]> {
    let from = range.from.filter(|from| *from < range.to)?;
    // Rounds down. `midpoint` rounds towards zero, so before 1970 one half of a range of two would be
    // the whole range.
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
