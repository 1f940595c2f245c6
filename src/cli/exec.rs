//! `adit exec`: run one command in a workspace as if it ran here.

mod attached;
mod finished;
mod printer;
mod read_ahead;
mod reader;
mod status_line;

use std::io;
use std::process::ExitCode;

use adit_actors::exec::request::MAX_STDIN_BYTES;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::service_access;
use crate::client::ExecCall;
use finished::Finished;
use printer::Form;

/// Run a command in a workspace: its output, its errors and its exit code become this program's.
///
/// ADIT_URL and ADIT_TOKEN say where and as whom; ADIT_WORKSPACE stands in for WORKSPACE, and ADIT_ORG_ID names the org
/// to a service with a tenant guard, always in the header X-Molecule-Org-Id: a service whose settings name another header
/// does not see it. ADIT_CA_FILE holds root certificates (PEM) to trust beside the system's.
///
/// Ctrl-C cancels the command and waits to hear what has become of it; a second one leaves at once, and cancels too. So does
/// a reader of the output that goes away. Exits with the command's own code, 128 and its number after a signal (128 after
/// one that has no number here), 124 on a timeout, 125 when Adit failed, 130 after Ctrl-C and 141 when nobody reads the
/// output.
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
    /// Print the finished exec as one JSON object, with its output; after Ctrl-C too, once it has ended
    #[arg(long, conflicts_with = "ndjson")]
    json: bool,
    /// Print the frames as they come
    #[arg(long)]
    ndjson: bool,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "ARGV")]
    argv: Vec<String>,
}

/// Runs `adit exec`, and ends the process in here.
pub async fn run(args: ExecArgs) -> ExitCode {
    match signal(SignalKind::interrupt()) {
        Ok(mut interrupts) => {
            let finished = execute(args, &mut interrupts).await;
            end(finished, interrupts).await
        }
        Err(error) => {
            let finished = Finished::failed(format!("signals can't be listened for: {error}"));
            finished.report();
            ExitCode::from(finished.code)
        }
    }
}

/// Says what is to be said and ends the process: a read of standard input or a write of standard output that is under way
/// can't be called off, and the runtime's own end would wait for it. The message may be stuck too, so it must not stand in
/// the way of a further Ctrl-C.
async fn end(finished: Finished, mut interrupts: Signal) -> ! {
    let code = finished.code;
    let (said, saying) = oneshot::channel();
    std::thread::spawn(move || {
        finished.report();
        said.send(()).ok(); // nobody waits when there was a further Ctrl-C
    });
    tokio::select! {
        _ = saying => {}
        _ = interrupts.recv() => {}
    }
    std::process::exit(code.into())
}

async fn execute(args: ExecArgs, interrupts: &mut Signal) -> Finished {
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
    let form = match (args.json, args.ndjson) {
        (true, _) => Form::Object,
        (false, true) => Form::Frames,
        (false, false) => Form::Output,
    };
    let call = tokio::select! {
        call = into_call(args) => call,
        _ = interrupts.recv() => return attached::leaving(Finished::interrupted_unasked()),
    };
    match call {
        Ok(call) => attached::run(&client, &workspace, &call, form, interrupts).await,
        Err(complaint) => Finished::failed(complaint),
    }
}

async fn into_call(args: ExecArgs) -> Result<ExecCall, String> {
    let stdin_b64 = match args.stdin {
        None => None,
        Some(file) => Some(STANDARD.encode(read_stdin(&file).await?)),
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
        // The answer begins with the program, so that its id is known and a wait for the instance is told from a program
        // that prints nothing.
        announce: true,
    })
}

async fn read_stdin(file: &str) -> Result<Vec<u8>, String> {
    let unreadable = |error: io::Error| format!("`{file}` can't be read for --stdin: {error}");
    let most = MAX_STDIN_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    if file == "-" {
        tokio::io::stdin().take(most).read_to_end(&mut bytes).await
    } else {
        let file = tokio::fs::File::open(file).await.map_err(unreadable)?;
        file.take(most).read_to_end(&mut bytes).await
    }
    .map_err(unreadable)?;
    if bytes.len() > MAX_STDIN_BYTES {
        return Err(format!(
            "`{file}` has more than the {MAX_STDIN_BYTES} bytes that --stdin may have"
        ));
    }
    Ok(bytes)
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must have the form NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{ExecArgs, parse_variable};

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        exec: ExecArgs,
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
