//! Limits the memory for messages that have not arrived completely.
//!
//! [`Metered`] wraps the connection of a WebSocket. It parses the frames as they arrive, charges
//! their bytes to one [`ReceiveBudget`] for all connections, and passes at most
//! [`MAX_BYTES_BEFORE_TOKEN`] bytes of a message on before the right token was read.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    auth::Tokens,
    early_token::EarlyToken,
    frames::{FrameReader, Step},
};

/// Maximum bytes of a message before the right token was read.
pub const MAX_BYTES_BEFORE_TOKEN: usize = 64 * 1_024;
/// Bytes of the buffer that each connection has anyway; smaller messages are not charged to the
/// budget.
pub const SOCKET_BUFFER: usize = 4 * 1_024;
/// A message that is charged to the budget must arrive completely within this time.
const MESSAGE_TIMEOUT: Duration = Duration::from_mins(1);

/// Bytes for the messages of all connections: a quarter for connections without a valid token, so
/// that they cannot exhaust it, and the rest for the others.
#[derive(Debug)]
pub struct ReceiveBudget {
    without_token: AtomicUsize,
    with_token: AtomicUsize,
}

impl ReceiveBudget {
    pub fn new(bytes: usize) -> Self {
        let without_token = bytes / 4;
        Self { without_token: AtomicUsize::new(without_token), with_token: AtomicUsize::new(bytes - without_token) }
    }

    fn remaining(&self, has_token: bool) -> &AtomicUsize {
        if has_token { &self.with_token } else { &self.without_token }
    }
}

/// Bytes charged to the budget, released on drop.
#[derive(Debug)]
struct Charge {
    budget: Arc<ReceiveBudget>,
    has_token: bool,
    bytes: usize,
}

impl Charge {
    fn take(budget: &Arc<ReceiveBudget>, has_token: bool, bytes: usize) -> Option<Self> {
        let remaining = budget.remaining(has_token);
        remaining.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |remaining| remaining.checked_sub(bytes)).ok()?;
        Some(Self { budget: Arc::clone(budget), has_token, bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.remaining(self.has_token).fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Why a client's message is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// The message exceeds the limit.
    Message,
    /// It exceeds the limit for clients without a valid token.
    BeforeToken,
    /// The budget of all connections is exhausted.
    Budget,
}

/// The state of the incoming messages of a connection.
#[derive(Debug, Default)]
pub struct Inbound {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    has_token: bool,
    /// The charge of the message that is arriving.
    arriving: Option<Charge>,
    started: Option<Instant>,
    /// The charge of the message that is being handled.
    arrived: Option<Charge>,
    excess: Option<Excess>,
}

impl Inbound {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics in the middle of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the client has sent the right token.
    pub fn authenticate(&self) {
        self.state().has_token = true;
    }

    /// Whether the right token was sent, possibly in a message that has not arrived completely.
    pub fn has_token(&self) -> bool {
        self.state().has_token
    }

    /// Releases the charge of the last message, which was handled.
    pub fn handled(&self) {
        self.state().arrived = None;
    }

    /// Why the last read failed, if it was rejected here.
    pub fn excess(&self) -> Option<Excess> {
        self.state().excess
    }

    /// Whether a large message has been arriving for too long.
    pub fn is_overdue(&self) -> bool {
        self.state().started.is_some_and(|started| started.elapsed() >= MESSAGE_TIMEOUT)
    }
}

/// A client's connection with limits on incoming messages.
pub struct Metered<S> {
    io: S,
    inbound: Arc<Inbound>,
    budget: Arc<ReceiveBudget>,
    tokens: Arc<Tokens>,
    max_message: u64,
    frames: FrameReader,
    early: EarlyToken,
    /// Bytes of the arriving message: announced by its frames, and received.
    announced: u64,
    received: usize,
    /// Received bytes that are not passed on before the token is known: the WebSocket allocates a
    /// whole frame as soon as it has its header.
    withheld: Vec<u8>,
}

impl<S> Metered<S> {
    pub fn new(io: S, inbound: Arc<Inbound>, budget: Arc<ReceiveBudget>, tokens: Arc<Tokens>, max_message: usize) -> Self {
        Self {
            io,
            inbound,
            budget,
            tokens,
            max_message: max_message as u64,
            frames: FrameReader::default(),
            early: EarlyToken::default(),
            announced: 0,
            received: 0,
            withheld: Vec::new(),
        }
    }

    /// Accounts received bytes. Returns true if they may be passed on.
    fn account(&mut self, mut bytes: &[u8]) -> Result<bool, Excess> {
        let mut state = self.inbound.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((step, consumed)) = self.frames.step(bytes) {
            match step {
                Step::Frame { message_bytes } => self.announced = message_bytes,
                Step::Payload { bytes, mask } => {
                    self.received = self.received.saturating_add(bytes.len());
                    if !state.has_token {
                        let text = bytes.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
                        state.has_token = self.early.feed(text).is_some_and(|token| self.tokens.authenticate(&token).is_some());
                    }
                }
                Step::MessageEnd => {
                    (self.announced, self.received, self.early) = (0, 0, EarlyToken::default());
                    state.started = None;
                    let charge = state.arriving.take();
                    state.arrived = charge.or(state.arrived.take());
                }
            }
            bytes = bytes.get(consumed..).unwrap_or_default();
        }
        if self.announced > self.max_message {
            return Err(Excess::Message);
        }
        let announced = usize::try_from(self.announced).unwrap_or(usize::MAX);
        if !state.has_token && self.received > MAX_BYTES_BEFORE_TOKEN {
            return Err(Excess::BeforeToken);
        }
        let needed = if state.has_token { announced } else { announced.min(MAX_BYTES_BEFORE_TOKEN) };
        let charged = state.arriving.as_ref();
        if needed > SOCKET_BUFFER && charged.is_none_or(|charge| charge.bytes < needed || charge.has_token != state.has_token) {
            state.arriving = None;
            state.arriving = Some(Charge::take(&self.budget, state.has_token, needed).ok_or(Excess::Budget)?);
            state.started.get_or_insert_with(Instant::now);
        }
        Ok(state.has_token || announced <= MAX_BYTES_BEFORE_TOKEN)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.withheld.is_empty() && this.inbound.state().has_token {
                let len = this.withheld.len().min(buf.remaining());
                buf.put_slice(this.withheld.drain(..len).as_slice());
                if this.withheld.is_empty() {
                    this.withheld = Vec::new();
                }
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
            let arrived = buf.filled().get(before..).unwrap_or_default();
            if arrived.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match this.account(arrived) {
                Ok(true) if this.withheld.is_empty() => return Poll::Ready(Ok(())),
                Ok(_) => {
                    this.withheld.extend_from_slice(arrived);
                    buf.set_filled(before);
                }
                Err(excess) => {
                    this.inbound.state().excess = Some(excess);
                    this.withheld = Vec::new();
                    return Poll::Ready(Err(io::Error::other("a message exceeds a memory limit")));
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
