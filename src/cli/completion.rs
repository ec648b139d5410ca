//! `data-patch completions`, and the candidates that a shell asks for: the ids of tasks, things and
//! devices come from the service.

use std::{ffi::OsStr, io::Write, process::ExitCode, time::Duration};

use clap::{Arg, Command, CommandFactory};
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCompleter, CompletionCandidate},
    env::Shells,
};
use data_patch_client::{HttpClient, HttpError, TaskQuery};
use uuid::Uuid;

use super::{Cli, out, remote};
use crate::task::TaskState;

/// Set by the scripts that `completions` prints: the program then prints candidates.
const VARIABLE: &str = "_DATA_PATCH_COMPLETE";
/// A shell that waits for longer than this seems to be stuck.
const TIMEOUT: Duration = Duration::from_millis(700);
/// The most candidates: a screenful or two.
const MAX_CANDIDATES: u32 = 100;

/// Prints the candidates if a shell asks for them. Returns whether it does.
pub fn answers_shell() -> bool {
    let directory = std::env::current_dir().ok();
    CompleteEnv::with_factory(command)
        .var(VARIABLE)
        .try_complete(std::env::args_os(), directory.as_deref())
        .unwrap_or_else(|error| error.exit())
}

/// The names of the shells that there are scripts for.
pub fn shells() -> Vec<&'static str> {
    Shells::builtins().names().collect()
}

/// Prints the script that makes a shell ask this program.
pub fn print_script(shell: &str) -> anyhow::Result<ExitCode> {
    let shells = Shells::builtins();
    let name = env!("CARGO_PKG_NAME");
    let mut script = Vec::new();
    if let Some(shell) = shells.completer(shell) {
        shell.write_registration(VARIABLE, name, name, name, &mut script)?;
    }
    out::line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a manual page for each command into a folder.
pub fn write_man_pages(folder: &std::path::Path) -> anyhow::Result<ExitCode> {
    use anyhow::Context as _;
    std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder))
        .with_context(|| format!("the manual pages cannot be written into {}", folder.display()))?;
    let _ = writeln!(std::io::stderr(), "data-patch: the manual pages are in {}", folder.display());
    Ok(ExitCode::SUCCESS)
}

/// The command line, with what completes its arguments.
fn command() -> Command {
    let mut command = Cli::command();
    for subcommand in command.get_subcommands_mut() {
        let name = subcommand.get_name().to_owned();
        *subcommand = std::mem::take(subcommand).mut_args(|argument| with_completer(&name, argument));
    }
    command
}

fn with_completer(subcommand: &str, argument: Arg) -> Arg {
    let completer = match argument.get_id().as_str() {
        "task" => {
            let states: &[TaskState] = match subcommand {
                "cancel" | "pause" | "resume" | "rate" => &[TaskState::Running, TaskState::Queued],
                "retry" => &[TaskState::Failed, TaskState::Cancelled, TaskState::Succeeded],
                _ => &[],
            };
            ArgValueCompleter::new(move |current: &OsStr| {
                candidates(current, async |service, text| tasks(service, text, states).await)
            })
        }
        "thing" => ArgValueCompleter::new(|current: &OsStr| candidates(current, things)),
        // `retry` has the devices of its task, the others those of their thing.
        "devices" | "device" if subcommand == "retry" => {
            ArgValueCompleter::new(|current: &OsStr| candidates(current, devices_of_task))
        }
        "devices" | "device" => ArgValueCompleter::new(|current: &OsStr| candidates(current, devices)),
        _ => return argument,
    };
    argument.add(completer)
}

/// An id, and what it is.
type Candidate = (Uuid, String);

/// Asks the service that the command line names. Nothing is completed if it does not answer, and
/// nothing is said: that would be in the middle of the line that is being written.
fn candidates<F>(current: &OsStr, ask: F) -> Vec<CompletionCandidate>
where
    F: AsyncFnOnce(HttpClient, &str) -> Result<Vec<Candidate>, HttpError>,
{
    let Some(text) = current.to_str() else { return Vec::new() };
    let words = words();
    let Some(client) = remote::client_of(&words) else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let answer = runtime.block_on(async { tokio::time::timeout(TIMEOUT, ask(client, text)).await });
    // The look-up of a name must not delay the answer.
    runtime.shutdown_background();
    let found = answer.ok().and_then(Result::ok).unwrap_or_default();
    found
        .into_iter()
        .map(|(id, what)| (id.to_string(), what))
        .filter(|(id, _)| id.starts_with(text))
        .enumerate()
        // In this order: the newest task first.
        .map(|(index, (id, what))| CompletionCandidate::new(id).help(Some(what.into())).display_order(Some(index)))
        .collect()
}

/// The words of the line that is completed.
fn words() -> Vec<String> {
    std::env::args_os().skip_while(|word| word != "--").skip(1).filter_map(|word| word.into_string().ok()).collect()
}

/// The first id in the line: of the task, or of the thing.
fn first_id() -> Option<Uuid> {
    words().iter().find_map(|word| Uuid::try_parse(word).ok())
}

async fn tasks(service: HttpClient, text: &str, states: &[TaskState]) -> Result<Vec<Candidate>, HttpError> {
    let text = Some(text.to_owned()).filter(|text| !text.is_empty());
    let query = TaskQuery { states: states.to_vec(), text, ..TaskQuery::default() };
    let page = service.list(&query, None, MAX_CANDIDATES).await?;
    let what = |task: &crate::protocol::http::TaskView| {
        let reason = task.reason.as_deref().unwrap_or_default();
        remote::printable(&format!("{} {} {} {reason}", task.state, task.created_at.format("%Y-%m-%dT%H:%M:%SZ"), task.topic))
    };
    Ok(page.items.into_iter().map(|task| (task.task_id.0, what(&task))).collect())
}

async fn things(service: HttpClient, text: &str) -> Result<Vec<Candidate>, HttpError> {
    let page = service.things(Some(text).filter(|text| !text.is_empty()), None, MAX_CANDIDATES).await?;
    let what = |name: Option<String>, devices| remote::printable(&format!("{} {devices} devices", name.unwrap_or_default()));
    Ok(page.items.into_iter().map(|thing| (thing.thing_id, what(thing.name, thing.devices))).collect())
}

async fn devices(service: HttpClient, text: &str) -> Result<Vec<Candidate>, HttpError> {
    let Some(thing) = first_id() else { return Ok(Vec::new()) };
    let page = service.devices(thing, Some(text).filter(|text| !text.is_empty()), None, MAX_CANDIDATES).await?;
    Ok(page.items.into_iter().map(|device| (device.device_id, name(device.name))).collect())
}

async fn devices_of_task(service: HttpClient, _: &str) -> Result<Vec<Candidate>, HttpError> {
    let Some(task) = first_id() else { return Ok(Vec::new()) };
    let page = service.jobs(crate::task::TaskId(task), &[], None, MAX_CANDIDATES).await?;
    Ok(page.items.into_iter().map(|job| (job.device_id, name(job.name))).collect())
}

fn name(name: Option<String>) -> String {
    remote::printable(&name.unwrap_or_default())
}
