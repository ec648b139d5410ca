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

/// Each connection is an open file, and many systems allow a process 1,024 until it asks for more. Returns how many
/// connections can be open, at most `connections`: a service that runs out of files takes no connection any more, and can open
/// neither its queue nor a way to the store or a broker.
fn fit_connections(connections: usize) -> usize {
    /// Queue (three files for each reader and the writer), store, listener; and a connection to each broker from each producer.
    const RESERVED_FDS: usize = 256;
    let besides = RESERVED_FDS + api::EXTRA_SOCKETS;
    let wanted = (connections + besides) as u64;
    let limit = getrlimit(Resource::Nofile);
    let mut allowed = limit.maximum.map_or(wanted, |most| most.min(wanted));
    if limit.current.is_some_and(|current| current < allowed)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(allowed), maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files can't be raised");
        allowed = limit.current.unwrap_or(allowed).min(allowed);
    }
    if allowed >= wanted {
        return connections;
    }
    // Where there are hardly any, half of them.
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
    let fit = allowed.saturating_sub(besides).max(allowed / 2).min(connections).max(1);
    tracing::warn!(
        allowed,
        wanted,
        connections = fit,
        "this user may open too few files for server.max_connections, so fewer connections are taken; raise the hard limit (ulimit -Hn)"
    );
    fit
}

/// From the flag or the variable, else from the file that the configuration names.
fn token(config: &Config, given: Option<String>) -> anyhow::Result<Token> {
    let token = match (given, &config.server.token_file) {
        (Some(token), _) => token,
        (None, Some(path)) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("server.token_file: {} can't be read", path.display()))?;
            text.lines().next().unwrap_or_default().trim().to_owned()
        }
        (None, None) => return Err(ConfigError::NoToken.into()),
    };
    anyhow::ensure!(!token.is_empty(), "the token is empty; anybody could guess it");
    Ok(Token::new(&token))
}

/// Stops gently when standard input ends. It does when the process that holds its other end is gone, however that ended.
fn stop_with_stdin(stop: CancellationToken) {
    // A thread of its own: reading blocks, and must not keep the runtime from ending.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        stop.cancel();
    });
}

/// The first SIGTERM or Ctrl-C stops gently, the second at once.
pub fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT can't be listened for")?;
    tokio::spawn(async move {
        for first in [true, false] {
            let code = tokio::select! {
                _ = terminate.recv() => 143,
                _ = interrupt.recv() => 130,
            };
            if first {
                stop.cancel();
            } else {
                tracing::warn!("a second signal: leaving at once; unfinished tasks go on at the next start");
                std::process::exit(code);
            }
        }
    });
    Ok(())
}
