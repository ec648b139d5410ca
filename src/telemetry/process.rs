//! The metrics of the process, by the names that all Prometheus clients use
//! (<https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>). They have no
//! prefix. A value that the system does not tell is omitted.

use std::{
    fs,
    sync::{LazyLock, atomic::AtomicU64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    metrics::counter::Counter,
    registry::{Registry, Unit},
};
use rustix::{
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

use super::{float_gauge, integer_gauge};

/// Ticks per second of the times in `/proc/self/stat`: the same on all architectures of Linux,
/// whatever the kernel's own clock is (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The time of the system's start, in seconds since 1970. It is determined once: with each step of
/// the wall clock the difference changes, and the process would seem to have been restarted.
static BOOT_SECONDS: LazyLock<Option<f64>> = LazyLock::new(|| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let up = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    Some(now.as_secs_f64() - up.as_secs_f64())
});

/// Registers the metrics of this process with their present values.
pub fn register(registry: &mut Registry) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(seconds) = cpu_seconds(&stat) {
        let cpu = Counter::<f64, AtomicU64>::default();
        cpu.inc_by(seconds);
        registry.register_with_unit("process_cpu", "User and system CPU time of the process", Unit::Seconds, cpu);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = resident_bytes(&status) {
        registry.register_with_unit(
            "process_resident_memory",
            "Resident memory of the process",
            Unit::Bytes,
            integer_gauge(bytes),
        );
    }
    if let Some(seconds) = BOOT_SECONDS.and_then(|boot| start_seconds(&stat, boot)) {
        let help = "Start of the process, in seconds since 1970";
        registry.register_with_unit("process_start_time", help, Unit::Seconds, float_gauge(seconds));
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // One of them is this directory.
        let open = entries.count().saturating_sub(1);
        registry.register("process_open_fds", "Open file descriptors", integer_gauge(open as u64));
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        registry.register("process_max_fds", "The limit of open file descriptors", integer_gauge(limit));
    }
}

/// A numeric field of `/proc/self/stat` by its number in proc(5). The second field is the name of
/// the program, which may contain spaces and parentheses.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_seconds(stat: &str, boot_seconds: f64) -> Option<f64> {
    Some(boot_seconds + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let kibibytes: u64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_program_name() {
        let stat =
            "42 (data) patch) S 1 42 42 0 -1 4194560 900 0 0 0 250 150 0 0 20 0 9 0 12300 1000000 2000 18446744073709551615";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(start_seconds(stat, 1_700_000_000.0), Some(1_700_000_123.0));
        assert_eq!(resident_bytes("VmPeak:\t  10 kB\nVmRSS:\t     512 kB\n"), Some(524_288));
    }

    #[test]
    fn a_text_of_another_form_gives_no_value() {
        for text in ["", "42 (data-patch", "42 (data-patch) S 1", "VmRSS: many kB"] {
            assert_eq!((cpu_seconds(text), start_seconds(text, 0.0), resident_bytes(text)), (None, None, None), "{text:?}");
        }
    }
}
