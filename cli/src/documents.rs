//! Documents show commands. Each of them is read by the definition of the command line that people use.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use crate::Cli;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// All documents, with their text.
fn documents() -> Vec<(PathBuf, String)> {
    let root = Path::new(ROOT);
    let mut paths = vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("SECURITY.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "md") => paths.push(path),
                false => {}
            }
        }
    }
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The lines of blocks for a shell, with those that go on in the next one joined.
fn shell_lines(text: &str) -> Vec<String> {
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let joined = blocks.map(|block| block.replace("\\\n", " "));
    joined.flat_map(|block| block.lines().map(|line| line.trim().to_string()).collect::<Vec<_>>()).collect()
}

/// The words of a command up to a comment, a pipe or a redirection, as a shell reads them.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '&' | '>' | ';') => break,
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The words behind `sv3`, if the line is a command of ours.
fn ours(line: &str) -> Option<Vec<String>> {
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    line.starts_with("sv3 ").then(|| words(line))
}

#[test]
fn every_command_in_a_block_is_one_that_the_command_line_reads() {
    let mut read = 0;
    for (path, text) in documents() {
        for line in shell_lines(&text) {
            let Some(words) = ours(&line) else { continue };
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{}: {line}\n{error}", path.display());
            }
            read += 1;
        }
    }
    assert!(read > 35, "{read} commands");
}

#[test]
fn every_command_in_a_sentence_has_verbs_and_options_that_there_are() {
    let mut read = 0;
    for (path, text) in documents() {
        // Other blocks show what programs print.
        let prose: String = text.split("```").step_by(2).collect();
        for span in prose.split('`').skip(1).step_by(2) {
            let span = span.replace(['\n', '[', ']', '\\'], " ");
            let Some(words) = ours(&span) else { continue };
            let mut command = &Cli::command();
            // What stands behind dots may be anything.
            for word in words.iter().skip(1).take_while(|word| *word != "...") {
                if let Some(option) = word.strip_prefix("--") {
                    let name = option.split('=').next().unwrap_or_default();
                    // What stands for any setting, and what each command has.
                    let any = ["SETTING", "json", "control", "help"].contains(&name);
                    let known = command.get_arguments().any(|argument| argument.get_long() == Some(name));
                    assert!(any || known, "{}: `{span}`: there is no --{name}", path.display());
                } else if command.has_subcommands() && !command.is_allow_external_subcommands_set() {
                    let Some(found) = command.find_subcommand(word) else {
                        panic!("{}: `{span}`: there is no {word}", path.display());
                    };
                    command = found;
                    read += 1;
                }
            }
        }
    }
    assert!(read > 150, "{read} verbs");
}

#[test]
fn words_are_a_shells() {
    assert_eq!(words("sv3 run --attach 'nic:A zero-copy' # what"), ["sv3", "run", "--attach", "nic:A zero-copy"]);
    assert_eq!(words("sv3 capture web -w - | wireshark -k"), ["sv3", "capture", "web", "-w", "-"]);
    assert_eq!(ours("sudo sv3 status").unwrap(), ["sv3", "status"]);
    assert_eq!(ours("echo sv3 "), None);
    assert_eq!(shell_lines("x\n```sh\nsv3 a \\\n  b\n```\n```json\nsv3 c\n```"), ["sv3 a    b"]);
}
