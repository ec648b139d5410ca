//! A PgBouncer in front of the real PostgreSQL.

use std::{os::unix::fs::PermissionsExt, process::Stdio};

use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{eventually, real};

pub struct Bouncer {
    pub address: String,
    _process: Child,
    _folder: TempDir,
}

impl Bouncer {
    /// Starts PgBouncer in a mode (`session`, `transaction`) with this many server connections per
    /// user. Without a real PostgreSQL it prints a message and returns `None`.
    pub async fn start(mode: &str, pool_size: u32) -> Option<Self> {
        let Some(server) = real("POSTGRES") else {
            println!("NOT RUN: PgBouncer needs a real PostgreSQL: eval \"$(scripts/services env)\"");
            return None;
        };
        let server: PgConnectOptions = server.parse().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let folder = tempfile::tempdir().unwrap();
        // PgBouncer does not run as root: another user must be able to read the file.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_user = {}\nauth_query = SELECT usename, '' FROM pg_catalog.pg_shadow WHERE usename = $1\n\
             pool_mode = {mode}\ndefault_pool_size = {pool_size}\nmax_client_conn = 1000\n",
            server.get_host(),
            server.get_port(),
            server.get_username(),
        );
        let file = folder.path().join("pgbouncer.ini");
        std::fs::write(&file, settings).unwrap();
        // Debian's path, which is only in root's PATH.
        let debian = std::path::Path::new("/usr/sbin/pgbouncer");
        let mut command = Command::new(if debian.exists() { debian.to_str().unwrap() } else { "pgbouncer" });
        if is_root() {
            command.args(["-u", "nobody"]);
        }
        let process = command
            .arg(&file)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pgbouncer is needed: Debian's pgbouncer; .ci/run installs it");
        let address = format!("127.0.0.1:{port}");
        eventually("PgBouncer listens", || async { tokio::net::TcpStream::connect(&address).await.is_ok() }).await;
        Some(Self { address, _process: process, _folder: folder })
    }
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t"))
}
