// SPDX-License-Identifier: Apache-2.0
//! The small image that takes our binaries and the command into the inner host.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Job;
use crate::command::file_name;
use crate::cpio::Archive;

/// Writes the image for `job`; `preamble` is shell to run before the command.
pub(crate) fn write(job: &Job, preamble: &str, image: &Path) -> Result<()> {
    let mut archive = Archive::new();
    archive.directory("bin")?;
    archive.directory("lab")?;
    for binary in &job.binaries {
        archive.program_from(&format!("bin/{}", file_name(binary)), binary)?;
    }
    let words: Vec<String> = job.command.iter().map(|word| quoted(word)).collect();
    let script = format!("{preamble}\nexec {}\n", words.join(" "));
    archive.program("lab/command", script.as_bytes())?;
    fs::write(image, archive.finish()?).with_context(|| format!("cannot write {}", image.display()))
}

/// `word` as the shell reads it back unchanged.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quote_in_a_word_survives_the_shell() {
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
