//! The tokens that are accepted: that of the start parameter, and those of `server.tokens_file`,
//! which is read again when it changes.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    DEFAULT_NAME,
    tokens_file::{self, NamedToken, TokensFileError},
};
use crate::protocol::{Identity, Role, Token};

/// How often the file is read. Its text is compared, since its time and size need not change when it
/// does; it is small.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// The tokens that are accepted.
#[derive(Debug)]
pub struct Tokens {
    start: NamedToken,
    file: Option<PathBuf>,
    current: watch::Sender<Vec<NamedToken>>,
}

impl Tokens {
    /// The token of the start parameter, and those of a file.
    ///
    /// # Errors
    /// The file cannot be read, or has a problem.
    pub fn load(start: Token, file: Option<&Path>) -> Result<Self, TokensFileError> {
        let start = NamedToken { identity: Identity::new(DEFAULT_NAME, Role::Operator), token: start };
        let mut all = vec![start.clone()];
        if let Some(path) = file {
            all.extend(tokens_file::read(path, std::slice::from_ref(&start))?);
        }
        Ok(Self { start, file: file.map(Path::to_owned), current: watch::Sender::new(all) })
    }

    /// Whose token `candidate` is, if it is one. The time does not tell which token it is.
    pub fn authenticate(&self, candidate: &str) -> Option<Identity> {
        let (candidate, current) = (Token::new(candidate), self.current.borrow());
        let position = candidate.position(current.iter().map(|named| &named.token))?;
        current.get(position).map(|named| named.identity.clone())
    }

    /// Whether a token is still accepted.
    pub fn accepts(&self, token: &Token) -> bool {
        token.position(self.current.borrow().iter().map(|named| &named.token)).is_some()
    }

    /// Receives a notification whenever tokens were added, changed or removed.
    pub fn subscribe(&self) -> watch::Receiver<Vec<NamedToken>> {
        self.current.subscribe()
    }

    /// The number of tokens of the file.
    pub fn named(&self) -> usize {
        self.current.borrow().len().saturating_sub(1)
    }

    /// Reads the file again whenever it changes, until `stop`. While it has a problem, the tokens
    /// stay as they are.
    pub async fn follow_file(self: Arc<Self>, stop: CancellationToken) {
        let Some(path) = self.file.clone() else { return };
        let mut ticks = interval(RELOAD_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The text that was read last, or why it could not be read.
        let mut last = None;
        let mut is_broken = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let reading = {
                let path = path.clone();
                tokio::task::spawn_blocking(move || tokens_file::read_text(&path).map_err(|error| error.to_string()))
            };
            let Ok(read) = reading.await else { return };
            if last.as_ref() == Some(&read) {
                continue;
            }
            let parsed = read.as_ref().map_err(Clone::clone).and_then(|text| {
                tokens_file::parse(&path, text, std::slice::from_ref(&self.start)).map_err(|error| error.to_string())
            });
            let was_broken = std::mem::replace(&mut is_broken, parsed.is_err());
            match parsed {
                Ok(tokens) => {
                    if was_broken {
                        tracing::info!(file = %path.display(), "the tokens file can be read again");
                    }
                    self.replace(tokens, &path);
                }
                Err(error) => tracing::error!(error, "the tokens file has a problem; the previous tokens stay valid"),
            }
            last = Some(read);
        }
    }

    /// Replaces the tokens of the file.
    fn replace(&self, tokens: Vec<NamedToken>, path: &Path) {
        let new = std::iter::once(self.start.clone()).chain(tokens).collect::<Vec<_>>();
        let (added, removed) = {
            let old = self.current.borrow();
            (missing_in(&old, &new), missing_in(&new, &old))
        };
        if added.is_empty() && removed.is_empty() {
            return;
        }
        let named = new.len().saturating_sub(1);
        self.current.send_replace(new);
        let (added, removed) = (added.join(", "), removed.join(", "));
        tracing::info!(file = %path.display(), added, removed, named, "the tokens file has changed");
    }
}

/// The names of those tokens of `tokens` that `list` does not have with the same role.
fn missing_in(list: &[NamedToken], tokens: &[NamedToken]) -> Vec<String> {
    let has = |token: &NamedToken| list.iter().any(|other| other.identity == token.identity && other.token.is(&token.token));
    tokens.iter().filter(|token| !has(token)).map(|token| token.identity.name.to_string()).collect()
}
