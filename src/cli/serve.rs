//! `data-patch serve`.

use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::ServeArgs;
use crate::{
    api, app,
    config::{Config, ConfigError, Overrides},
    protocol::Token,
};

pub async fn run(args: ServeArgs) -> anyhow::Result<ExitCode> {
    let mut overrides = Overrides::default();
    if let Some(listen) = args.listen {
        overrides.set_flag("--listen", &["server", "listen"], listen.to_string());
    }
    let mut config = super::load(&args.config, overrides)?;
    let token = token(&config, args.token)?;
    super::log(&config)?;
    config.server.max_connections = fit_connections(config.server.max_connections);
    let address = config.server.listen;
    let listener = api::listen(address)
        .with_context(|| format!("can't listen on {address} (server.listen); is another service on this port?"))?;
    let stop = CancellationToken::new();
    stop_on_signal(stop.clone())?;
    if args.until_stdin_ends {
        stop_with_stdin(stop.clone());
    }
    app::run(config, token, listener, None, stop).await?;
    Ok(ExitCode::SUCCESS)
}

/// Raises the limit of open files, which is 1,024 on many systems, and returns how many connections
/// fit, at most `connections`. A service without free file descriptors cannot accept connections,
/// and cannot open its queue, the source or a broker connection.
fn fit_connections(connections: usize) -> usize {
    /// For the queue (three files per connection), the source, the listener, and a connection from
    /// each producer to each broker.
    const RESERVED_FDS: usize = 256;
    let extra = RESERVED_FDS + api::EXTRA_SOCKETS;
    let needed = (connections + extra) as u64;
    let limit = getrlimit(Resource::Nofile);
    let mut allowed = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    if limit.current.is_some_and(|current| current < allowed)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
        allowed = limit.current.unwrap_or(allowed).min(allowed);
    }
    if allowed >= needed {
        return connections;
    }
    // With a very low limit, half of it is used for connections.
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
    let connections_that_fit = allowed.saturating_sub(extra).max(allowed / 2).min(connections).max(1);
    tracing::warn!(
        allowed,
        needed,
        connections = connections_that_fit,
        "the limit of open files is too low for server.max_connections, so fewer connections are accepted; raise the hard limit (ulimit -Hn)"
    );
    connections_that_fit
}

/// Returns the token from the argument or the variable, or else from the configured file.
fn token(config: &Config, argument: Option<String>) -> anyhow::Result<Token> {
    let token = match (argument, &config.server.token_file) {
        (Some(token), _) => token,
        (None, Some(path)) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("server.token_file: {} cannot be read", path.display()))?;
            text.lines().next().unwrap_or_default().trim().to_owned()
        }
        (None, None) => return Err(ConfigError::NoToken.into()),
    };
    anyhow::ensure!(!token.is_empty(), "the token is empty");
    Ok(Token::new(&token))
}

/// Stops gracefully when standard input ends. It does when the process that holds its other end is
/// gone, however that ended.
fn stop_with_stdin(stop: CancellationToken) {
    // A thread of its own: reading blocks, and must not keep the runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.cancel();
    });
}

/// The first SIGTERM or Ctrl-C stops gracefully, the second at once.
pub fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn(async move {
        for first in [true, false] {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            if first {
                stop.cancel();
            } else {
                tracing::warn!("second signal: exiting at once; unfinished tasks continue at the next start");
                std::process::exit(code);
            }
        }
    });
    Ok(())
}
