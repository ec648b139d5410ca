//! Whether the queue can be written, tried by writing.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use tokio::task::spawn_blocking;

use super::{Queue, QueueError, writer::Tx};

/// Why the queue can't be written, or what is written would be lost.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(
        "queue file {file} was removed or replaced while it is in use: what this service stores is lost when it ends. \
         Move the right file back, or restart the service to go on with what is there now"
    )]
    Replaced { file: String },
    #[error("queue file {file} can't be looked at: {source}")]
    Unreadable { file: String, source: io::Error },
}

/// The file that was opened, told from another that has its name later.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl Identity {
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }

    /// Bytes of the file and of its write-ahead log.
    pub fn bytes(&self) -> u64 {
        [self.path.clone(), self.log()].iter().filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum()
    }

    fn log(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push("-wal");
        name.into()
    }

    /// The write-ahead log holds what was committed last, and is there as long as a connection is.
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
    /// Commits a small change, and looks whether the file that it went to still is the one of its name.
    ///
    /// # Errors
    /// The file can't be written, or it was removed or replaced.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        self.inner.writer.write(|tx: &mut Tx<'_>| tx.touch()).await?;
        let file = self.inner.file.clone();
        spawn_blocking(move || file.check()).await.map_err(|_| QueueError::Closed)?
    }

    /// Bytes that the queue takes on the disk.
    pub async fn disk_bytes(&self) -> u64 {
        let file = self.inner.file.clone();
        spawn_blocking(move || file.bytes()).await.unwrap_or_default()
    }
}
