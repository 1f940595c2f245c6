//! An exec that this program waits for, until it ends, is interrupted, or nobody reads any more.

use std::io::{self, IsTerminal};
use std::time::Duration;

use adit_actors::exec::{Exec, ExecState};
use tokio::signal::unix::Signal;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::super::service_access::one_line;
use super::finished::Finished;
use super::printer::{Form, Printer};
use super::reader::Reader;
use super::status_line;
use crate::client::{ApiClient, ClientError, ExecCall};

/// Longest wait to hear how a cancelled exec ended. Killing takes 5 s at most, what is printed then 2 s, and the row is
/// there soon after.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before the service is asked again whether a cancelled exec has ended: below what a person waits for.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// For output that came before the end of a cancelled exec to be written, if somebody reads it.
const LAST_WRITES: Duration = Duration::from_millis(500);

/// What is known when the wait is over.
struct End {
    /// The exec, when it has ended and that was heard.
    exec: Option<Box<Exec>>,
    is_interrupted: bool,
    finished: Finished,
}

impl End {
    fn of(exec: Box<Exec>) -> Self {
        let finished = Finished::after(&exec);
        Self {
            exec: Some(exec),
            is_interrupted: false,
            finished,
        }
    }

    fn interrupted(exec: Box<Exec>) -> Self {
        let finished = Finished::after_interrupt(&exec);
        Self {
            exec: Some(exec),
            is_interrupted: true,
            finished,
        }
    }

    /// No exec, or none whose end was heard.
    fn unheard(finished: Finished) -> Self {
        Self {
            exec: None,
            is_interrupted: false,
            finished,
        }
    }

    fn refused(workspace: &str, error: ClientError) -> Self {
        let finished = Finished::unanswered(&lookup(workspace, None), &error);
        let exec = match error {
            ClientError::Problem(problem) => problem.exec,
            _ => None,
        };
        Self {
            exec: exec.and_then(|exec| serde_json::from_value(exec).ok()),
            is_interrupted: false,
            finished,
        }
    }
}

/// Runs it and prints it. After a first Ctrl-C it is cancelled and its end is waited for; a second one ends the wait.
pub(super) async fn run(
    client: &ApiClient,
    workspace: &str,
    call: &ExecCall,
    form: Form,
    interrupts: &mut Signal,
) -> Finished {
    let mut printer = Printer::new(form);
    let end = until_end(client, workspace, call, &mut printer, interrupts).await;
    let Some(exec) = end.exec else {
        return end.finished;
    };
    tokio::select! {
        printed = printer.finish(&exec) => match printed {
            // After Ctrl-C on a pipeline the reader has got it too.
            Err(error) if !end.is_interrupted => Finished::unwritable(&error),
            Ok(()) | Err(_) => end.finished,
        },
        _ = interrupts.recv() => leaving(Finished::after_interrupt(&exec)),
    }
}

async fn until_end(
    client: &ApiClient,
    workspace: &str,
    call: &ExecCall,
    printer: &mut Printer,
    interrupts: &mut Signal,
) -> End {
    let reader = Reader::watch();
    let asking = status_line::shown_while("waiting for the instance", client.exec(workspace, call));
    let mut stream = tokio::select! {
        asked = asking => match asked {
            Ok(stream) => stream,
            Err(error) => return End::refused(workspace, error),
        },
        _ = interrupts.recv() => return End::unheard(leaving(Finished::interrupted_unheard(
            &lookup(workspace, None),
            "the service had not answered yet",
        ))),
        () = reader.left() => return End::unheard(Finished::unread()),
    };
    let exec_id = stream.exec_id();
    let lookup = lookup(workspace, exec_id);
    let printing = printer.follow(&mut stream, &lookup);
    tokio::pin!(printing);
    tokio::select! {
        ended = &mut printing => return ended.map_or_else(End::unheard, End::of),
        () = reader.left() => return End::unheard(Finished::unread()),
        _ = interrupts.recv() => {}
    }
    let Some(exec_id) = exec_id else {
        let finished = Finished::interrupted_unheard(&lookup, "the service did not say which exec it is");
        return End::unheard(leaving(finished));
    };
    if io::stderr().is_terminal() {
        // Behind the terminal's own ^C.
        eprintln!("\nadit: cancelling; Ctrl-C again leaves at once");
    }
    tokio::select! {
        cancelled = cancel(client, workspace, exec_id, printing) => match cancelled {
            Ok(exec) => End::interrupted(exec),
            Err(reason) => End::unheard(Finished::interrupted_unheard(&lookup, &reason)),
        },
        _ = interrupts.recv() => End::unheard(leaving(Finished::interrupted_unheard(
            &lookup,
            "interrupted again before its end was heard",
        ))),
    }
}

/// Before this program ends at a Ctrl-C, whose ^C stands on the terminal.
pub(super) fn leaving(finished: Finished) -> Finished {
    if io::stderr().is_terminal() {
        eprintln!();
    }
    finished
}

/// Cancels the exec and waits for its end; or says why that was not heard. Where it was not, the connection that closes
/// with this program cancels too, if anything still does.
async fn cancel(
    client: &ApiClient,
    workspace: &str,
    exec_id: Uuid,
    printing: impl Future<Output = Result<Box<Exec>, Finished>>,
) -> Result<Box<Exec>, String> {
    let printed = async {
        match printing.await {
            Ok(exec) => exec,
            // What can't be read or written any more is no news of the exec.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::pin!(printed);
    tokio::select! {
        exec = &mut printed => Ok(exec),
        cancelled = timeout(CANCEL_PATIENCE, cancel_and_ask(client, workspace, exec_id)) => match cancelled {
            // The stream's own exec is the fuller one: no other has a digest of the output.
            Ok(Ok(exec)) => Ok(timeout(LAST_WRITES, printed).await.unwrap_or(exec)),
            Ok(Err(error)) => Err(one_line(&error)),
            Err(_) => Err(format!("nothing was heard of its end for {} s", CANCEL_PATIENCE.as_secs())),
        },
    }
}

/// Cancels the exec and asks for it until it has ended. The stream's last frame may be behind output that nobody takes.
async fn cancel_and_ask(
    client: &ApiClient,
    workspace: &str,
    exec_id: Uuid,
) -> Result<Box<Exec>, ClientError> {
    let mut exec = client.cancel_exec(workspace, exec_id).await?;
    while exec.state != ExecState::Ended {
        sleep(ASK_AGAIN_AFTER).await;
        exec = client.show_exec(workspace, exec_id).await?;
    }
    Ok(Box::new(exec))
}

/// The request that tells more: of the exec, or of all when its id is not known.
fn lookup(workspace: &str, exec_id: Option<Uuid>) -> String {
    match exec_id {
        Some(exec_id) => format!("GET /workspaces/{workspace}/exec/{exec_id}"),
        None => format!("GET /workspaces/{workspace}/exec"),
    }
}
