//! Named points at which a test kills the process, as a crash would, or panics a thread. Without
//! the feature `enabled`, [`hit`] does nothing.
//!
//! ```
//! // `FAILPOINT=commit:3` in the environment kills the process at the third call with this name.
//! data_patch_failpoint::hit("commit");
//! ```

/// Kills the process with SIGKILL if `FAILPOINT` names this point: `name`, or `name:3` for the
/// third hit. `FAILPOINT_PANIC` has the same format and panics instead.
///
/// # Panics
/// If `FAILPOINT_PANIC` names this point.
#[cfg(feature = "enabled")]
pub fn hit(name: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    struct Failpoint {
        name: String,
        hits_left: AtomicU64,
    }
    static KILL: OnceLock<Option<Failpoint>> = OnceLock::new();
    static PANIC: OnceLock<Option<Failpoint>> = OnceLock::new();

    fn is_reached(failpoint: &OnceLock<Option<Failpoint>>, variable: &str, name: &str) -> bool {
        let failpoint = failpoint.get_or_init(|| {
            let text = std::env::var(variable).ok()?;
            let (name, hits) = text.split_once(':').unwrap_or((&text, "1"));
            Some(Failpoint { name: name.to_owned(), hits_left: AtomicU64::new(hits.parse().ok()?) })
        });
        failpoint.as_ref().is_some_and(|point| point.name == name && point.hits_left.fetch_sub(1, Ordering::Relaxed) == 1)
    }

    if is_reached(&KILL, "FAILPOINT", name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    assert!(!is_reached(&PANIC, "FAILPOINT_PANIC", name), "FAILPOINT_PANIC={name}");
}

/// Does nothing: the feature `enabled` is off.
#[cfg(not(feature = "enabled"))]
#[inline]
pub fn hit(_: &str) {}
