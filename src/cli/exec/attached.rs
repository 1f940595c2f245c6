//! An exec whose output becomes this program's, until it ends, is interrupted, or nobody reads any more.

use std::io::{self, IsTerminal};
use std::time::Duration;

use adit_actors::exec::{Exec, ExecState};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::Signal;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::finished::Finished;
use super::reader::Reader;
use super::status_line;
use crate::client::{ApiClient, ClientError, ExecCall, ExecStream};
use crate::http::wire::Frame;

/// Longest wait to hear how a cancelled exec ended. Killing takes 5 s at most, what is printed then 2 s, and the row is
/// there soon after.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before the service is asked again whether a cancelled exec has ended: below what a person waits for.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// For output that came before the end of a cancelled exec to be written, if somebody reads it.
const LAST_WRITES: Duration = Duration::from_millis(500);
/// Runs it. After a first Ctrl-C it is cancelled and its end is waited for; a second one ends the wait.
pub(super) async fn run(
    client: &ApiClient,
    workspace: &str,
    call: &ExecCall,
    ndjson: bool,
    interrupts: &mut Signal,
) -> Finished {
    let reader = Reader::watch();
    let asking = status_line::shown_while("waiting for the instance", client.exec(workspace, call));
    let mut stream = tokio::select! {
        asked = asking => match asked {
            Ok(stream) => stream,
            Err(error) => return Finished::after_error(&error),
        },
        _ = interrupts.recv() => return interrupted(),
        () = reader.left() => return Finished::unread(),
    };
    let exec_id = stream.exec_id();
    let printing = print(&mut stream, ndjson);
    tokio::pin!(printing);
    tokio::select! {
        ended = &mut printing => return ended.map_or_else(|finished| finished, |exec| Finished::after(&exec)),
        () = reader.left() => return Finished::unread(),
        _ = interrupts.recv() => {}
    }
    let Some(exec_id) = exec_id else {
        return interrupted();
    };
    if io::stderr().is_terminal() {
        // Behind the terminal's own ^C.
        eprintln!("\nadit: cancelling; Ctrl-C again leaves at once");
    }
    tokio::select! {
        ended = &mut printing => match ended {
            Ok(exec) => Finished::after_interrupt(&exec),
            Err(_) => Finished::interrupted(),
        },
        cancelled = timeout(CANCEL_PATIENCE, cancel(client, workspace, exec_id)) => match cancelled {
            Ok(Ok(exec)) => {
                timeout(LAST_WRITES, printing).await.ok();
                Finished::after_interrupt(&exec)
            }
            // The connection closes with this program, and that cancels too.
            Ok(Err(_)) | Err(_) => Finished::interrupted(),
        },
        _ = interrupts.recv() => interrupted(),
    }
}

/// After Ctrl-C, whose ^C stands on the terminal.
pub(super) fn interrupted() -> Finished {
    if io::stderr().is_terminal() {
        eprintln!();
    }
    Finished::interrupted()
}

/// Cancels the exec and waits for its end. Not by the stream's last frame, which may be behind output that nobody takes.
async fn cancel(client: &ApiClient, workspace: &str, exec_id: Uuid) -> Result<Exec, ClientError> {
    let mut exec = client.cancel_exec(workspace, exec_id).await?;
    while exec.state != ExecState::Ended {
        sleep(ASK_AGAIN_AFTER).await;
        exec = client.show_exec(workspace, exec_id).await?;
    }
    Ok(exec)
}

/// Writes what comes, until the end.
async fn print(stream: &mut ExecStream, ndjson: bool) -> Result<Box<Exec>, Finished> {
    let mut stdout = tokio::io::stdout();
    let mut stderr = tokio::io::stderr();
    loop {
        let line = match stream.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return Err(Finished::failed("the answer broke off before the exec's end")),
            Err(error) => return Err(Finished::after_error(&error)),
        };
        let written = if ndjson {
            write_all(&mut stdout, &[&line.text[..], b"\n"].concat()).await
        } else {
            match &line.frame {
                Frame::Stdout(piece) => write_all(&mut stdout, piece.as_bytes()).await,
                Frame::Stderr(piece) => write_all(&mut stderr, piece.as_bytes()).await,
                Frame::Truncated { stream, limit } => {
                    let name = serde_json::to_value(stream).unwrap_or_default();
                    let note = format!(
                        "adit: {} was cut after {limit} bytes\n",
                        name.as_str().unwrap_or("output")
                    );
                    write_all(&mut stderr, note.as_bytes()).await
                }
                Frame::Started { .. } | Frame::Heartbeat | Frame::Exit(_) => Ok(()),
            }
        };
        if let Err(error) = written {
            return Err(Finished::unwritable(&error));
        }
        if let Frame::Exit(exec) = line.frame {
            return Ok(exec);
        }
    }
}

/// Writes all of it, through every buffer.
pub(super) async fn write_all(target: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    target.write_all(bytes).await?;
    target.flush().await
}
