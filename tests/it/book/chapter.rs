//! A chapter as its blocks and its text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub const SUMMARY: &str = "SUMMARY.md";

/// A file of the repository.
pub fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The chapters that the summary links to.
pub fn chapters_of_summary() -> BTreeSet<String> {
    let text = std::fs::read_to_string(repository("docs").join(SUMMARY)).expect("a summary");
    let target = |line: &str| Some(line.split_once("](")?.1.split_once(')')?.0.to_string());
    text.lines().filter_map(target).collect()
}

/// A chapter of the book.
pub struct Chapter {
    pub file: String,
    pub blocks: Vec<Block>,
    /// What is not code, each line with its number; of inline code the marks are kept.
    pub prose: Vec<(usize, String)>,
}

/// Lines of code.
pub struct Block {
    /// The line of its first line of code, or of its fence.
    pub line: usize,
    /// What stands behind the fence, at its commas; `None` where the block is indented.
    pub fence: Option<Vec<String>>,
    /// Its lines with their numbers.
    pub lines: Vec<(usize, String)>,
}

impl Block {
    /// `console`, `toml`, ...; empty where the block is indented.
    pub fn language(&self) -> &str {
        self.fence.as_ref().and_then(|words| words.first()).map_or("", String::as_str)
    }

    /// Whether the fence has this word.
    pub fn is(&self, word: &str) -> bool {
        self.fence.as_ref().is_some_and(|words| words[1..].iter().any(|other| other == word))
    }

    /// What follows `key=` behind the fence.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.fence.as_ref()?[1..]
            .iter()
            .find_map(|word| word.split_once('=').filter(|(k, _)| *k == key).map(|(_, v)| v))
    }

    pub fn text(&self) -> String {
        self.lines.iter().map(|(_, line)| format!("{line}\n")).collect()
    }
}

impl Chapter {
    /// A file of `docs`, with what it includes.
    pub fn read(file: &str) -> Self {
        let path = repository("docs").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self::of(file, &with_includes(&text))
    }

    pub fn of(file: &str, text: &str) -> Self {
        let (mut blocks, mut prose): (Vec<Block>, Vec<(usize, String)>) = (Vec::new(), Vec::new());
        let (mut open, mut before_empty) = (None::<Block>, true);
        for (line, text) in (1..).zip(text.lines()) {
            if let Some(block) = &mut open {
                match text.trim_start().starts_with("```") {
                    true => blocks.extend(open.take()),
                    false => block.lines.push((line, text.to_string())),
                }
                continue;
            }
            let in_block =
                blocks.last().is_some_and(|b| b.fence.is_none() && b.lines.last().map(|l| l.0) == Some(line - 1));
            if let Some(fence) = text.trim_start().strip_prefix("```") {
                let words = fence.split(',').map(|word| word.trim().to_string()).collect();
                open = Some(Block { line, fence: Some(words), lines: Vec::new() });
            } else if let Some(code) = text.strip_prefix("    ").filter(|_| before_empty || in_block) {
                if in_block {
                    blocks.last_mut().expect("one is open").lines.push((line, code.to_string()));
                } else {
                    blocks.push(Block { line, fence: None, lines: vec![(line, code.to_string())] });
                }
            } else {
                prose.push((line, text.to_string()));
            }
            before_empty = text.trim().is_empty();
        }
        assert!(open.is_none(), "{file}: a fenced block does not end");
        Self { file: file.to_string(), blocks, prose }
    }
}

/// The text with the files that it includes, as mdBook has them; a part of a file is included whole.
fn with_includes(text: &str) -> String {
    let mut whole = String::with_capacity(text.len());
    for line in text.lines() {
        match line.strip_prefix("{{#include ").and_then(|rest| rest.strip_suffix("}}")) {
            None => whole.push_str(line),
            Some(file) => {
                let file = file.split(':').next().expect("a first part");
                let path = repository("docs").join(file);
                let included = std::fs::read_to_string(&path);
                whole.push_str(&included.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
            }
        }
        whole.push('\n');
    }
    whole
}
