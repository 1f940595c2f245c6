//! What a service holds for clients that do not read.

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::program::Dev;
use super::{rows, text, wait};

/// More than the program, its store and two streams of 1 MiB for each exec need, and a small part of what is printed.
const MEMORY_LIMIT: u64 = 192 * 1024 * 1024;

/// Prints 512 MiB.
const PRINT: &str = "yes 'that nobody reads' | head -c 536870912";

#[tokio::test]
async fn output_that_nobody_reads_takes_no_memory_and_is_hashed_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let workspace = dev.variable("ADIT_WORKSPACE");
    let unread = client
        .post(format!(
            "{}/workspaces/{workspace}/exec",
            dev.variable("ADIT_URL")
        ))
        .bearer_auth(dev.variable("ADIT_TOKEN"))
        .json(&json!({"cmd": ["sh", "-c", PRINT], "timeout_s": 120}))
        .send()
        .await
        .unwrap();
    all_rows_are_final(&directory).await;
    let peak = dev.peak_memory();
    assert!(peak < MEMORY_LIMIT, "{} MiB", peak / 1024 / 1024);

    let frames = unread.text().await.unwrap();
    let exit: Value = serde_json::from_str(frames.lines().last().unwrap()).unwrap();
    assert_eq!(exit["exit_code"], 0, "{exit}");
    let stdout = &exit["streams"]["stdout"];
    assert_eq!(
        (&stdout["bytes"], &stdout["sent"]),
        (&json!(536_870_912), &json!(1_048_576))
    );
    let script = format!("{PRINT} | sha256sum");
    let told = dev.adit(&["exec", "--timeout", "120", "--", "sh", "-c", &script]);
    assert_eq!(
        text(&told.stdout).split(' ').next(),
        stdout["sha256"].as_str(),
        "the digest of the whole, as the instance has it"
    );
    assert_eq!(dev.terminate().await, Some(0));
}

/// How many objects wait for their readers at once: nearly all that one token may have in flight.
const READERS: usize = 30;

#[tokio::test]
async fn objects_that_nobody_reads_take_no_more_memory_than_the_output_in_them() {
    let directory = tempfile::tempdir().unwrap();
    let dev = Dev::start(directory.path()).await;
    // 1 MiB on each stream, every byte of it a six-byte escape in JSON: 12 MiB for each object.
    let script = "print() { head -c 1048576 /dev/zero | tr '\\0' '\\001'; }; print; print >&2";
    let body = json!({"cmd": ["sh", "-c", script], "timeout_s": 120});
    let mut stalled = Vec::new();
    for _ in 0..READERS {
        stalled.push(request(&dev, "application/json", &body).await);
    }
    // Each head says that its exec has ended; from here on nobody reads.
    for connection in &mut stalled {
        let mut start = [0; 12];
        connection.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    let peak = dev.peak_memory();
    assert!(peak < MEMORY_LIMIT, "{} MiB", peak / 1024 / 1024);

    drop(stalled);
    all_rows_are_final(&directory).await;
    assert_eq!(dev.terminate().await, Some(0));
}

/// Asks for an exec on a connection of its own and leaves the answer unread.
async fn request(dev: &Dev, accept: &str, body: &Value) -> TcpStream {
    let body = body.to_string();
    let request = format!(
        "POST /workspaces/{}/exec HTTP/1.1\r\nHost: adit\r\nAuthorization: Bearer {}\r\nAccept: {accept}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        dev.variable("ADIT_WORKSPACE"),
        dev.variable("ADIT_TOKEN"),
        body.len()
    );
    let address = dev.variable("ADIT_URL").strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

async fn all_rows_are_final(directory: &TempDir) {
    wait::until_true("all rows are final", async || {
        rows::all(&directory.path().join("adit.db"))
            .await
            .iter()
            .all(|row| row.status != "running")
    })
    .await;
}
