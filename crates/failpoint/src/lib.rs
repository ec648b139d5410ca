//! Points at which a test kills the process, as a crash would, or a thread of it, as a panic would. Without the feature
//! `enabled` nothing is left of them.

/// Ends the process with SIGKILL if `FAILPOINT` names this point: `name`, or `name:3` for the third time that it is passed.
/// `FAILPOINT_PANIC` ends the thread with a panic instead.
///
/// # Panics
/// Where `FAILPOINT_PANIC` says so.
#[cfg(feature = "enabled")]
pub fn hit(name: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    struct At {
        name: String,
        passes: AtomicU64,
    }
    static KILL_AT: OnceLock<Option<At>> = OnceLock::new();
    static PANIC_AT: OnceLock<Option<At>> = OnceLock::new();

    fn reached(at: &OnceLock<Option<At>>, variable: &str, name: &str) -> bool {
        let at = at.get_or_init(|| {
            let text = std::env::var(variable).ok()?;
            let (name, passes) = text.split_once(':').unwrap_or((&text, "1"));
            Some(At { name: name.to_owned(), passes: AtomicU64::new(passes.parse().ok()?) })
        });
        at.as_ref().is_some_and(|at| at.name == name && at.passes.fetch_sub(1, Ordering::Relaxed) == 1)
    }

    if reached(&KILL_AT, "FAILPOINT", name) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    assert!(!reached(&PANIC_AT, "FAILPOINT_PANIC", name), "FAILPOINT_PANIC={name}");
}

#[cfg(not(feature = "enabled"))]
#[inline]
pub fn hit(_: &str) {}
