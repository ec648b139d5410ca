//! Standard output, whose reader may leave: `data-patch demo | head`.

use std::io::{self, Write};

/// The exit code that a shell shows for a program that SIGPIPE has ended: 128 + 13.
pub const EXIT_CODE: u8 = 141;

/// Nobody reads the output any more. It is no fault, and nothing is to be said of it.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub struct ReaderGone;

/// Prints a line.
///
/// # Errors
/// [`ReaderGone`], or the output can't be written, as on a full disk.
pub fn line(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => Ok(written?),
    }
}
