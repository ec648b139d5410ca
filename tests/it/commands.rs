//! The commands, run as by a shell.

use std::{fs::File, process::Stdio};

use data_patch::protocol::Token;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::support::{TIMEOUT, eventually, program};

const DEMO: [&str; 3] = ["demo", "--listen", "127.0.0.1:0"];

/// Runs `data-patch … | head -1`; returns standard error and the exit code.
async fn read_one_line_of(args: &[&str]) -> (String, Option<i32>) {
    let mut child = program().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    tokio::time::timeout(TIMEOUT, out.read_line(&mut line)).await.expect("it prints nothing").unwrap();
    drop(out);
    let mut stderr_text = String::new();
    let mut stderr = child.stderr.take().unwrap();
    let ended = async {
        stderr.read_to_string(&mut stderr_text).await.unwrap();
        child.wait().await.unwrap().code()
    };
    let code = tokio::time::timeout(TIMEOUT, ended).await.expect("it runs on without a reader");
    (stderr_text, code)
}

/// The host and port of a WebSocket URL.
fn address(text: &str) -> String {
    text.split_once("ws://").unwrap().1.split('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_demo_whose_reader_leaves_ends_quietly() {
    assert_eq!(read_one_line_of(&DEMO).await, (String::new(), Some(141)));
}

#[tokio::test]
async fn the_demo_proves_that_every_row_arrived_although_the_service_was_killed() {
    let ended = program().args(DEMO).arg("--exit").output();
    let output = tokio::time::timeout(TIMEOUT * 2, ended).await.expect("it does not end").unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap()), (Some(0), String::new()), "{printed}");
    for expected in [
        "静力水准仪06 has 178 rows to publish",
        "published(178 / 178)",
        "1337 of 1337 rows are in the topic; 7 of 7 devices",
        "kill -9  process ",
        "its previous worker was lost",
        "its `data.data` is an array",
        "11 of 11 devices, 4416 rows published, 3 quarantined",
        "4416 of 4416 rows are in the topic; 11 of 11 devices",
    ] {
        assert!(printed.contains(expected), "{expected}: {printed}");
    }
    let escape = '\u{1b}';
    assert!(!printed.contains(escape), "no colours and no bars without a terminal: {printed}");
}

#[tokio::test]
async fn the_service_of_a_demo_that_is_killed_ends_too() {
    let mut demo = program().args(DEMO).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let listens = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it prints the service's URL");
            if line.contains("ws://") {
                return address(&line);
            }
        }
    };
    let address = tokio::time::timeout(TIMEOUT, listens).await.expect("it prints nothing");
    TcpStream::connect(&address).await.expect("the service listens");
    demo.kill().await.unwrap();
    eventually("the service ends", async || TcpStream::connect(&address).await.is_err()).await;
}

/// Reads until `text` was printed; returns all output.
pub async fn read_until(terminal: &mut tokio::fs::File, text: &str) -> String {
    let (mut output, mut buffer) = (Vec::new(), [0; 4096]);
    let reading = async {
        loop {
            let read = terminal.read(&mut buffer).await.expect("it has ended");
            output.extend_from_slice(&buffer[..read]);
            if String::from_utf8_lossy(&output).contains(text) {
                return;
            }
        }
    };
    let found = tokio::time::timeout(TIMEOUT, reading).await;
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(found.is_ok(), "{text} is not printed: {output}");
    output
}

/// A terminal: its two sides, and the path of the program's side.
pub fn open_terminal() -> (tokio::fs::File, File, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    let side = File::options().read(true).write(true).open(&path).unwrap();
    (tokio::fs::File::from_std(File::from(terminal)), side, path)
}

#[tokio::test]
async fn on_a_terminal_the_demo_has_bars_and_a_table_and_ctrl_c_ends_it() {
    let (mut terminal, side, _) = open_terminal();
    let mut demo =
        program().args(DEMO).env("TERM", "xterm-256color").stdout(side.try_clone().unwrap()).stderr(side).spawn().unwrap();
    let output = read_until(&mut terminal, "1337 of 1337 rows are in the topic").await;
    for shown in ["静力水准仪06", "━━━", "178 of 178", "read back from the topic"] {
        assert!(output.contains(shown), "{shown}: {output}");
    }
    assert!(!output.contains("rows to publish"), "no log lines beside the bars: {output}");
    // It draws until it is stopped, and would block if the terminal were not read.
    tokio::spawn(async move { tokio::io::copy(&mut terminal, &mut tokio::io::sink()).await });
    let pid = demo.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let status = tokio::time::timeout(TIMEOUT, demo.wait()).await.expect("it does not end").unwrap();
    assert_eq!(status.code(), Some(1), "not every row has arrived");
    eventually("the service ends", async || TcpStream::connect(address(&output)).await.is_err()).await;
}

#[tokio::test]
async fn on_a_terminal_a_token_is_asked_for_without_echo() {
    let (mut terminal, side, path) = open_terminal();
    let mut command = program();
    command.args(["token", "hash", "night-duty"]).stdin(side.try_clone().unwrap()).stdout(Stdio::piped()).stderr(side);
    let hash = command.spawn().unwrap();
    eventually("echo is off", async || {
        let settings = std::process::Command::new("stty").args(["-F", &path, "-a"]).output().unwrap();
        String::from_utf8_lossy(&settings.stdout).contains(" -echo ")
    })
    .await;
    terminal.write_all(b"a token that is long enough\n").await.unwrap();
    terminal.flush().await.unwrap();
    let output = tokio::time::timeout(TIMEOUT, hash.wait_with_output()).await.expect("it does not end").unwrap();
    // The prompt and the line break after it are all that the terminal shows.
    assert_eq!(read_until(&mut terminal, "\n").await, "token (not shown): \r\n");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains(&format!("sha256 = \"{}\"", Token::new("a token that is long enough").sha256())), "{printed}");
}
