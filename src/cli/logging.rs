//! The process's log: lines on stderr, for people or for machines.

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::failure::CliError;
use crate::settings::{Log, LogFormat};

/// Begins to log, and takes in what actix says through the `log` crate.
pub(super) fn start(log: &Log) -> Result<(), CliError> {
    subscriber(log, std::io::stderr)?
        .try_init()
        .map_err(|_| CliError::Usage("the log was started twice".to_owned()))
}

fn subscriber<W>(log: &Log, writer: W) -> Result<impl Subscriber + Send + Sync, CliError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| CliError::Usage(format!("`log.filter` is not usable: {error}")))?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false);
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    Ok(tracing_subscriber::registry()
        .with(filter)
        .with(lines.with_filter(filter_fn(may_be_logged))))
}

/// What libraries say below `info` may hold keys, command lines and output (russh logs packets), so it is not logged
/// whatever the filter says. Adit's own crates keep such things out of every level.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let root = metadata.target().split("::").next().unwrap_or_default();
    let is_own = ["adit", "adit_actors", "adit_emulator"].contains(&root);
    is_own || *metadata.level() <= Level::INFO
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::subscriber;
    use crate::settings::{Log, LogFormat};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Log {
            format,
            filter: filter.to_owned(),
        };
        let subscriber = subscriber(&log, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "russh::client", "library-info");
            tracing::debug!(target: "russh::client", "library-debug");
            tracing::trace!(target: "aditlike", "library-trace");
            tracing::debug!(target: "adit::http", number = 7, "own-debug");
            tracing::trace!(target: "adit_actors", "own-trace");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn libraries_are_never_heard_below_info() {
        for (filter, heard) in [
            ("info", &["library-info"][..]),
            ("trace", &["library-info", "own-debug", "own-trace"]),
            ("warn,adit=debug", &["own-debug"]),
        ] {
            let text = logged(LogFormat::Text, filter);
            for message in [
                "library-info",
                "library-debug",
                "library-trace",
                "own-debug",
                "own-trace",
            ] {
                assert_eq!(
                    text.contains(message),
                    heard.contains(&message),
                    "{filter}: {message}"
                );
            }
        }
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, "trace");
        let objects: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(objects.len(), 3);
        assert_eq!(objects[1]["fields"]["number"], 7);
    }
}
