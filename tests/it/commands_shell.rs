//! The commands as people and shells use them: profiles, completions, manual pages, help, and
//! pipes, terminals and standard streams of all kinds.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::termios::{Winsize, tcsetwinsize};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, net::TcpListener, process::Command};
use uuid::Uuid;

use crate::{
    commands::{open_terminal, read_until},
    commands_api::{command, ended, endless, run},
    support::{Client, TIMEOUT, TOKEN, TestApp, TestSource, program},
};

/// A folder of configuration with these profiles.
fn profiles(text: &str, mode: u32) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data-patch/profiles.toml");
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    folder
}

/// A command without service and token in its environment.
fn bare(folder: &Path, args: &[&str]) -> Command {
    let mut command = program();
    command.args(args).env("XDG_CONFIG_HOME", folder).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn a_profile_names_service_and_token_and_options_go_before_it() {
    let app = TestApp::start(TestSource::empty().await).await;
    let url = format!("http://{}", app.http);
    let text = format!(
        "[site]\nurl = \"{url}\"\ntoken = \"{TOKEN}\"\n\n[other]\nurl = \"{url}\"\ntoken_file = \"other.token\"\n
         [wrong]\nurl = \"http://127.0.0.1:1\"\ntoken = \"wrong\"\n"
    );
    let folder = profiles(&text, 0o600);
    fs::write(folder.path().join("data-patch/other.token"), format!("{TOKEN}\n")).unwrap();
    let ended_with = async |command: &mut Command| ended(command.spawn().unwrap()).await;
    for profile in ["site", "other"] {
        let ran = ended_with(&mut bare(folder.path(), &["tasks", "--profile", profile])).await;
        assert_eq!(ran.code, Some(0), "{profile}: {ran:?}");
    }
    let unreachable = ended_with(&mut bare(folder.path(), &["tasks", "--profile", "wrong"])).await;
    assert!(unreachable.code == Some(3) && unreachable.err.contains("127.0.0.1:1 "), "{unreachable:?}");
    let refused = ended_with(&mut bare(folder.path(), &["tasks", "--profile", "wrong", "--url", &url])).await;
    assert!(refused.code == Some(4) && refused.err.contains("wrong_token"), "{refused:?}");
    let mut with_variables = bare(folder.path(), &["tasks", "--profile", "wrong"]);
    let ran = ended_with(with_variables.env("DATA_PATCH_URL", &url).env("DATA_PATCH_TOKEN", TOKEN)).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let unknown = ended_with(&mut bare(folder.path(), &["tasks", "--profile", "sites"])).await;
    assert!(unknown.code == Some(2) && unknown.err.contains("did you mean site?"), "{unknown:?}");

    let readable = profiles(&text, 0o644);
    let refused = ended_with(&mut bare(readable.path(), &["tasks", "--profile", "site"])).await;
    assert!(refused.code == Some(2) && refused.err.contains("chmod 600"), "{refused:?}");
    assert!(!refused.err.contains(TOKEN), "{refused:?}");
    let none = ended_with(&mut bare(&folder.path().join("none"), &["tasks", "--profile", "site"])).await;
    assert!(none.code == Some(2) && none.err.contains("there is no ") && none.err.contains("[site]"), "{none:?}");
    app.stop().await;
}

/// What bash completes after these words, with the script of this program.
async fn completed(address: &str, words: &[&str]) -> (Vec<String>, String) {
    let program = program();
    let folder = Path::new(program.as_std().get_program()).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "source <(data-patch completions bash) && COMP_WORDS=(data-patch {}) && COMP_CWORD={} && \
         _clap_complete_data_patch data-patch '{}' && printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len(),
        words.last().unwrap(),
    );
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", &script]).env("PATH", path).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    bash.env("DATA_PATCH_URL", format!("http://{address}")).env("DATA_PATCH_TOKEN", TOKEN);
    let ran = ended(bash.spawn().unwrap()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    (ran.out.split_whitespace().map(str::to_owned).collect(), ran.err)
}

#[tokio::test]
async fn bash_completes_commands_and_the_ids_of_the_service() {
    let app = TestApp::start(TestSource::empty().await).await;
    let (thing, device) = app.source.add_rows(1_000).await;
    let other = Uuid::new_v4();
    app.source.add_device(Uuid::new_v4(), other, "of another thing").await;
    let (finished, _) = app.publish(thing, &[device]).await;
    let mut slow = Client::request(thing, &[device], &app.topic.name);
    slow["rate"] = serde_json::json!(1);
    let running = app.client().await.submit(&slow).await;
    let complete = async |words: &[&str]| {
        let (found, err) = completed(&app.http, words).await;
        assert_eq!(err, "", "{words:?}");
        found
    };
    assert_eq!(complete(&["can"]).await, ["cancel"]);
    assert_eq!(complete(&["show", ""]).await[..2], [running.clone(), finished.clone()], "the newest first");
    assert_eq!(
        complete(&["cancel", &running[..4]]).await,
        *std::slice::from_ref(&running),
        "what is finished cannot be cancelled"
    );
    assert_eq!(complete(&["retry", ""]).await[0], finished);
    assert_eq!(complete(&["retry", &finished, ""]).await[0], device.to_string());
    let thing = thing.to_string();
    assert_eq!(complete(&["submit", &thing[..13]]).await, *std::slice::from_ref(&thing));
    let devices = complete(&["submit", &thing, ""]).await;
    assert!(devices.contains(&device.to_string()) && !devices.contains(&other.to_string()), "{devices:?}");
    app.stop().await;
}

/// A service that is not there, does not answer, or refuses the token.
#[tokio::test]
async fn without_a_service_nothing_is_completed_and_nothing_is_said() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = TestApp::start(TestSource::empty().await).await;
    let start = Instant::now();
    for address in [silent.local_addr().unwrap().to_string(), "127.0.0.1:1".to_owned(), "no-such-host.invalid:1".to_owned()] {
        let (found, err) = completed(&address, &["cancel", "0"]).await;
        assert_eq!((found.is_empty(), err.as_str()), (true, ""), "{address}: {found:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "a shell does not wait for so long: {:?}", start.elapsed());
    let folder = profiles("", 0o600);
    let mut asked = bare(folder.path(), &["--", "data-patch", "cancel", "--url", &format!("http://{}", app.http), "0"]);
    asked.env("_DATA_PATCH_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "4");
    let ran = ended(asked.spawn().unwrap()).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""), "without a token");
    app.stop().await;
}

#[tokio::test]
async fn every_command_has_a_manual_page_and_examples() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    let ran = ended(bare(folder.path(), &["man", pages.to_str().unwrap()]).spawn().unwrap()).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let names: BTreeSet<_> = fs::read_dir(&pages).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    for expected in ["data-patch.1", "data-patch-submit.1", "data-patch-token-new.1", "data-patch-man.1"] {
        assert!(names.contains(expected), "{expected}: {names:?}");
    }
    for name in names {
        let command: Vec<_> = match name.trim_end_matches(".1").strip_prefix("data-patch-") {
            // Commands of these groups; no other command has a dash in its name.
            Some(name) => name.split('-').collect(),
            None => Vec::new(),
        };
        let help = ended(bare(folder.path(), &[&command[..], &["--help"]].concat()).spawn().unwrap()).await;
        assert!(help.code == Some(0) && help.out.contains("\nExamples"), "{command:?}: {help:?}");
        assert!(fs::read_to_string(pages.join(&name)).unwrap().contains("Examples"), "{name}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ended(bare(folder.path(), &["completions", shell]).spawn().unwrap()).await;
        assert!(script.code == Some(0) && script.out.contains("_DATA_PATCH_COMPLETE"), "{shell}: {script:?}");
    }
    let unknown = ended(bare(folder.path(), &["completions", "csh"]).spawn().unwrap()).await;
    assert!(unknown.code == Some(2) && unknown.err.contains("[possible values: bash,"), "{unknown:?}");
}

#[tokio::test]
async fn readers_and_streams_that_are_gone_end_commands_quietly() {
    let app = TestApp::start(TestSource::empty().await).await;
    let task = endless(&app).await;
    for args in
        [&["tasks"][..], &["tasks", "--json"], &["show", &task], &["things"], &["completions", "bash"], &["receipt", &task]]
    {
        let mut child = command(&app.http, args).spawn().unwrap();
        drop(child.stdout.take());
        let ran = ended(child).await;
        assert_eq!((ran.code, ran.err.as_str()), (Some(141), ""), "{args:?}");
    }
    let mut help = bare(app.folder.path(), &["submit", "--help"]).spawn().unwrap();
    drop(help.stdout.take());
    let help = ended(help).await;
    assert!(!help.err.contains("panicked"), "{help:?}");
    // Descriptors that are closed, not only empty.
    let binary = program().as_std().get_program().to_owned();
    for (redirect, args, code) in [
        ("<&-", &["tasks", "--quiet"][..], 0),
        ("2>&-", &["watch", "x"], 2),
        ("<&- 2>&-", &["show", &task], 0),
        ("<&-", &["submit", &task, "--from", "now", "--to", "now", "--devices-file", "-"], 2),
        ("<&-", &["token", "hash", "x"], 1),
    ] {
        let mut shell = command(&app.http, &[]);
        let mut closed = Command::new("sh");
        closed.arg("-c").arg(format!("exec \"$0\" \"$@\" {redirect}")).arg(&binary).args(args);
        for (name, value) in shell.as_std_mut().get_envs() {
            closed.env(name, value.unwrap_or_default());
        }
        let ran = ended(closed.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).await;
        assert_eq!(ran.code, Some(code), "{args:?} {redirect}: {ran:?}");
        assert!(!ran.err.contains("panicked"), "{ran:?}");
    }
    app.stop().await;
}

/// Removes the sequences that move the cursor and set colours.
fn without_escapes(text: &str) -> String {
    console::strip_ansi_codes(text).into_owned()
}

#[tokio::test]
async fn on_80_columns_no_line_of_a_bar_is_longer_and_no_color_has_none() {
    let app = TestApp::start(TestSource::empty().await).await;
    let task = endless(&app).await;
    let (mut terminal, side, _) = open_terminal();
    tcsetwinsize(&side, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let mut watch = command(&app.http, &["watch", &task]);
    watch.env("TERM", "xterm-256color").env("NO_COLOR", "1");
    let mut watch = watch.stdout(side.try_clone().unwrap()).stderr(side).spawn().unwrap();
    let output = read_until(&mut terminal, " of 1,000").await;
    for line in without_escapes(&output).split(['\r', '\n']).filter(|line| line.contains(" of 1")) {
        // Bars are padded to the width of the terminal, and then there is no line break between two.
        let width = console::measure_text_width(line);
        assert!(width <= 80 || width.is_multiple_of(80), "{width}: {line:?}");
    }
    // Sequences that end in m set a colour; others move the cursor.
    let sequences =
        output.split("\u{1b}[").skip(1).filter_map(|rest| rest.split_inclusive(|c: char| c.is_ascii_alphabetic()).next());
    let colours: Vec<_> = sequences.filter(|sequence| sequence.ends_with('m')).collect();
    assert!(colours.is_empty(), "{colours:?} in {output:?}");
    tokio::spawn(async move {
        let mut rest = Vec::new();
        terminal.read_to_end(&mut rest).await
    });
    assert_eq!(run(&app, &["cancel", &task]).await.code, Some(0));
    tokio::time::timeout(TIMEOUT, watch.wait()).await.expect("it does not end").unwrap();
    app.stop().await;
}

#[tokio::test]
async fn without_a_network_the_error_says_so() {
    let id = Uuid::new_v4().to_string();
    for args in [&["tasks"][..], &["watch", &id], &["retry", &id]] {
        let ran = ended(command("no-such-host.invalid:1", args).spawn().unwrap()).await;
        assert!(ran.code == Some(3) && ran.err.contains("no-such-host.invalid:1 is not reachable"), "{args:?}: {ran:?}");
    }
}
