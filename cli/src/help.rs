// SPDX-License-Identifier: Apache-2.0
//! Full help, and errors of the command line on one line.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::output;

/// Prints clap's help, version or error.
pub(crate) fn show(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = output::print(&error.to_string());
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::complain_line("a verb is missing; see bulkhead --help");
            ExitCode::from(2)
        }
        ErrorKind::InvalidUtf8 => {
            output::complain_line(&not_utf8(std::env::args_os()));
            ExitCode::from(2)
        }
        _ => {
            output::complain_line(&one_line(&error.to_string()));
            ExitCode::from(2)
        }
    }
}

/// An error that names the argument which is not UTF-8; clap's does not.
fn not_utf8(mut args: impl Iterator<Item = OsString>) -> String {
    let argument = args.find(|argument| argument.to_str().is_none());
    let argument = argument.unwrap_or_default();
    format!(
        "argument {:?}: is not UTF-8: rename the file, or link to it",
        argument.display().to_string()
    )
}

/// The message and the tip of clap's error, without the usage text.
fn one_line(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(str::trim);
    let wanted = paragraphs.filter(|p| {
        p.starts_with("error:") || p.starts_with("tip:") || p.starts_with("[possible values")
    });
    let words = wanted.flat_map(str::split_whitespace);
    let line = words.collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    line.replace(" tip: ", "; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    #[test]
    fn command_line_wrong_is_told_in_one_line_that_names_argument_and_value() {
        for (args, named) in [
            (
                &["run", "--kernel", "k", "--cpus", "x"][..],
                &["--cpus", "'x'"][..],
            ),
            (
                &["run", "--kernel", "k", "--mem", "12Q"],
                &["--mem", "'12Q'"],
            ),
            (
                &["run", "--kernel", "k", "--cpu", "2"],
                &["'--cpu <MODEL>'", "'2'", "--cpus"],
            ),
            (&["run"], &["--kernel"]),
            (
                &["run", "--config", "a", "--mem", "1G"],
                &["--config", "--mem"],
            ),
            (&["inspect", "a/b"], &["'a/b'"]),
            (&["insepct", "a"], &["'insepct'", "'inspect'"]),
        ] {
            let args = ["bulkhead"].iter().chain(args);
            let error = Cli::try_parse_from(args).unwrap_err();
            let line = one_line(&error.to_string());
            assert!(!line.contains('\n') && !line.contains("Usage"), "{line}");
            for name in named {
                assert!(line.contains(name), "{line}");
            }
        }
    }
}
