//! Checks that the queue file can be written and still is the file that was opened.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;

use super::writer::Tx;
use crate::{Queue, QueueError};

/// Why the queue cannot be written, or why its writes would be lost.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(
        "queue file {file} was removed or replaced while it is in use: everything this service stores is lost when it ends. \
         Restore the original file, or restart the service to continue with the current one"
    )]
    Replaced { file: String },
    #[error("the metadata of queue file {file} cannot be read: {source}")]
    Unreadable { file: String, source: io::Error },
}

/// Identifies the file that was opened, even if another one has its name later.
#[derive(Debug, Clone)]
pub struct Identity {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl Identity {
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    /// The size of the file and its write-ahead log in bytes.
    pub fn bytes(&self) -> u64 {
        [self.path.clone(), self.log()].iter().filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
    }

    fn log(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push("-wal");
        name.into()
    }

    /// Checks the file and its write-ahead log, which contains the latest commits and exists while
    /// a connection is open.
    fn check(&self) -> Result<(), ProbeError> {
        let file = || self.path.display().to_string();
        let lost = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ProbeError::Replaced { file: file() },
            _ => ProbeError::Unreadable { file: file(), source: error },
        };
        let now = Self::of(&self.path).map_err(lost)?;
        fs::metadata(self.log()).map_err(lost)?;
        if now.file == self.file { Ok(()) } else { Err(ProbeError::Replaced { file: file() }) }
    }
}

impl Queue {
    /// Commits a small change and checks that the path still names the file that was written.
    ///
    /// # Errors
    /// The file cannot be written, or it was removed or replaced.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        self.inner.writer.write(|tx: &mut Tx<'_>| tx.touch()).await?;
        let file = self.inner.file.clone();
        spawn_blocking(move || file.check()).await.map_err(|_| QueueError::Closed)?
    }

    /// The size of the queue on disk in bytes.
    pub async fn disk_bytes(&self) -> u64 {
        let file = self.inner.file.clone();
        spawn_blocking(move || file.bytes()).await.unwrap_or_default()
    }
}
