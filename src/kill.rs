//! Points at which a test kills the process, as a crash would. Without the feature `kill-points` nothing is left of them.

/// Ends the process with SIGKILL if `KILL_AT` names this point: `name`, or `name:3` for the third time that it is passed.
#[cfg(feature = "kill-points")]
pub fn point(name: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    struct At {
        name: String,
        passes: AtomicU64,
    }
    static AT: OnceLock<Option<At>> = OnceLock::new();

    let at = AT.get_or_init(|| {
        let text = std::env::var("KILL_AT").ok()?;
        let (name, passes) = text.split_once(':').unwrap_or((&text, "1"));
        Some(At { name: name.to_owned(), passes: AtomicU64::new(passes.parse().ok()?) })
    });
    if let Some(at) = at
        && at.name == name
        && at.passes.fetch_sub(1, Ordering::Relaxed) == 1
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

#[cfg(not(feature = "kill-points"))]
#[inline]
pub fn point(_: &str) {}
