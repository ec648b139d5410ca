//! The commands, as a shell uses them.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::support::{PATIENCE, program};

/// As `data-patch … | head -1`: what it says on standard error, and its exit code.
async fn read_one_line_of(args: &[&str]) -> (String, Option<i32>) {
    let mut child = program().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    tokio::time::timeout(PATIENCE, out.read_line(&mut line)).await.expect("it says nothing").unwrap();
    drop(out);
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    let ended = async {
        stderr.read_to_string(&mut said).await.unwrap();
        child.wait().await.unwrap().code()
    };
    let code = tokio::time::timeout(PATIENCE, ended).await.expect("it goes on with nobody reading");
    (said, code)
}

#[tokio::test]
async fn a_demo_whose_reader_leaves_ends_quietly() {
    assert_eq!(read_one_line_of(&["demo", "--listen", "127.0.0.1:0"]).await, (String::new(), Some(141)));
}
