// SPDX-License-Identifier: Apache-2.0
//! The guide is held against the command line: what it tells people to type is understood, and every
//! verb, flag and option is among it.

use std::collections::BTreeSet;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, Parser};
use schemars::{JsonSchema, schema_for};
use spec::{DiskSpec, LimitsSpec, NetSpec, VhostUserSpec};

use super::Cli;

const GUIDE: &str = include_str!("../../docs/guide.md");
/// Options whose values are words, or begin with one.
const WORDS: [&str; 9] = [
    "disks engine=uring",
    "disks engine=threads",
    "nets forward=tcp:",
    "nets forward=udp:",
    "vhost_user type=fs",
    "vhost_user type=vsock",
    "vhost_user type=rng",
    "vhost_user type=blk",
    "vhost_user type=net",
];

/// The lines of the guide's code, with those that go on joined.
fn code() -> Vec<String> {
    // The language of the code that a line is in.
    let mut language = None;
    let mut lines = Vec::new();
    let mut joined = String::new();
    for line in GUIDE.lines() {
        if let Some(behind) = line.strip_prefix("```") {
            language = language.is_none().then_some(behind);
            continue;
        }
        // What names no language is for a shell.
        if language == Some("") {
            match line.strip_suffix('\\') {
                Some(part) => joined.push_str(part),
                None => lines.push(std::mem::take(&mut joined) + line),
            }
        }
    }
    lines
}

/// Those that begin with our name, as a shell parts them; up to where the command ends.
fn commands() -> Vec<Vec<String>> {
    let lines = code();
    let ours = lines.iter().filter(|line| line.starts_with("bulkhead "));
    ours.map(|line| words(line)).collect()
}

fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            '#' | '|' | '>' | '&' if !quoted && words.last().is_some_and(String::is_empty) => break,
            c => {
                if let Some(word) = words.last_mut() {
                    word.push(c);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What a command line says: its verb, the flags of that, and the options of those that have any.
fn said(verb: &str, matches: &ArgMatches, all: &mut BTreeSet<String>) {
    for id in matches.ids() {
        let id = id.as_str();
        if matches.value_source(id) != Some(ValueSource::CommandLine) {
            continue;
        }
        all.insert(format!("{verb} {id}"));
        let values = matches.get_raw(id).into_iter().flatten();
        for option in values.flat_map(|value| value.to_str().unwrap().split(',')) {
            let (key, _) = option.split_once('=').unwrap_or((option, ""));
            all.insert(format!("{id} {key}"));
            for words in WORDS {
                let (flag, start) = words.split_once(' ').unwrap();
                if flag == id && option.starts_with(start) {
                    all.insert(words.into());
                }
            }
        }
    }
}

/// The options of a flag: they are named as in a document.
fn options<T: JsonSchema>(id: &str, all: &mut BTreeSet<String>) {
    let schema = schema_for!(T);
    let properties = schema.get("properties").unwrap().as_object().unwrap();
    let keys = properties.keys().map(|key| key.replace('_', "-"));
    all.extend(keys.map(|key| format!("{id} {key}")));
}

#[test]
fn guide_tells_nothing_that_is_not_understood() {
    let commands = commands();
    for words in &commands {
        let parsed = Cli::try_parse_from(words);
        assert!(parsed.is_ok(), "{words:?}\n{}", parsed.unwrap_err());
    }
    let count = commands.len();
    assert!(count > 20, "only {count} commands were found");
}

#[test]
fn guide_has_an_example_of_every_verb_flag_and_option() {
    let (mut wanted, mut found) = (BTreeSet::new(), BTreeSet::new());
    for words in commands() {
        let matches = Cli::command().get_matches_from(words);
        let (verb, inner) = matches.subcommand().unwrap();
        found.insert(verb.to_owned());
        said("bulkhead", &matches, &mut found);
        said(verb, inner, &mut found);
    }
    let command = Cli::command();
    wanted.extend(command.get_subcommands().map(|verb| verb.get_name().into()));
    for verb in command.get_subcommands().chain([&command]) {
        let flags = verb.get_arguments();
        wanted.extend(flags.map(|flag| format!("{} {}", verb.get_name(), flag.get_id())));
    }
    options::<DiskSpec>("disks", &mut wanted);
    options::<NetSpec>("nets", &mut wanted);
    options::<VhostUserSpec>("vhost_user", &mut wanted);
    options::<LimitsSpec>("limits", &mut wanted);
    wanted.extend(WORDS.map(String::from));
    assert!(wanted.len() > 100, "{wanted:?}");
    let missing: Vec<_> = wanted.difference(&found).collect();
    assert!(missing.is_empty(), "no example of {missing:?}");
}
