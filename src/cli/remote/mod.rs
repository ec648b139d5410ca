//! The commands that speak to a running service over its HTTP API.

mod catalog;
mod instances;
mod preview;
mod profile;
mod progress;
mod receipt;
mod request;
mod retry;
mod show;
mod steer;
mod submit;
mod tasks;
mod time;
mod watch;

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Subcommand;
use data_patch_client::{HttpClient, HttpError};
use serde::Serialize;
use uuid::Uuid;

use super::{out, token};
use crate::{protocol::http::TaskView, task::TaskId};
use profile::Profile;

/// Wrong arguments, or a token that is not given.
const USAGE: u8 = 2;
/// The service does not answer, or something else does.
const UNREACHABLE: u8 = 3;
/// The service refuses the request.
const REFUSED: u8 = 4;
/// Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Where the service is if nothing else says so.
const DEFAULT_URL: &str = "http://127.0.0.1:18010";

#[derive(Subcommand)]
pub enum Command {
    /// Publish the readings of devices again, and watch it
    #[command(after_help = submit::EXAMPLES)]
    Submit(submit::Args),
    /// Show what a submit would publish, and publish nothing
    #[command(after_help = preview::EXAMPLES)]
    Preview(preview::Args),
    /// Watch a task until it is finished
    #[command(after_help = watch::EXAMPLES)]
    Watch(watch::Args),
    /// List the tasks, the newest first
    #[command(after_help = tasks::EXAMPLES)]
    Tasks(tasks::Args),
    /// Show a task and its devices
    #[command(after_help = show::EXAMPLES)]
    Show(show::Args),
    /// Cancel a task: what is published stays, nothing more is added
    #[command(after_help = steer::CANCEL_EXAMPLES)]
    Cancel(steer::Args),
    /// Pause a task
    #[command(after_help = steer::PAUSE_EXAMPLES)]
    Pause(steer::Args),
    /// Resume a paused task where it is
    #[command(after_help = steer::RESUME_EXAMPLES)]
    Resume(steer::Args),
    /// Set the most rows a second of a task
    #[command(after_help = steer::RATE_EXAMPLES)]
    Rate(steer::RateArgs),
    /// Publish the devices of a finished task again that failed or were cancelled, as a new task
    #[command(after_help = retry::EXAMPLES)]
    Retry(retry::Args),
    /// Show what a task has published: rows, offsets and a checksum for each device
    #[command(after_help = receipt::RECEIPT_EXAMPLES)]
    Receipt(receipt::Args),
    /// Read the topic back, and compare it with what a task has published
    #[command(after_help = receipt::VERIFY_EXAMPLES)]
    Verify(receipt::Args),
    /// List the things that have devices
    #[command(after_help = catalog::THINGS_EXAMPLES)]
    Things(catalog::ThingsArgs),
    /// List the devices of a thing
    #[command(after_help = catalog::DEVICES_EXAMPLES)]
    Devices(catalog::DevicesArgs),
    /// List the instances that work on the queue
    #[command(after_help = instances::INSTANCES_EXAMPLES)]
    Instances(instances::InstancesArgs),
    /// Ask an instance to hand its jobs back and to take no others
    #[command(after_help = instances::DRAIN_EXAMPLES)]
    Drain(instances::DrainArgs),
}

/// What all of these commands have.
#[derive(clap::Args)]
pub struct RemoteArgs {
    /// The service; without it that of the profile, or http://127.0.0.1:18010
    #[arg(long, value_name = "URL", env = "DATA_PATCH_URL")]
    url: Option<String>,
    /// Service and token by the name of a profile in ~/.config/data-patch/profiles.toml
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// A file whose first line is the token; without it the variable DATA_PATCH_TOKEN is used, or the
    /// profile's token, or the token is asked for on a terminal
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    /// Print as little as possible: ids and errors
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

/// The command cannot be run as it is given.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// Runs a command.
pub async fn run(command: Command) -> anyhow::Result<ExitCode> {
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        console::set_colors_enabled(false);
    }
    match command {
        Command::Submit(args) => submit::run(args).await,
        Command::Preview(args) => preview::run(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Tasks(args) => tasks::run(args).await,
        Command::Show(args) => show::run(args).await,
        Command::Cancel(args) => steer::run(args, steer::Action::Cancel).await,
        Command::Pause(args) => steer::run(args, steer::Action::Pause).await,
        Command::Resume(args) => steer::run(args, steer::Action::Resume).await,
        Command::Rate(args) => steer::rate(args).await,
        Command::Retry(args) => retry::run(args).await,
        Command::Receipt(args) => receipt::receipt(args).await,
        Command::Verify(args) => receipt::verify(args).await,
        Command::Things(args) => catalog::things(args).await,
        Command::Devices(args) => catalog::devices(args).await,
        Command::Instances(args) => instances::instances(args).await,
        Command::Drain(args) => instances::drain(args).await,
    }
}

/// The exit code of an error.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<UsageError>() {
        return ExitCode::from(USAGE);
    }
    match error.downcast_ref() {
        Some(HttpError::Invalid(_)) => ExitCode::from(USAGE),
        Some(HttpError::Unreachable { .. } | HttpError::Protocol { .. }) => ExitCode::from(UNREACHABLE),
        Some(HttpError::Refused(_)) => ExitCode::from(REFUSED),
        None => ExitCode::FAILURE,
    }
}

impl RemoteArgs {
    /// A client of the service.
    fn client(&self) -> anyhow::Result<HttpClient> {
        let profile = self.profile.as_deref().map(profile::load).transpose()?.unwrap_or_default();
        let token = match self.known_token(&profile)? {
            Some(token) => token,
            None if io::stdin().is_terminal() => token::ask()?,
            None => {
                let remedy = "set DATA_PATCH_TOKEN, or name a file with --token-file, or a profile with --profile";
                return Err(UsageError(format!("no token: {remedy}")).into());
            }
        };
        if token.is_empty() {
            return Err(UsageError("the token is empty".to_owned()).into());
        }
        let client = HttpClient::new(self.url(&profile), &token)?;
        Ok(if is_chinese() { client.in_chinese() } else { client })
    }

    fn url<'a>(&'a self, profile: &'a Profile) -> &'a str {
        self.url.as_deref().or(profile.url.as_deref()).unwrap_or(DEFAULT_URL)
    }

    /// The token, unless it has to be asked for: an option goes before a variable, and that before
    /// the profile.
    fn known_token(&self, profile: &Profile) -> anyhow::Result<Option<String>> {
        if let Some(path) = &self.token_file {
            return read_token(path).map(Some);
        }
        if let Some(token) = std::env::var_os("DATA_PATCH_TOKEN") {
            return Ok(Some(token.to_string_lossy().trim().to_owned()));
        }
        match &profile.token_file {
            Some(path) => read_token(path).map(Some),
            None => Ok(profile.token.clone()),
        }
    }
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(path).with_context(|| UsageError(format!("the token file {} cannot be read", path.display())))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// A client of the service that the words of an unfinished command line name, if its token is known.
pub fn client_of(words: &[String]) -> Option<HttpClient> {
    let option = |name: &str| {
        let value = |(index, word): (usize, &String)| match word.strip_prefix(name)? {
            "" => words.get(index + 1).cloned(),
            rest => rest.strip_prefix('=').map(str::to_owned),
        };
        words.iter().enumerate().find_map(value)
    };
    let variable = std::env::var("DATA_PATCH_URL").ok();
    let remote = RemoteArgs {
        url: option("--url").or(variable),
        profile: option("--profile"),
        token_file: option("--token-file").map(PathBuf::from),
        json: false,
        quiet: true,
    };
    let profile = remote.profile.as_deref().map(profile::load).transpose().ok()?.unwrap_or_default();
    let token = remote.known_token(&profile).ok()??;
    HttpClient::new(remote.url(&profile), &token).ok()
}

/// Whether the language of the environment is Chinese. The first variable that is set counts.
fn is_chinese() -> bool {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(set).is_some_and(|language| language.starts_with("zh"))
}

/// Parses the id of a task.
fn task_id(text: &str) -> Result<TaskId, &'static str> {
    Uuid::try_parse(text).map(TaskId).map_err(|_| "it must be a UUID, as submit and tasks print it")
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    out::line(&serde_json::to_string(value)?)
}

/// Prints a line on standard error, which may be closed.
fn note(text: &str) {
    let _ = writeln!(io::stderr(), "data-patch: {text}");
}

/// A text of the database as a table shows it: in one line, and without control characters, which a
/// terminal would obey.
pub fn printable(text: &str) -> String {
    text.split_whitespace().map(|word| word.chars().filter(|c| !c.is_control()).collect::<String>()).collect::<Vec<_>>().join(" ")
}

/// The state of a task, as tables show it.
fn state(task: &TaskView) -> &'static str {
    if task.state.is_final() {
        task.state.as_str()
    } else if task.cancel_requested {
        "cancelling"
    } else if task.paused {
        "paused"
    } else {
        task.state.as_str()
    }
}

/// `1 device`, `2 devices`.
fn devices(count: u64) -> String {
    format!("{count} device{}", if count == 1 { "" } else { "s" })
}
