//! Two clocks. The wall clock is for times that are shown. Due times and leases use a steady clock
//! that steps of the wall clock do not affect. Otherwise a step back by an hour would delay every
//! waiting job by an hour, and a step forward would expire every lease.
//!
//! The steady clock is the system's monotonic clock, which all processes of a machine share, plus
//! an offset that is stored in the queue file, so that all services on the file agree. A new offset
//! is chosen after each boot.

use std::fs;

use chrono::Utc;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use rustix::time::{ClockId, clock_gettime};

use crate::Clock;

/// The two clocks of an open queue.
#[derive(Debug, Clone)]
pub struct QueueClock {
    source: Clock,
    offset_ms: i64,
}

impl QueueClock {
    /// Reads the offset from the file, or chooses a new one after a boot. After a boot, every due
    /// time becomes due at once: times measured before the boot are meaningless, and all leases of
    /// that machine are void.
    pub fn open(connection: &Connection, source: Clock) -> rusqlite::Result<Self> {
        let mut clock = Self { source, offset_ms: 0 };
        if matches!(clock.source, Clock::Manual(_)) {
            return Ok(clock);
        }
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let boot = boot_id();
        let stored = transaction
            .query_row("SELECT boot_id, offset_ms FROM clock", [], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
            .optional()?;
        match stored {
            Some((stored_boot, offset_ms)) if stored_boot == boot => clock.offset_ms = offset_ms,
            before => {
                clock.offset_ms = clock.wall_ms() - monotonic_ms();
                transaction.execute(
                    "INSERT INTO clock VALUES (1, ?1, ?2) ON CONFLICT DO UPDATE SET boot_id = ?1, offset_ms = ?2",
                    params![boot, clock.offset_ms],
                )?;
                if before.is_some() {
                    transaction.execute("UPDATE job SET due_at = ?1 WHERE due_at > ?1", [clock.steady_ms()])?;
                }
            }
        }
        transaction.commit()?;
        Ok(clock)
    }

    /// The wall clock, in milliseconds since 1970.
    pub fn wall_ms(&self) -> i64 {
        self.source.wall_ms()
    }

    /// The steady clock, in milliseconds. Comparable only with other values of this clock.
    pub fn steady_ms(&self) -> i64 {
        self.source.manual_ms().unwrap_or_else(|| monotonic_ms() + self.offset_ms)
    }
}

/// The clock behind `Instant`, which workers use for the end of their lease.
fn monotonic_ms() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
}

/// Identifies the current boot of the machine.
fn boot_id() -> String {
    // Without the kernel's boot id, the minute of the boot is used. A step of the wall clock then
    // counts as a boot.
    let by_time = |_| format!("booted in minute {}", (Utc::now().timestamp_millis() - monotonic_ms()) / 60_000);
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(by_time, |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue_file() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE clock (id INTEGER PRIMARY KEY, boot_id TEXT, offset_ms INTEGER);
                 CREATE TABLE job (due_at INTEGER);
                 INSERT INTO job VALUES (9000000000000000), (5), (NULL)",
            )
            .unwrap();
        connection
    }

    fn due(connection: &Connection) -> Vec<Option<i64>> {
        let mut select = connection.prepare("SELECT due_at FROM job").unwrap();
        select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn services_of_one_boot_share_a_clock_independent_of_the_wall_clock() {
        let connection = queue_file();
        let first = QueueClock::open(&connection, Clock::System).unwrap();
        assert!((first.steady_ms() - first.wall_ms()).abs() < 1_000);
        // As if the wall clock had been an hour ahead when the first service started.
        connection.execute("UPDATE clock SET offset_ms = offset_ms + 3600000", []).unwrap();
        let second = QueueClock::open(&connection, Clock::System).unwrap();
        assert_eq!(second.offset_ms, first.offset_ms + 3_600_000);
        assert_eq!(due(&connection), [Some(9_000_000_000_000_000), Some(5), None]);
    }

    #[test]
    fn after_a_boot_nothing_waits_for_a_time_of_the_old_clock() {
        let connection = queue_file();
        QueueClock::open(&connection, Clock::System).unwrap();
        connection.execute("UPDATE clock SET boot_id = 'before'", []).unwrap();
        let clock = QueueClock::open(&connection, Clock::System).unwrap();
        let due = due(&connection);
        assert!(due[0].is_some_and(|due| due <= clock.steady_ms()), "{due:?}");
        assert_eq!(due[1..], [Some(5), None]);
    }
}
