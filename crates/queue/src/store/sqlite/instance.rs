//! Detects dead services. Each service locks a file beside the queue while it runs, and the
//! operating system releases the lock however the service ends. A WAL database is shared on one
//! machine only, so these locks cover every service on it.
//!
//! Detection only shortens the wait: the leases of a service that is frozen or whose lock file is
//! missing end by timeout.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use uuid::Uuid;

use crate::{
    InstanceProcess,
    instances::{Place, host_name},
    policy::millis,
};

/// This service's id and its lock.
#[derive(Debug)]
pub struct ServiceInstance {
    id: Arc<str>,
    path: PathBuf,
    /// The queue's file name followed by `-owner-`; the ids follow in the names of lock files.
    prefix: String,
    /// The service still has leases that could not be released.
    keep_file: AtomicBool,
    /// It was asked to hand its jobs back.
    is_draining: AtomicBool,
    version: String,
    started_at: Instant,
    pub place: Place,
    _lock: File,
}

impl ServiceInstance {
    /// Creates the lock file beside the queue file, and locks it.
    pub fn register(queue: &Path, version: &str) -> io::Result<Self> {
        let file = queue.file_name().unwrap_or_default().to_string_lossy();
        let (prefix, id) = (format!("{file}-owner-"), Uuid::new_v4().to_string());
        let path = queue.with_file_name(format!("{prefix}{id}"));
        // Locked under another name first. Otherwise another service could find the file unlocked
        // in between.
        let fresh = queue.with_file_name(format!("{file}-new-{id}"));
        let lock = File::create(&fresh)?;
        lock.try_lock().map_err(io::Error::from)?;
        fs::rename(&fresh, &path)?;
        Ok(Self {
            id: id.into(),
            path,
            prefix,
            keep_file: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            version: version.to_owned(),
            started_at: Instant::now(),
            place: Place::default(),
            _lock: lock,
        })
    }

    pub fn drain(&self, drains: bool) {
        self.is_draining.store(drains, Ordering::Relaxed);
    }

    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    /// This process.
    pub fn process(&self, now_ms: i64) -> InstanceProcess {
        InstanceProcess {
            host: host_name(),
            pid: std::process::id(),
            version: self.version.clone(),
            started_at_ms: now_ms - millis(self.started_at.elapsed()),
            silent_ms: 0,
        }
    }

    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Keeps the lock file on drop, so that another service finds this one dead at once and expires
    /// its leases.
    pub fn keep_lock_file(&self) {
        self.keep_file.store(true, Ordering::Relaxed);
    }

    /// The services that ended without removing their lock file. Finds the place among those that
    /// run, too.
    pub fn find_dead(&self) -> io::Result<Vec<DeadInstance>> {
        let (mut dead, mut before, mut others) = (Vec::new(), 0, 0);
        for entry in fs::read_dir(folder_of(&self.path))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_prefix(&self.prefix)).filter(|id| **id != *self.id) else {
                continue;
            };
            // A file that was removed in the meantime is not an error.
            let Ok(lock) = File::open(entry.path()) else { continue };
            if lock.try_lock().is_ok() {
                dead.push(DeadInstance { id: id.to_owned(), path: entry.path(), _lock: lock });
            } else {
                others += 1;
                before += u32::from(*id < *self.id);
            }
        }
        self.place.set(before, others);
        Ok(dead)
    }
}

/// The number of services that run on a queue file: those that have locked their lock files.
pub fn count_living(queue: &Path) -> io::Result<u64> {
    let prefix = format!("{}-owner-", queue.file_name().unwrap_or_default().to_string_lossy());
    let mut living = 0;
    for entry in fs::read_dir(folder_of(queue))? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix))
            && let Ok(lock) = File::open(entry.path())
            && matches!(lock.try_lock(), Err(TryLockError::WouldBlock))
        {
            living += 1;
        }
    }
    Ok(living)
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Drop for ServiceInstance {
    fn drop(&mut self) {
        // If removing fails, the next service finds this one dead.
        if !self.keep_file.load(Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A dead service. This value holds its lock, so that only one service cleans up after it.
#[derive(Debug)]
pub struct DeadInstance {
    pub id: String,
    path: PathBuf,
    _lock: File,
}

impl DeadInstance {
    /// Removes the lock file, after its leases have been expired.
    pub fn remove(self) {
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dead_instances_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let queue = folder.path().join("queue.db");
        let (one, other) = (ServiceInstance::register(&queue, "1").unwrap(), ServiceInstance::register(&queue, "1").unwrap());
        assert!(one.find_dead().unwrap().is_empty() && other.find_dead().unwrap().is_empty());
        assert_eq!(one.place.part_of(3) + other.place.part_of(3), 3);
        assert_ne!(one.place.part_of(3), other.place.part_of(3));
        let id = other.id().to_string();
        // The state after a crash: the file exists, the lock does not.
        fs::copy(&other.path, folder.path().join("copy")).unwrap();
        let path = other.path.clone();
        drop(other);
        fs::rename(folder.path().join("copy"), &path).unwrap();
        let mut dead = one.find_dead().unwrap();
        assert_eq!(dead.iter().map(|dead| dead.id.as_str()).collect::<Vec<_>>(), [id]);
        dead.remove(0).remove();
        assert!(one.find_dead().unwrap().is_empty() && !path.exists());
        assert_eq!(one.place.part_of(3), 3);
    }
}
