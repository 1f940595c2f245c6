//! Text to standard output, for commands whose reader may leave.

use std::io;

use tokio::io::AsyncWriteExt as _;

/// Writes the text with one line break at its end. False when whoever read has seen enough.
///
/// # Errors
/// One line for people.
pub(super) async fn print(text: &str) -> Result<bool, String> {
    match write(text).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(format!("output can't be written: {error}")),
    }
}

async fn write(text: &str) -> io::Result<()> {
    let mut stdout = tokio::io::stdout();
    stdout.write_all(text.trim_end().as_bytes()).await?;
    stdout.write_all(b"\n").await?;
    stdout.flush().await
}
