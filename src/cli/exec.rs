//! `adit exec`: run one command in a workspace as if it ran here.

use std::io;
use std::process::ExitCode;

use adit_actors::exec::Outcome;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{getpid, kill_process};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::service_access::{self, ADIT_FAILED};
use crate::client::{ApiClient, ClientError, Ending, ExecCall, ServiceProblem};
use crate::http::wire::Frame;

/// Exit code for a timeout, as coreutils' `timeout` has it.
const TIMED_OUT: u8 = 124;
/// Exit code after Ctrl-C, as a shell reports a death by SIGINT.
const INTERRUPTED: u8 = 130;
/// Exit code when the reader of our output has gone, as a shell reports a death by SIGPIPE.
const READER_GONE: u8 = 141;
/// Added to a signal's number, as shells do.
const BY_SIGNAL: u8 = 128;

/// Run a command in a workspace: its output, its errors and its exit code become this program's.
///
/// ADIT_URL and ADIT_TOKEN say where and as whom; ADIT_WORKSPACE stands in for WORKSPACE, and ADIT_ORG_ID names the org
/// to a service with a tenant guard, always in the header X-Molecule-Org-Id: a service whose settings name another header
/// does not see it. ADIT_CA_FILE holds root certificates (PEM) to trust beside the system's. Ctrl-C cancels the command. Exits with 124 on a timeout, with 130 after Ctrl-C and with 125 when Adit
/// failed.
#[derive(Clone, Debug, clap::Args)]
pub struct ExecArgs {
    /// Id of the workspace [default: ADIT_WORKSPACE]
    workspace: Option<String>,
    /// Seconds the command may run; 0 means the service's default of 30, and 120 is the most
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Directory to run in
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// Variable to add to the environment; may be given again. Not for secrets: use --stdin
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// File to read standard input from; `-` is this program's own
    #[arg(long, value_name = "FILE")]
    stdin: Option<String>,
    /// Print the finished exec as one JSON object, with its output
    #[arg(long, conflicts_with = "ndjson")]
    json: bool,
    /// Print the frames as they come
    #[arg(long)]
    ndjson: bool,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "ARGV")]
    argv: Vec<String>,
}

/// Runs `adit exec`. After Ctrl-C the process ends in here: a read of standard input or a write of standard output that
/// is under way can't be called off, and the runtime's own end would wait for it.
pub async fn run(args: ExecArgs) -> ExitCode {
    let mut interrupts = match signal(SignalKind::interrupt()) {
        Ok(interrupts) => interrupts,
        Err(error) => return Finished::failed(format!("signals can't be listened for: {error}")).report(),
    };
    tokio::select! {
        finished = execute(args) => finished.report(),
        // Dropping the request closes its connection, and that cancels the exec.
        _ = interrupts.recv() => end_interrupted(interrupts).await,
    }
}

/// Says so and ends the process. The message may block too, so it must not stand in the way of a second Ctrl-C.
async fn end_interrupted(mut interrupts: Signal) -> ! {
    std::thread::spawn(|| {
        let interrupted = Finished::with_complaint(INTERRUPTED, "interrupted; the exec is cancelled");
        interrupted.report();
        std::process::exit(INTERRUPTED.into());
    });
    interrupts.recv().await;
    // An exit would wait for the one above, should that be stuck in flushing.
    kill_process(getpid(), rustix::process::Signal::KILL).ok();
    std::process::abort()
}

/// How this program ends.
#[derive(Debug, PartialEq, Eq)]
struct Finished {
    code: u8,
    complaint: Option<String>,
}

impl Finished {
    fn quietly(code: u8) -> Self {
        Self {
            code,
            complaint: None,
        }
    }

    fn with_complaint(code: u8, complaint: impl Into<String>) -> Self {
        Self {
            code,
            complaint: Some(complaint.into()),
        }
    }

    fn failed(complaint: impl Into<String>) -> Self {
        Self::with_complaint(ADIT_FAILED, complaint)
    }

    /// Output that can't be written: a reader that has gone needs no message, all else does.
    fn unwritable(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::quietly(READER_GONE),
            _ => Self::failed(format!("output can't be written: {error}")),
        }
    }

    fn after(ending: &Ending) -> Self {
        match (ending.outcome, ending.exit_code, &ending.signal) {
            // An exit status has eight bits (POSIX, `exit`).
            (Some(Outcome::Exited), Some(code), _) => Self::quietly((code & 0xff) as u8),
            (Some(Outcome::Signaled), _, Some(signal)) => {
                Self::quietly(BY_SIGNAL.saturating_add(number(signal)))
            }
            (Some(Outcome::Timeout), ..) => Self::with_complaint(
                TIMED_OUT,
                format!(
                    "exec_timeout: the command ran longer than {} s and was stopped",
                    ending.timeout_s
                ),
            ),
            _ => match &ending.error {
                Some(error) => Self::failed(format!("{}: {}", error.code.as_str(), error.message)),
                None => Self::failed("the exec did not end by itself"),
            },
        }
    }

    fn after_error(error: &ClientError) -> Self {
        let code = match error {
            ClientError::Problem(problem) if problem.code == "exec_timeout" => TIMED_OUT,
            _ => ADIT_FAILED,
        };
        Self::with_complaint(code, service_access::one_line(error))
    }

    fn report(self) -> ExitCode {
        if let Some(complaint) = self.complaint {
            eprintln!("adit: {complaint}");
        }
        ExitCode::from(self.code)
    }
}

async fn execute(args: ExecArgs) -> Finished {
    let client = match service_access::client("ADIT_TOKEN", service_access::variable) {
        Ok(client) => client,
        Err(complaint) => return Finished::failed(complaint),
    };
    let Some(workspace) = args
        .workspace
        .clone()
        .or_else(|| service_access::variable("ADIT_WORKSPACE"))
    else {
        return Finished::failed("no workspace: name one, or set ADIT_WORKSPACE");
    };
    let json = args.json;
    let ndjson = args.ndjson;
    let call = match into_call(args).await {
        Ok(call) => call,
        Err(complaint) => return Finished::failed(complaint),
    };
    if json {
        return print_object(&client, &workspace, &call).await;
    }
    print_stream(&client, &workspace, &call, ndjson).await
}

async fn into_call(args: ExecArgs) -> Result<ExecCall, String> {
    let stdin_b64 = match args.stdin {
        None => None,
        Some(file) => Some(
            STANDARD.encode(
                read_stdin(&file)
                    .await
                    .map_err(|error| format!("`{file}` can't be read for --stdin: {error}"))?,
            ),
        ),
    };
    let env: Map<String, Value> = args
        .env
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    Ok(ExecCall {
        cmd: args.argv,
        timeout_s: args.timeout,
        cwd: args.cwd,
        env,
        stdin_b64,
    })
}

/// Reads at most one byte more than the service takes: enough for it to say that it is too much.
async fn read_stdin(file: &str) -> io::Result<Vec<u8>> {
    let limit = adit_actors::exec::request::MAX_STDIN_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if file == "-" {
        tokio::io::stdin().take(limit).read_to_end(&mut bytes).await?;
    } else {
        tokio::fs::File::open(file)
            .await?
            .take(limit)
            .read_to_end(&mut bytes)
            .await?;
    }
    Ok(bytes)
}

async fn print_object(client: &ApiClient, workspace: &str, call: &ExecCall) -> Finished {
    let (exec, error) = match client.exec_to_end(workspace, call).await {
        Ok(exec) => (exec, None),
        Err(ClientError::Problem(problem)) => {
            let ServiceProblem { exec: Some(exec), .. } = problem.as_ref() else {
                return Finished::after_error(&ClientError::Problem(problem));
            };
            (exec.clone(), Some(ClientError::Problem(problem)))
        }
        Err(error) => return Finished::after_error(&error),
    };
    if let Err(error) = write_all(&mut tokio::io::stdout(), format!("{exec:#}\n").as_bytes()).await {
        return Finished::unwritable(&error);
    }
    match (error, serde_json::from_value::<Ending>(exec)) {
        (Some(error), _) => Finished::after_error(&error),
        (None, Ok(ending)) => Finished::after(&ending),
        (None, Err(error)) => Finished::failed(format!("the answer is not one of Adit's: {error}")),
    }
}

async fn print_stream(client: &ApiClient, workspace: &str, call: &ExecCall, ndjson: bool) -> Finished {
    let mut stream = match client.exec(workspace, call).await {
        Ok(stream) => stream,
        Err(error) => return Finished::after_error(&error),
    };
    let mut stdout = tokio::io::stdout();
    let mut stderr = tokio::io::stderr();
    loop {
        let line = match stream.next().await {
            Ok(Some(line)) => line,
            Ok(None) => return Finished::failed("the answer broke off before the exec's end"),
            Err(error) => return Finished::after_error(&error),
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
            return Finished::unwritable(&error);
        }
        if let Frame::Exit(exec) = line.frame {
            return Finished::after(&Ending {
                outcome: exec.outcome,
                exit_code: exec.exit_code,
                signal: exec.signal,
                error: exec.error,
                timeout_s: exec.timeout_s,
            });
        }
    }
}

async fn write_all(target: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    target.write_all(bytes).await?;
    target.flush().await
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must have the form NAME=VALUE".to_owned()),
    }
}

/// Numbers of the signals that POSIX names, as on Linux; 0 for others.
fn number(signal: &str) -> u8 {
    match signal {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ILL" => 4,
        "TRAP" => 5,
        "ABRT" => 6,
        "BUS" => 7,
        "FPE" => 8,
        "KILL" => 9,
        "USR1" => 10,
        "SEGV" => 11,
        "USR2" => 12,
        "PIPE" => 13,
        "ALRM" => 14,
        "TERM" => 15,
        "XCPU" => 24,
        "XFSZ" => 25,
        "SYS" => 31,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use adit_actors::exec::{ErrorCode, Outcome};
    use clap::Parser;

    use super::{Ending, ExecArgs, Finished, parse_variable};

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        exec: ExecArgs,
    }

    fn ending(outcome: Outcome) -> Ending {
        Ending {
            outcome: Some(outcome),
            exit_code: None,
            signal: None,
            error: None,
            timeout_s: 30,
        }
    }

    #[test]
    fn exit_codes() {
        let exited = |code| Ending {
            exit_code: Some(code),
            ..ending(Outcome::Exited)
        };
        let signaled = |name: &str| Ending {
            signal: Some(name.to_owned()),
            ..ending(Outcome::Signaled)
        };
        let failed = |code: ErrorCode| Ending {
            error: Some(code.into()),
            ..ending(Outcome::Failed)
        };
        let table = [
            (exited(0), 0, None),
            (exited(7), 7, None),
            (exited(255), 255, None),
            (signaled("TERM"), 143, None),
            (signaled("KILL"), 137, None),
            (signaled("WINCH"), 128, None),
            (ending(Outcome::Timeout), 124, Some("exec_timeout: ")),
            (failed(ErrorCode::GrantDenied), 125, Some("grant_denied: AWS")),
            (ending(Outcome::Cancelled), 125, Some("did not end by itself")),
            (ending(Outcome::TunnelLost), 125, Some("did not end by itself")),
        ];
        for (ending, code, complaint) in table {
            let finished = Finished::after(&ending);
            assert_eq!(finished.code, code, "{ending:?}");
            assert_eq!(finished.complaint.is_some(), complaint.is_some(), "{ending:?}");
            if let (Some(found), Some(part)) = (finished.complaint, complaint) {
                assert!(found.contains(part), "{found}");
            }
        }
    }

    #[test]
    fn a_reader_that_has_gone_needs_no_message() {
        let finished = Finished::unwritable(&std::io::ErrorKind::BrokenPipe.into());
        assert_eq!(finished, Finished::quietly(141));
    }

    #[test]
    fn everything_behind_the_dashes_is_the_command() {
        let parse = |line: &str| {
            CommandLine::try_parse_from(std::iter::once("adit").chain(line.split(' '))).map(|line| line.exec)
        };
        let args = parse("--timeout 5 --env A=1 --env B= ws -- ls -l -- --json").unwrap();
        assert_eq!(args.workspace.as_deref(), Some("ws"));
        assert_eq!(args.argv, ["ls", "-l", "--", "--json"]);
        assert_eq!((args.timeout, args.json), (Some(5), false));
        assert_eq!(
            args.env,
            [("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new())]
        );
        assert_eq!(parse("-- true").unwrap().workspace, None);
        for bad in [
            "ws",
            "ws true",
            "ws --",
            "--json --ndjson ws -- true",
            "--env A ws -- true",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_keep_what_stands_behind_the_first_sign() {
        assert_eq!(parse_variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert!(parse_variable("=b").is_err());
    }
}
