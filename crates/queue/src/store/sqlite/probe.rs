//! Checks that the queue file still is the file that was opened.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::ProbeError;

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

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn display(&self) -> String {
        format!("queue file {}", self.path.display())
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
    pub fn check(&self) -> Result<(), ProbeError> {
        let file = || self.display();
        let lost = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => ProbeError::Replaced { queue: file() },
            _ => ProbeError::Unreadable { queue: file(), source: error },
        };
        let now = Self::of(&self.path).map_err(lost)?;
        fs::metadata(self.log()).map_err(lost)?;
        if now.file == self.file { Ok(()) } else { Err(ProbeError::Replaced { queue: file() }) }
    }
}
