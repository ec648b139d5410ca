//! Standard output, which may be closed by its reader: `data-patch demo | head`.

use std::io::{self, Write};

/// The exit code that shells report for a process killed by SIGPIPE: 128 + 13.
pub const EXIT_CODE: u8 = 141;

/// The reader has closed the output. This is not reported as an error.
#[derive(Debug, thiserror::Error)]
#[error("the reader has closed the output")]
pub struct ReaderGone;

/// Prints a line.
///
/// # Errors
/// [`ReaderGone`], or a write error, for example on a full disk.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => Ok(written?),
    }
}
