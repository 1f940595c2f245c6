//! The argv as the one text that `patterns.rs` describes, and back.

use std::ops::Range;

use super::Failure;

/// They read a script behind a cluster of options with a `c` in it, and other options may stand between.
const SHELLS: &[&str] = &[
    "sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "busybox", "su", "runuser",
];

/// They hand their arguments on to a shell, on the instance or elsewhere.
const HAND_ON: &[&str] = &["ssh", "autossh", "watch", "eval", "parallel"];

/// They take `NAME=VALUE`, and all of the word for it.
const TAKE_ASSIGNMENTS: &[&str] = &["env", "sudo", "doas", "make"];

/// An argv as one text.
pub(super) struct Text {
    /// Each word after a NUL, and a script after a NUL and a line feed.
    pub(super) text: String,
    /// Which words are scripts.
    is_script: Vec<bool>,
    /// Where the scripts are, in order.
    scripts: Vec<Range<usize>>,
}

impl Text {
    /// # Errors
    /// [`Failure::Borders`] when a word holds a NUL.
    pub(super) fn of(cmd: &[String]) -> Result<Self, Failure> {
        let is_script = scripts(cmd);
        let mut text = String::with_capacity(cmd.iter().map(|word| word.len() + 2).sum());
        let mut scripts = Vec::new();
        for (word, is_script) in cmd.iter().zip(&is_script) {
            if word.contains('\0') {
                return Err(Failure::Borders);
            }
            text.push('\0');
            if *is_script {
                text.push('\n');
                scripts.push(text.len()..text.len() + word.len());
            }
            text.push_str(word);
        }
        Ok(Self {
            text,
            is_script,
            scripts,
        })
    }

    /// Whether a shell reads what stands at `place`.
    pub(super) fn is_in_script(&self, place: usize) -> bool {
        let script = self.scripts.partition_point(|script| script.end <= place);
        self.scripts
            .get(script)
            .is_some_and(|script| script.contains(&place))
    }

    /// Whether a program takes the word behind `border` as it is.
    pub(super) fn is_taken_whole(&self, border: usize) -> bool {
        let words_before = self.text.get(..border).unwrap_or_default();
        takes_whole(words_before.rsplit('\0').next().unwrap_or_default())
    }

    /// The words of `rewritten`, which was made from this text.
    ///
    /// # Errors
    /// [`Failure::Borders`] when a pattern took a border.
    pub(super) fn split(&self, rewritten: &str) -> Result<Vec<String>, Failure> {
        let mut pieces = rewritten.split('\0').skip(1);
        let words = self
            .is_script
            .iter()
            .map(|is_script| {
                let piece = pieces.next()?;
                let word = if *is_script {
                    piece.strip_prefix('\n')?
                } else {
                    piece
                };
                Some(word.to_owned())
            })
            .collect::<Option<Vec<_>>>()
            .ok_or(Failure::Borders)?;
        if pieces.next().is_some() {
            Err(Failure::Borders)
        } else {
            Ok(words)
        }
    }
}

/// Whether the word behind `before` is what it says, and no script: behind an option, an assignment, `env`.
fn takes_whole(before: &str) -> bool {
    let name = before.rsplit('/').next().unwrap_or_default();
    before.starts_with('-') != before.contains('=') || TAKE_ASSIGNMENTS.contains(&name)
}

/// Who reads the words that are next.
#[derive(Clone, Copy)]
enum Reader {
    Program,
    /// A shell, up to its first operand.
    Shell {
        has_c: bool,
        /// Whether the next word is the name of a setting: `-o pipefail`.
        names_setting: bool,
    },
    /// Hands them on to a shell.
    HandsOn,
}

/// For each word whether a shell reads it.
fn scripts(cmd: &[String]) -> Vec<bool> {
    let mut reader = Reader::Program;
    // The last word but for `--`.
    let mut last = "";
    let mut scripts = Vec::with_capacity(cmd.len());
    for word in cmd {
        let is_option = word.is_empty() || word.starts_with(['-', '+']);
        let is_script = !is_option && (takes_script(last) || reader.reads_script(last, word));
        scripts.push(is_script || word.starts_with("--command="));
        reader = reader.after(word);
        if word != "--" {
            last = word;
        }
    }
    scripts
}

/// `-c` of whatever program: `flock -c`, `script -qec`; longer ones are words, as `-exec` of find.
fn takes_script(option: &str) -> bool {
    let ends_in_c = |letters: &str| letters.len() <= 3 && letters.ends_with('c');
    option == "--command" || cluster(option).is_some_and(ends_in_c)
}

/// The letters of an option that is nothing else.
fn cluster(word: &str) -> Option<&str> {
    let letters = word.strip_prefix(['-', '+'])?;
    let is_cluster = !letters.is_empty() && letters.bytes().all(|letter| letter.is_ascii_alphabetic());
    is_cluster.then_some(letters)
}

impl Reader {
    /// Of a word that is no option.
    fn reads_script(self, last: &str, word: &str) -> bool {
        match self {
            Self::Program => false,
            Self::Shell { has_c, names_setting } => has_c && !names_setting,
            // A single word is read as one anyway.
            Self::HandsOn => !takes_whole(last) && word.contains([' ', '\t', '\n', ';', '|', '&']),
        }
    }

    fn after(self, word: &str) -> Self {
        let name = word.rsplit('/').next().unwrap_or_default();
        match self {
            Self::HandsOn => self,
            _ if HAND_ON.contains(&name) => Self::HandsOn,
            _ if SHELLS.contains(&name) => Self::Shell {
                has_c: false,
                names_setting: false,
            },
            Self::Shell { has_c, .. } if word.starts_with(['-', '+']) => {
                let letters = cluster(word).unwrap_or_default();
                Self::Shell {
                    has_c: has_c || letters.contains('c'),
                    names_setting: letters.ends_with(['o', 'O']),
                }
            }
            Self::Shell {
                has_c,
                names_setting: true,
            } => Self::Shell {
                has_c,
                names_setting: false,
            },
            Self::Shell { .. } | Self::Program => Self::Program,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_reads_is_a_script() {
        let table: [(&[&str], &[&str]); 21] = [
            (&["sh", "-c", "X", "a"], &["X"]),
            (&["/bin/bash", "-ce", "X", "a"], &["X"]),
            (&["bash", "-c", "-e", "--", "X", "a"], &["X"]),
            (&["bash", "-euo", "pipefail", "-c", "X"], &["X"]),
            (&["bash", "-c", "-o", "pipefail", "X"], &["X"]),
            (&["sudo", "busybox", "sh", "-cx", "X"], &["X"]),
            (&["su", "app", "-c", "X"], &["X"]),
            (&["su", "app", "-c", "--", "X"], &["X"]),
            (&["runuser", "--command", "X"], &["X"]),
            (&["runuser", "--command=X"], &["--command=X"]),
            (&["ssh", "-p", "22", "host", "X a", "-x y", "b"], &["X a"]),
            (
                &["ssh", "host", "env", "X a", "-e", "X a", "A=b c", "X a"],
                &["A=b c"],
            ),
            (&["ssh", "host", "--", "X a"], &["X a"]),
            (&["bash", "-s", "a", "b"], &[]),
            (&["bash", "file", "-ce", "a"], &[]),
            (&["su", "-", "app", "-lc", "X"], &["X"]),
            (&["script", "-qec", "X", "log"], &["X"]),
            (&["find", "-exec", "a", "b"], &[]),
            (&["tar", "-cf", "a b"], &[]),
            (&["sh", "-c", ""], &[]),
            (&["echo", "a; b"], &[]),
        ];
        for (cmd, expected) in table {
            let cmd: Vec<String> = cmd.iter().map(|word| (*word).to_owned()).collect();
            let read = scripts(&cmd).into_iter().zip(&cmd);
            let read: Vec<&str> = read
                .filter(|(is_script, _)| *is_script)
                .map(|(_, word)| word.as_str())
                .collect();
            assert_eq!(read, expected, "{cmd:?}");
        }
    }
}
