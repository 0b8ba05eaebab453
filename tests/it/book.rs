//! The book under `docs/`: what it tells its readers to type works, what it shows is what is printed, its links lead
//! somewhere.
//!
//! A fenced block of a chapter says by its first line what is to be done with it:
//!
//! | block | what is done |
//! |---|---|
//! | `console` | each line that begins with `$ ` is run, in one folder a chapter and in order; it must succeed, and print what follows it |
//! | `console,figures` | the same; numbers are those of the machine on which the book was written, and match any |
//! | `console,exit=2` | its last command must end with that exit code; of what it says the error is shown |
//! | `console,needs=gpu` | cannot run here, for one of the reasons in [`NEEDS`]: its commands and flags must exist |
//! | `toml,file=NAME` | written to that file of the folder, for the commands that follow |
//! | `toml` | a whole `run.toml`, which must be valid |
//! | `toml,part` | lines of one |
//!
//! In what is shown, a line of `...` stands for any lines, and `...` within a line for anything. Shown is standard output,
//! and behind it the error, if any; what is told on standard error else is left out. In indented blocks, in the workflows of
//! `docs/ci` and in `code` of a text every command and flag of `kiln` must exist.

mod chapter;
mod flags;
mod links;
mod play;
mod shown;

use std::collections::BTreeSet;

use chapter::{Chapter, SUMMARY, chapters_of_summary, repository};
use flags::Flags;

/// Why a block may not be run: what it takes that a test has not; `elsewhere`: another test runs just that, at length.
const NEEDS: [&str; 6] = ["data", "gpu", "network", "minutes", "checkout", "elsewhere"];

/// All that is wrong with a chapter.
fn problems(chapter: &Chapter) -> Vec<String> {
    let mut problems = Vec::new();
    flags::check(chapter, &mut Flags::new(), &mut problems);
    play::check(chapter, &mut problems);
    problems
}

fn check(file: &str) {
    let problems = problems(&Chapter::read(file));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

macro_rules! chapters {
    ($($name:ident => $file:literal,)*) => {
        $(#[test] fn $name() { check($file); })*
        const CHECKED: &[&str] = &[$($file),*];
    };
}

chapters! {
    introduction => "introduction.md",
    quick_start => "quick-start.md",
    your_data => "your-data.md",
    choosing => "choosing.md",
    billion => "billion.md",
    scale => "scale.md",
    distributed => "distributed.md",
    serving => "serving.md",
    reading_a_report => "reading-a-report.md",
    experiments => "experiments.md",
    comparing => "comparing.md",
    interchange => "interchange.md",
    peers => "peers.md",
    backend => "backend.md",
    index_kinds => "index-kinds.md",
    format => "format.md",
    performance => "performance.md",
    troubleshooting => "troubleshooting.md",
}

#[test]
fn the_summary_names_every_chapter_and_every_chapter_is_checked() {
    let named = chapters_of_summary();
    let checked: BTreeSet<String> = CHECKED.iter().map(ToString::to_string).collect();
    assert_eq!(named, checked, "{SUMMARY} against the list in tests/it/book.rs");
    let entries = std::fs::read_dir(repository("docs")).expect("docs");
    let names = entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned());
    let there: BTreeSet<String> = names.filter(|name| name.ends_with(".md") && name != SUMMARY).collect();
    assert_eq!(named, there, "{SUMMARY} against the files of docs");
}

#[test]
fn every_link_leads_somewhere() {
    let mut problems = Vec::new();
    for file in CHECKED.iter().copied().chain([SUMMARY]) {
        links::check(&Chapter::read(file), &mut problems);
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn commands_of_the_workflows_exist() {
    let (mut flags, mut problems) = (Flags::new(), Vec::new());
    for file in ["docs/ci/benchmark.yml", "docs/ci/nightly-noise.yml"] {
        let text = std::fs::read_to_string(repository(file)).expect("a workflow");
        let calls = flags::check_text(file, &text, &mut flags, &mut problems);
        assert!(calls >= 2, "{file}: commands were not found");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The checks must be able to fail: a chapter full of what must be found.
#[test]
fn what_is_wrong_is_found() {
    let wrong = |text: &str| problems(&Chapter::of("wrong.md", text)).join("\n");
    let found = |text: &str, parts: &[&str]| {
        let told = wrong(text);
        assert!(parts.iter().all(|part| told.contains(part)), "{text}\ngave\n{told}");
    };
    found("```console\n$ kiln devices --jsno -\n```\n", &["wrong.md:2", "--jsno"]);
    found("```console,needs=data\n$ kiln build --datasett a.hdf5\n```\n", &["wrong.md:2", "--datasett"]);
    found("```console,needs=data\n$ kiln build --index tree --dataset a\n```\n", &["wrong.md:2", "tree"]);
    found("```console,needs=luck\n$ kiln devices\n```\n", &["wrong.md:1", "luck"]);
    found("Use `kiln bild --out x` for it.\n", &["wrong.md:1", "bild"]);
    found("Use `kiln build --ouut x`.\n", &["wrong.md:1", "--ouut"]);
    found("\n    kiln search x.kiln --quries q\n", &["wrong.md:2", "--quries"]);
    found("```console\n$ kiln inspect nothing.kiln\n```\n", &["wrong.md:2", "exit code 1", "nothing.kiln"]);
    found("```console,exit=2\n$ kiln --version\n```\n", &["wrong.md:2", "exit code 0"]);
    found("```console\n$ kiln --version\nkiln 99.1\n```\n", &["wrong.md:2", "kiln 99.1"]);
    found("```console\n$ kiln --version\n```\n\n```sh\nkiln --version\n```\n", &["wrong.md:5", "sh"]);
    found("```toml,part\nheld_up = 0.2\n```\n", &["wrong.md:1", "held_up"]);
    assert_eq!(wrong("```console,figures\n$ kiln --version\nkiln 99.1.7\n```\n\nand `kiln bench --quick`.\n"), "");
    assert_eq!(wrong("```console\n$ kiln --help\n...\nUsage: kiln...\n...\n```\n"), "");
}
