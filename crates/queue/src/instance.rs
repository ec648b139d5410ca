//! Which services live. Each holds the lock of a file beside the queue as long as it does; the operating system lets go
//! of it however the service ends. A WAL file is shared on one machine only, so these locks tell of every service on it.
//!
//! It only shortens the wait: a lease of a service that can't be told dead (frozen, or its file is gone) expires.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use uuid::Uuid;

/// This service's own name and lock.
#[derive(Debug)]
pub struct ServiceInstance {
    id: Arc<str>,
    path: PathBuf,
    /// The queue's file name and `-owner-`; names follow it.
    prefix: String,
    /// Leases of it are left that nobody could end.
    leaves_leases: AtomicBool,
    _lock: File,
}

impl ServiceInstance {
    /// Takes a name, and its lock, beside the queue file.
    pub fn register(queue: &Path) -> io::Result<Self> {
        let file = queue.file_name().unwrap_or_default().to_string_lossy();
        let (prefix, id) = (format!("{file}-owner-"), Uuid::new_v4().to_string());
        let path = queue.with_file_name(format!("{prefix}{id}"));
        // Locked before it has its name, or another service could find it free in between.
        let fresh = queue.with_file_name(format!("{file}-new-{id}"));
        let lock = File::create(&fresh)?;
        lock.try_lock().map_err(io::Error::from)?;
        fs::rename(&fresh, &path)?;
        Ok(Self { id: id.into(), path, prefix, leaves_leases: AtomicBool::new(false), _lock: lock })
    }

    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The file stays when this ends, so that another service finds it dead at once and ends its leases.
    pub fn leave_leases(&self) {
        self.leaves_leases.store(true, Ordering::Relaxed);
    }

    /// The services that have ended without taking their file away.
    pub fn find_dead(&self) -> io::Result<Vec<DeadInstance>> {
        let mut dead = Vec::new();
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_prefix(&self.prefix)).filter(|id| **id != *self.id) else {
                continue;
            };
            // One that went away meanwhile is no error.
            let Ok(lock) = File::open(entry.path()) else { continue };
            if lock.try_lock().is_ok() {
                dead.push(DeadInstance { id: id.to_owned(), path: entry.path(), _lock: lock });
            }
        }
        Ok(dead)
    }
}

impl Drop for ServiceInstance {
    fn drop(&mut self) {
        // What is left behind is found dead by the next service.
        if !self.leaves_leases.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A service that has ended; its lock is held here, so that one service at a time cleans up after it.
#[derive(Debug)]
pub struct DeadInstance {
    pub id: String,
    path: PathBuf,
    _lock: File,
}

impl DeadInstance {
    /// Its leases are ended.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_told_from_the_dead() {
        let folder = tempfile::tempdir().unwrap();
        let queue = folder.path().join("queue.db");
        let (one, other) = (ServiceInstance::register(&queue).unwrap(), ServiceInstance::register(&queue).unwrap());
        assert!(one.find_dead().unwrap().is_empty());
        let id = other.id().to_string();
        // As a crash leaves it: the file stays, the lock does not.
        fs::copy(&other.path, folder.path().join("copy")).unwrap();
        let path = other.path.clone();
        drop(other);
        fs::rename(folder.path().join("copy"), &path).unwrap();
        let mut dead = one.find_dead().unwrap();
        assert_eq!(dead.iter().map(|dead| dead.id.as_str()).collect::<Vec<_>>(), [id]);
        dead.remove(0).remove();
        assert!(one.find_dead().unwrap().is_empty() && !path.exists());
    }
}
