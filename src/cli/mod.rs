//! The command line: arguments and exit codes.

mod check;
mod completion;
mod demo;
mod health;
mod out;
mod queue;
mod remote;
mod serve;
mod table;
mod token;

use std::{io::Write, net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    config::{self, Config, ConfigError, Overrides},
    protocol::Role,
    telemetry,
};

/// Replays an IoT platform's raw readings into Kafka.
#[derive(Parser)]
#[command(version, about, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  data-patch demo --exit                                   try the whole service, with nothing installed
  data-patch check --config config.toml                    check that source, broker and queue are usable
  data-patch serve --config config.toml --token 123456     serve ws://0.0.0.0:18010/data-patch/websocket
  DATA_PATCH_TOKEN=123456 DATA_PATCH_IOTA_URL=postgres://reader@db/iota \\
  DATA_PATCH_KAFKA_BROKERS=kafka:9092 data-patch serve     the same, configured by environment variables
  data-patch tasks --state failed                          ask a running service for its tasks (docs/commands.md)

Every option is listed in config.toml, with its default.";

const DEMO_EXAMPLES: &str = "\
Source and broker are in this process, the service is a process of its own; all of it is gone at the end. The token is 123456.

Examples:
  data-patch demo                                   about half a minute, then it serves until Ctrl-C
  data-patch demo --exit                            ends with 0 when every row has arrived
  data-patch demo --plain | less                    the log lines as clients get them
  data-patch demo --exit --listen 127.0.0.1:0       on any free port, as in scripts";

const TOKEN_EXAMPLES: &str = "\
The file of server.tokens_file has the SHA-256 of each token and not the token itself. A service that runs reads it again when it
changes, and closes the connections of a token that is gone.

Examples:
  data-patch token new night-duty --role operator          show a new token and its lines for the file
  data-patch token hash dashboard >> tokens.toml           add the lines of a token that you have";

const TOKEN_NEW_EXAMPLES: &str = "\
The token goes to standard output, and its lines for the file of server.tokens_file to standard error. The token is shown only
here: it cannot be found from its lines.

Examples:
  data-patch token new night-duty --role operator          show both
  data-patch token new night-duty > night-duty.token       keep the token in a file, show its lines
  data-patch token new dashboard --json                    one JSON object with both, for programs
  data-patch token new dashboard 2>/dev/null | tee dashboard.token | data-patch token hash dashboard >> tokens.toml";

const TOKEN_HASH_EXAMPLES: &str = "\
Its lines go to standard output.

Examples:
  data-patch token hash night-duty --role operator         ask for the token, show its lines
  data-patch token hash night-duty < night-duty.token >> tokens.toml";

const QUEUE_EXAMPLES: &str = "\
The queue is at queue.url of the configuration. Stop the service before the queue is copied.

Examples:
  data-patch queue copy --from sqlite:///var/lib/data-patch/queue.db --to postgres://data_patch@db/queue";

const COPY_EXAMPLES: &str = "\
Tasks, jobs, logs and quarantined rows are copied, finished ones too. Jobs that were running are queued and go on from their
checkpoints. Then both queues are read again and compared; only if they are equal is the copy kept. An interrupted copy leaves
nothing, and may be started again. The source keeps its tasks: point queue.url at the copy, and start the service.

A password in a URL is seen by whoever may run `ps`. PostgreSQL's own variable PGPASSWORD and file ~/.pgpass are read too.

Examples:
  data-patch queue copy --from sqlite://data/queue.db --to postgres://data_patch@db/queue      to many instances
  data-patch queue copy --from postgres://data_patch@db/queue --to sqlite://data/queue.db      and back
  data-patch queue copy --from sqlite://data/queue.db --to sqlite:///mnt/new/queue.db          to another disk";

const SERVE_EXAMPLES: &str = "\
SIGTERM or Ctrl-C stops it gracefully; a second one at once. Both are safe: unfinished tasks continue at the next start.

Examples:
  data-patch serve --config config.toml                    the token is in DATA_PATCH_TOKEN, or in server.token_file
  DATA_PATCH_LOG_FORMAT=json data-patch serve              an option as a variable
  data-patch serve --listen 127.0.0.1:18010                behind a proxy on this machine";

const CHECK_EXAMPLES: &str = "\
Examples:
  data-patch check --config config.toml
  DATA_PATCH_IOTA_URL=postgres://reader@db/iota data-patch check && echo usable";

const HEALTH_EXAMPLES: &str = "\
Examples:
  data-patch health --config config.toml                   asks the service at server.listen of this file
  data-patch health || systemctl restart data-patch";

const COMPLETIONS_EXAMPLES: &str = "\
The ids of tasks, things and devices are completed too, if the service answers at once and its token is known: from
DATA_PATCH_TOKEN, --token-file or --profile. The Debian package has these scripts.

Examples:
  source <(data-patch completions bash)                    in ~/.bashrc
  source <(data-patch completions zsh)                     in ~/.zshrc, after compinit
  data-patch completions fish | source                     in ~/.config/fish/config.fish";

const MAN_EXAMPLES: &str = "\
The Debian package has these pages.

Examples:
  data-patch man ~/.local/share/man/man1 && man data-patch-submit";

#[derive(Subcommand)]
enum Command {
    /// Run the service
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(ServeArgs),
    /// See it work, with nothing installed: two requests, a service that is killed on the way, and
    /// what is in the topic after it
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Connect to queue, source and brokers, and print what was found and what is wrong
    #[command(after_help = CHECK_EXAMPLES)]
    Check(ConfigArgs),
    /// Check that the service of this configuration is alive (for Docker's HEALTHCHECK); exits with
    /// 0 if it is
    #[command(after_help = HEALTH_EXAMPLES)]
    Health(ConfigArgs),
    /// Make tokens with names and roles, for server.tokens_file
    #[command(subcommand, after_help = TOKEN_EXAMPLES)]
    Token(TokenCommand),
    /// Move the queue to another database
    #[command(subcommand, after_help = QUEUE_EXAMPLES)]
    Queue(QueueCommand),
    #[command(flatten)]
    Remote(remote::Command),
    /// Print a script that completes commands, options and ids in a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        #[arg(value_parser = clap::builder::PossibleValuesParser::new(completion::shells()))]
        shell: String,
    },
    /// Write a manual page for each command
    #[command(after_help = MAN_EXAMPLES)]
    Man {
        /// The folder; it is created if there is none
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Make a token
    #[command(after_help = TOKEN_NEW_EXAMPLES)]
    New(TokenArgs),
    /// Print the lines of a token that exists: it is read from standard input, on a terminal without
    /// echo
    #[command(after_help = TOKEN_HASH_EXAMPLES)]
    Hash(TokenArgs),
}

#[derive(Subcommand)]
enum QueueCommand {
    /// Copy a whole queue to an empty one, while no service runs on either, and compare both
    #[command(after_help = COPY_EXAMPLES)]
    Copy(queue::CopyArgs),
}

#[derive(clap::Args)]
struct TokenArgs {
    /// Name of the token: who or what uses it. Letters, digits, '-', '_' and '.'
    #[arg(value_parser = token::name)]
    name: String,
    /// viewer: watch tasks; operator: submit and cancel them too
    #[arg(long, value_parser = token::role, default_value = "viewer", value_name = "viewer|operator")]
    role: Role,
    /// Print one JSON object: name, role, sha256, and of a new token the token
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct ConfigArgs {
    /// TOML file with the options that differ from the defaults
    #[arg(long, value_name = "FILE", env = "DATA_PATCH_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The "token" that clients must send (better: DATA_PATCH_TOKEN, which `ps` does not show, or
    /// token_file)
    #[arg(long, env = "DATA_PATCH_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Stop when standard input ends: for a program that starts this one, and may be killed
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

#[derive(clap::Args)]
struct DemoArgs {
    /// End when the sample requests are done: 0 if every row has arrived
    #[arg(long)]
    exit: bool,
    /// Print log lines instead of bars and tables; so too when standard output is no terminal
    #[arg(long)]
    plain: bool,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:18010")]
    listen: SocketAddr,
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    if completion::answers_shell() {
        return ExitCode::SUCCESS;
    }
    let command = Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let result = runtime.block_on(async {
        match command {
            Command::Serve(args) => serve::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Check(args) => check::run(&load(&args, Overrides::default())?).await,
            Command::Health(args) => health::run(&load(&args, Overrides::default())?).await,
            Command::Token(TokenCommand::New(args)) => token::new(args),
            Command::Token(TokenCommand::Hash(args)) => token::hash(args),
            Command::Queue(QueueCommand::Copy(args)) => queue::copy(args).await,
            Command::Remote(command) => remote::run(command).await,
            Command::Completions { shell } => completion::print_script(&shell),
            Command::Man { folder } => completion::write_man_pages(&folder),
        }
    });
    // A blocked thread (a look-up of librdkafka) must not delay the exit.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| fail(&error))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<out::ReaderGone>() {
        return ExitCode::from(out::EXIT_CODE);
    }
    // Standard error may be closed too.
    let _ = writeln!(std::io::stderr(), "data-patch: {error:#}");
    remote::exit_code(error)
}

/// Loads the configuration from all its sources.
fn load(args: &ConfigArgs, overrides: Overrides) -> Result<Config, ConfigError> {
    // A variable that is not valid UTF-8 cannot be a valid option.
    let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    config::load(args.config.as_deref(), variables, overrides)
}

/// Starts logging, as configured.
fn log(config: &Config) -> anyhow::Result<()> {
    telemetry::init(&config.log)
}
